"""The command `dndm-sampler`: verbs to public functions; torch is imported inside the verbs."""

from typing import Literal

from shared_core.cli import Verb, run

from dndm_sampler.config import SampleConfig, TrainConfig


def nfe(
    schedule: str = "linear",
    num_steps: int | None = 1000,
    length: int = 64,
    batch_size: int = 1,
    batch_times: Literal["per_row", "shared", "lockstep"] = "per_row",
    json: bool = False,
) -> None:
    """Expected network calls of a plan, before spending any.

    Args:
        schedule: linear, cosine, cosine2, beta:A,B, official_cosine, official_linear_lambda or @FILE.json.
        num_steps: T; null for continuous time.
        length: positions to sample in a row.
        batch_size: rows.
        batch_times: per_row (each row at its own times), shared (one set of times), lockstep (all rows at every time).
        json: print JSON instead of a table.
    """
    from dndm_sampler.commands import show_nfe

    show_nfe(schedule, num_steps, length, batch_size, batch_times, json)


def plan(
    schedule: str = "linear",
    num_steps: int | None = 1000,
    num_calls: int | None = None,
    length: int = 64,
    batch_size: int = 1,
    order: Literal["random", "left_to_right", "right_to_left"] = "random",
    batch_times: Literal["per_row", "shared"] = "per_row",
    out: str | None = None,
    seed: int = 0,
) -> None:
    """Draw transition times and print or save them (.json or .csv).

    Args:
        schedule: as for nfe.
        num_steps: T; null for continuous time.
        num_calls: a budget of exactly K calls instead of T steps.
        length: positions of a row.
        batch_size: rows.
        order: which positions get the early times.
        batch_times: per_row or shared.
        out: file to write; printed as JSON otherwise.
        seed: seed of the draw.
    """
    from dndm_sampler.commands import make_plan

    make_plan(schedule, num_steps, num_calls, length, batch_size, order, batch_times, out, seed)


def plot_schedule(schedules: list[str] | None = None, num_steps: int = 50, out: str = "schedules.png") -> None:
    """Draw the laws of the transition time.

    Args:
        schedules: names as for nfe, comma separated; a beta law is given as its own item in quotes.
        num_steps: T.
        out: .png, .svg or .pdf file.
    """
    from dndm_sampler.commands import draw_schedules

    draw_schedules(schedules or ["linear", "cosine", "cosine2", "beta:5,3", "beta:17,4"], num_steps, out)


def verify(
    schedule: str = "linear",
    num_steps: list[int] | None = None,
    data: str | None = None,
    json: bool = False,
) -> int:
    """Check the samplers by exact enumeration against ancestral sampling; exit 1 if a check fails.

    Args:
        schedule: as for nfe.
        num_steps: values of T, comma separated; 1,2,4,8,16 by default.
        data: JSON file {"initial": [..], "transition": [[..], ..], "length": N} of a small Markov chain; a built-in
            chain by default.
        json: print JSON instead of a table.
    """
    from dndm_sampler.verification import verify as check

    return check(schedule, num_steps or [1, 2, 4, 8, 16], data, json)


def train(
    text: str | None = None,
    task: Literal["text", "translation"] = "text",
    training: TrainConfig = TrainConfig(),
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Train a small denoiser on a text file, on Python's documentation, or on the translation task.

    Args:
        text: UTF-8 text file; the documentation of the running Python by default.
        task: text, or translation (six-digit numbers into English words).
        training: settings of the training.
        out: run folder; runs/dndm-sampler-train by default; the same command goes on after an interruption.
        seed: seed of weights and batches.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from dndm_sampler.commands import train_denoiser

    train_denoiser(text, task, training, out, seed, device)


def sample(
    model: str,
    settings: SampleConfig = SampleConfig(),
    n: int = 4,
    length: int = 64,
    infill: str | None = None,
    prompt: str | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Sample text from a trained denoiser or a Hugging Face masked language model in a local folder.

    Args:
        model: run folder of train, or folder of a masked language model with its tokenizer.
        settings: the sampler.
        n: rows, sampled as one batch.
        length: positions of a row, where no infill is given.
        infill: text whose marker (_ for letters, the tokenizer's mask for other models) is filled in.
        prompt: text kept at the beginning of every row.
        out: .txt or .jsonl file (jsonl with calls per row); printed otherwise.
        seed: seed of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
        json: print the rows with their calls and log-probabilities as JSON instead of text.
    """
    from dndm_sampler.commands import sample_text

    sample_text(model, settings, n, length, infill, prompt, out, seed, device, json)


def compare(
    model: str | None = None,
    samplers: list[str] | None = None,
    num_steps: list[int] | None = None,
    batch_size: int = 64,
    length: int = 64,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Quality, calls and time of several samplers around one denoiser: table, csv and plot.

    Args:
        model: run folder of train; an exact denoiser of letter pairs (absorbing) by default.
        samplers: of dndm, dndm_k, dndm_v2, dndm_loo, dndm_c, ancestral, thinned_ancestral, rdm; by default all that
            fit the noise.
        num_steps: values of T, comma separated; 16,64,200 by default.
        batch_size: rows of every sample.
        length: positions of a row.
        out: run folder; runs/dndm-sampler-compare by default.
        seed: seed of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from dndm_sampler.comparison import compare_samplers

    compare_samplers(model, samplers, num_steps or [16, 64, 200], batch_size, length, out, seed, device)


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print them with their verdicts.

    Args:
        scale: smoke takes seconds, laptop minutes on two cores, paper the paper's sizes.
        claims: ids of claims, comma separated; all by default.
        out: run folder; runs/dndm-sampler-reproduce-SCALE by default.
        seed: seed of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from dndm_sampler.reproduce import claims as paper_claims

    return paper_claims.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)


def main() -> int:
    """Entry point of the console script."""
    verbs: list[Verb] = [nfe, plan, plot_schedule, verify, train, sample, compare, reproduce]
    return run("dndm-sampler", verbs, summary="Fast sampling for discrete diffusion by predetermined transition times.")
