"""The command `rar-prompt`: verbs to public functions."""

import sys
from contextlib import nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Literal

from shared_core.cli import Verb
from shared_core.cli import run as run_command

from rar_prompt.backends.open import Endpoint
from rar_prompt.chat import Sampling
from rar_prompt.generators import GenOptions
from rar_prompt.settings import RunSettings, SamplingChange, Spending

if TYPE_CHECKING:
    from rar_prompt.chat import Backend

SUMMARY = "Rephrase and respond: better answers by restating the question, and statistics that say whether it helped."


def ask(
    question: str,
    method: str = "two-step",
    model: str = "smollm2",
    rephraser: str | None = None,
    choices: list[str] | None = None,
    kind: str | None = None,
    templates: str = "paper",
    sampling: Sampling = Sampling(max_tokens=256),
    endpoint: Endpoint = Endpoint(),
    models: str | None = None,
    prices: str | None = None,
    json: bool = False,
) -> None:
    """Ask one question and print its rephrasing, the answer, tokens and cost.

    Args:
        question: the question.
        method: plain, cot, one-step, one-step:WORDING, two-step, two-step-cot, ... and *K for K votes.
        model: smollm2 (embedded), local:PATH, http://HOST/v1#MODEL, replay:RUN, scripted:FILE, or a name of --models.
        rephraser: another model that rephrases; the model itself by default.
        choices: of a multiple-choice question, comma separated.
        kind: how to read the answer: yes-no, letters, date, choice, number, text.
        templates: paper, official-gpt4, official-gpt35, or a file.
        sampling: temperature and the like.
        endpoint: how the models are reached.
        models: YAML file of named models.
        prices: YAML file of prices per million tokens.
        json: print everything as JSON instead of text.
    """
    from rar_prompt.ask import ask_one
    from rar_prompt.console import print_answer
    from rar_prompt.methods import plan
    from rar_prompt.prices import load_prices
    from rar_prompt.templates import load_templates

    texts = load_templates(templates)
    chosen, costs = plan(method, texts), load_prices(prices)
    backends = _open([model, rephraser], endpoint, models)
    answer = ask_one(
        question,
        chosen,
        backends[model],
        backends[rephraser] if rephraser else None,
        templates=texts,
        sampling=sampling,
        choices=choices or (),
        kind=kind,
        prices=costs,
    )
    print_answer(answer, json)


def run(
    tasks: str,
    methods: list[str] = ["plain", "one-step", "two-step"],  # noqa: B006
    model: list[str] = ["smollm2"],  # noqa: B006
    rephraser: list[str] | None = None,
    templates: str = "paper",
    sampling: Sampling = Sampling(),
    rephrase_sampling: SamplingChange = SamplingChange(),
    n: int | None = None,
    seed: int = 0,
    samples: int = 1,
    gen: GenOptions = GenOptions(),
    exemplars: str | None = None,
    endpoint: Endpoint = Endpoint(),
    models: str | None = None,
    spending: Spending = Spending(),
    out: str | None = None,
) -> int:
    """Run tasks x methods x models into a folder; the same command, or `resume`, goes on after a kill.

    Args:
        tasks: generators (last-letters, coin-flip, even-day, ...) or files (jsonl, csv, parquet, official json), comma
            separated.
        methods: plain, cot, one-step, one-step:WORDING, one-step-cot, two-step, two-step-cot, two-step:given, few-shot,
            few-shot-repaired, each with *K for K votes.
        model: responders: smollm2, local:PATH, http://HOST/v1#MODEL, replay:RUN, scripted:FILE, or names of --models.
        rephraser: models that rephrase for every responder (the transfer matrix); each by itself by default.
        templates: paper, official-gpt4, official-gpt35, or a file.
        sampling: of every call.
        rephrase_sampling: of rephrasing calls, what differs.
        n: the first n questions of each task; by default all of a file, 100 of a generator.
        seed: of the generators.
        samples: independent answers per question (errors are then clustered by question).
        gen: options of the generators.
        exemplars: jsonl file of worked examples for few-shot methods.
        endpoint: concurrency, limits, timeouts, the key's environment variable; may change on resume.
        models: YAML file of named models.
        spending: price file and budget; may change on resume.
        out: run folder; runs/rar-prompt-run by default.
    """
    from rar_prompt.console import print_run
    from rar_prompt.run import check_finished, run_to_folder

    settings = RunSettings(
        tasks=tuple(task.strip() for task in tasks.split(",")),
        methods=tuple(methods),
        models=tuple(model),
        rephrasers=tuple(rephraser or ()),
        templates=templates,
        sampling=sampling,
        rephrase_sampling=rephrase_sampling.of(sampling),
        n=n,
        seed=seed,
        samples=samples,
        gen=gen,
        exemplars=exemplars,
    )
    result = run_to_folder(settings, out, endpoint=endpoint, models=models, spending=spending)
    print_run(result, result["folder"])
    return check_finished(result)


def resume(folder: str, endpoint: Endpoint = Endpoint(), spending: Spending = Spending()) -> int:
    """Go on with a run: finished calls are taken from its record, failed ones are asked again.

    Args:
        folder: the run folder.
        endpoint: what differs from the last session; the rest is as it was.
        spending: the same.
    """
    from rar_prompt.console import print_run
    from rar_prompt.run import check_finished
    from rar_prompt.run import resume as resume_run

    result = resume_run(folder, endpoint=endpoint, spending=spending)
    print_run(result, folder)
    return check_finished(result)


def rephrase(
    tasks: str,
    model: str = "smollm2",
    out: str = "rephrased.jsonl",
    templates: str = "paper",
    sampling: Sampling = Sampling(),
    n: int | None = None,
    seed: int = 0,
    samples: int = 1,
    gen: GenOptions = GenOptions(),
    endpoint: Endpoint = Endpoint(),
    models: str | None = None,
    json: bool = False,
) -> int:
    """Rephrase every question of a task and write a task file with `rephrased`.

    Args:
        tasks: a generator or a file.
        model: the rephraser.
        out: the .jsonl file; calls are kept beside it, so that the same command goes on.
        templates: paper, official-gpt4, official-gpt35, or a file.
        sampling: temperature and the like.
        n: the first n questions; by default all of a file, 100 of a generator.
        seed: of the generator.
        samples: rephrasings per question.
        gen: options of the generator.
        endpoint: how the model is reached.
        models: YAML file of named models.
        json: print the result as JSON instead of text.
    """
    from rar_prompt.ask import rephrase_file
    from rar_prompt.console import print_mapping
    from rar_prompt.run import load_tasks
    from rar_prompt.templates import load_templates

    items = load_tasks(RunSettings((tasks,), (), (), n=n, seed=seed, gen=gen))
    texts = load_templates(templates)
    backend = _open([model], endpoint, models)[model]
    found = rephrase_file(items, backend, out, templates=texts, sampling=sampling, samples=samples)
    print_mapping({"out": out} | found, json)
    return int(found["failed"] > 0)


def respond(
    tasks: str,
    model: list[str] = ["smollm2"],  # noqa: B006
    cot: bool = False,
    templates: str = "paper",
    sampling: Sampling = Sampling(),
    n: int | None = None,
    endpoint: Endpoint = Endpoint(),
    models: str | None = None,
    spending: Spending = Spending(),
    out: str | None = None,
) -> int:
    """Answer questions whose rephrasings are given (by `rephrase`, by hand, by the official files).

    Args:
        tasks: a file with `rephrased` or `refined_question`.
        model: responders.
        cot: ask for steps.
        templates: paper, official-gpt4, official-gpt35, or a file.
        sampling: temperature and the like.
        n: the first n questions; all by default.
        endpoint: how the models are reached.
        models: YAML file of named models.
        spending: price file and budget.
        out: run folder; runs/rar-prompt-run by default.
    """
    method = "two-step-cot:given" if cot else "two-step:given"
    return run(
        tasks, [method], model, None, templates, sampling, n=n, endpoint=endpoint, models=models,
        spending=spending, out=out,
    )  # fmt: skip


def score(tasks: str, replies: str, out: str | None = None, json: bool = False) -> None:
    """Score replies that were made elsewhere.

    Args:
        tasks: the questions with their answers (jsonl, csv, parquet, official json).
        replies: jsonl file with `id` and `reply`, or a run folder, whose records are scored once more.
        out: write a row per question to this .jsonl file.
        json: print JSON instead of tables.
    """
    from rar_prompt.console import print_scores
    from rar_prompt.rescore import rescore

    print_scores(rescore(tasks, replies, out), json)


def compare(
    first: str, second: str, condition: str | None = None, against: str | None = None, json: bool = False
) -> None:
    """Compare two runs, or two conditions, on the questions that both answered: exact McNemar and intervals.

    Args:
        first: run folder before.
        second: run folder after (may be the same).
        condition: of the first run, e.g. "plain / my-model"; needed where it has several.
        against: of the second run.
        json: print JSON instead of tables.
    """
    from rar_prompt.console import print_comparison
    from rar_prompt.rescore import compare_runs

    print_comparison(compare_runs(first, second, condition, against), json)


def report(folder: str, csv: bool = False, json: bool = False) -> None:
    """Write a run's page and figures once more, and print its tables.

    Args:
        folder: the run folder.
        csv: also write conditions.csv and comparisons.csv.
        json: print the result as JSON instead of tables.
    """
    from rar_prompt.console import print_run
    from rar_prompt.rescore import rebuild_report

    print_run(rebuild_report(folder, csv), folder, json)


def replay(path: str, out: str | None = None, json: bool = False) -> None:
    """Re-derive the published figure from the public transcripts and list where the extractor disagrees with the marks.

    Args:
        path: a checkout of uclaml/Rephrase-and-Respond, or a part of it.
        out: write a page (.html) or everything as .json.
        json: print JSON instead of tables.
    """
    from rar_prompt.console import print_replay
    from rar_prompt.transcripts import replay as replay_logs

    print_replay(replay_logs(path), out, json)


def gen_(
    task: str,
    out: str | None = None,
    n: int | None = None,
    seed: int = 0,
    gen: GenOptions = GenOptions(),
    json: bool = False,
) -> None:
    """Generate questions with exact answers.

    Args:
        task: last-letters, coin-flip, even-day, even-month, even-year, compare-ages, date-arithmetic.
        out: .jsonl file; TASK.jsonl by default.
        n: questions; by default 100, or as many as there are.
        seed: the same seed gives the same questions.
        gen: options of the generator.
        json: print the result as JSON instead of text.
    """
    from rar_prompt.ask import write_items
    from rar_prompt.console import print_mapping
    from rar_prompt.generators import generate

    items = generate(task, n, seed, gen)
    target = out or f"{task}.jsonl"
    write_items(items, target)
    found = {"out": target, "questions": len(items), "first": items[0].question, "answer": items[0].answer}
    print_mapping(found, json)


def audit(
    tasks: str,
    model: list[str] = ["smollm2"],  # noqa: B006
    rephrasings: int = 5,
    templates: str = "paper",
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=256),
    n: int | None = None,
    seed: int = 0,
    gen: GenOptions = GenOptions(),
    endpoint: Endpoint = Endpoint(),
    models: str | None = None,
    out: str | None = None,
) -> None:
    """Rank questions by how differently they are read: K rephrasings each, every one answered.

    Args:
        tasks: a generator or a file; answers are not needed.
        model: one or several; each rephrases and answers for itself.
        rephrasings: per question and model.
        templates: paper, official-gpt4, official-gpt35, or a file.
        sampling: of the rephrasings; answers are greedy.
        n: the first n questions; by default all of a file, 100 of a generator.
        seed: of the generator.
        gen: options of the generator.
        endpoint: how the models are reached.
        models: YAML file of named models.
        out: run folder, for audit.jsonl, report.html and the calls; runs/rar-prompt-audit by default.
    """
    from rar_prompt.console import print_tables
    from rar_prompt.rescore import audit_to_folder
    from rar_prompt.run import load_tasks
    from rar_prompt.templates import load_templates

    items = load_tasks(RunSettings((tasks,), (), (), n=n, seed=seed, gen=gen))
    texts = load_templates(templates)
    backends = _open(list(model), endpoint, models)
    print_tables([audit_to_folder(items, [backends[name] for name in model], texts, rephrasings, sampling, out)])


def serve(
    model: str = "smollm2",
    rephraser: str | None = None,
    method: str = "two-step",
    host: str = "127.0.0.1",
    port: int = 8100,
    templates: str = "paper",
    sampling: Sampling = Sampling(temperature=None),
    endpoint: Endpoint = Endpoint(),
    models: str | None = None,
    cache: str | None = None,
) -> None:
    """Serve an OpenAI-compatible proxy that applies RaR to any client's requests.

    Args:
        model: the responder behind the proxy.
        rephraser: another model that rephrases.
        method: of requests whose `model` is no method's name.
        host: address to listen at.
        port: port; 0 takes a free one.
        templates: paper, official-gpt4, official-gpt35, or a file.
        sampling: of what a client leaves open.
        endpoint: how the models are reached.
        models: YAML file of named models.
        cache: journal file (.jsonl); identical requests are then answered from it.
    """
    from rar_prompt.caller import Caller
    from rar_prompt.journal import Journal
    from rar_prompt.serve import Proxy
    from rar_prompt.serve import serve as serve_proxy
    from rar_prompt.templates import load_templates

    texts = load_templates(templates)
    backends = _open([model, rephraser], endpoint, models)
    journal = Journal(cache) if cache else None
    try:
        caller = Caller(journal, texts.hash, remember=False)
        proxy = Proxy(backends[model], backends[rephraser] if rephraser else None, texts, caller, method, sampling)
        serve_proxy(proxy, host, port)
    finally:
        if journal is not None:
            journal.close()


def label(folder: str, n: int = 50, seed: int = 0, json: bool = False) -> None:
    """Review replies blind: question, gold and reply, never the method; right and wrong ones are both shown.

    Args:
        folder: the run folder; marks go to its labels.jsonl.
        n: replies to review.
        seed: of the queue.
        json: print the agreement as JSON instead of text; questions go to stderr.
    """
    from rar_prompt.console import print_mapping
    from rar_prompt.label import label_run
    from rar_prompt.run import read_records

    with redirect_stdout(sys.stderr) if json else nullcontext():
        found = label_run(folder, read_records(folder), n=n, seed=seed)
    print_mapping(found, json)


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print them with their verdicts.

    Args:
        scale: smoke takes seconds, laptop minutes on two cores, paper more seeds and questions.
        claims: ids of claims, comma separated; all by default.
        out: run folder; runs/rar-prompt-reproduce-SCALE by default.
        seed: seed of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from rar_prompt.reproduce import claims as claim_set

    return claim_set.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)


def _open(names: list[str | None], endpoint: Endpoint, models: str | None) -> "dict[str | None, Backend]":
    """Each named model once."""
    from rar_prompt.backends.open import open_backend

    return {name: open_backend(name, endpoint, models) for name in {*names} if name}


def main() -> int:
    """Entry point of the console script."""
    verbs: list[Verb] = [ask, run, resume, rephrase, respond, score, compare, report, replay, gen_, audit, serve, label]
    return run_command("rar-prompt", [*verbs, reproduce], summary=SUMMARY)
