"""Every verb as a user types it, and a table of bad input."""

import asyncio
import json

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer
from rar_prompt import Caller, Scripted, load_templates, read_items
from rar_prompt.serve import Proxy

RULES = [
    {"match": "Maintain all information", "reply": '"Is it heads, when a flip reverses the coin?"'},
    {"match": r"\(rephrased\)", "reply": "So the answer is yes."},
    {"match": "Rephrase and expand", "reply": "Is it heads?\n\nNo, it is tails."},
    {"match": "step by step", "reply": "First, second, third. The answer is yes."},
    {"match": ".", "reply": "No."},
]


@pytest.fixture
def model(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"rules": RULES}))
    return "scripted:rules.yaml"


def test_ask_prints_the_rephrasing_the_answer_and_the_cost(run_cli, model):
    code, out, err = run_cli("ask", "Is the coin heads?", "--model", model, "--kind", "yes-no")
    assert (code, err) == (0, "")
    assert "Is it heads, when a flip reverses the coin?" in out
    assert "So the answer is yes." in out
    assert "read as: yes" in out
    assert "cost unknown" in out


def test_ask_with_prices_votes_and_json(run_cli, model, tmp_path):
    (tmp_path / "prices.yaml").write_text(f"'{model}': {{input: 1, output: 2}}")
    code, out, _ = run_cli("ask", "Q?", "--model", model, "--method", "cot*3", "--prices", "prices.yaml", "--json")
    found = json.loads(out)
    assert code == 0
    assert len(found["answers"]) == 3
    assert found["cost"] == pytest.approx((found["prompt_tokens"] + 2 * found["completion_tokens"]) / 1e6)


def test_gen_run_report_compare_label_score(run_cli, model, tmp_path, monkeypatch):
    assert run_cli("gen", "coin-flip", "--n", 12, "--out", "coin.jsonl")[0] == 0
    assert len(read_items(tmp_path / "coin.jsonl")) == 12
    code, out, _ = run_cli(
        "run", "coin.jsonl", "--methods", "plain,one-step,two-step,cot,one-step*3", "--model", model, "--out", "run"
    )
    assert code == 0
    assert "Paired comparisons" in out
    assert "best of 4, chosen on the same items" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    rows = {row["method"]: row for row in result["conditions"]}
    assert rows["plain"]["accuracy"] == rows["two-step"]["accuracy"] == 0.5
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64") >= 4
    assert "http" not in page.split("</style>")[1].split("<img")[0]
    name = model
    code, out, _ = run_cli(
        "compare", "run", "run", "--condition", f"plain / {name}", "--against", f"two-step / {name}", "--json"
    )
    assert (code, json.loads(out)["lost"], json.loads(out)["gained"]) == (0, 6, 6)
    assert run_cli("report", "run", "--csv")[0] == 0
    assert (tmp_path / "run" / "conditions.csv").read_text().count("\n") == 6
    answers = iter(["r", "x", "w", "u", "q", "q"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    code, out, _ = run_cli("label", "run", "--n", 8)
    assert code == 0
    assert "labels: 3" in out
    assert "two-step" not in out, "the reviewer must not see the method"
    assert "scripted" not in out
    code, out, err = run_cli("label", "run", "--n", 8, "--json")
    assert (code, json.loads(out)["labels"], "question: " in err) == (0, 3, True)
    code, out, _ = run_cli("report", "run", "--json")
    assert json.loads(out)["answered"] == json.loads((tmp_path / "run" / "result.json").read_text())["answered"]
    code, out, _ = run_cli("gen", "last-letters", "--n", 3, "--gen.words", 1, "--out", "one.jsonl", "--json")
    assert (json.loads(out)["questions"], len(json.loads(out)["answer"])) == (3, 1)
    (tmp_path / "replies.jsonl").write_text(
        "".join(json.dumps({"id": f"coin-flip-{i:04d}", "reply": "yes"}) + "\n" for i in range(12))
    )
    code, out, _ = run_cli("score", "coin.jsonl", "replies.jsonl", "--json")
    assert (code, json.loads(out)["rows"][0]["accuracy"]) == (0, 0.5)


def test_a_file_is_run_whole_and_a_missing_answer_is_told(run_cli, model, tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(f'{{"question": "Is it {i}?", "gold": "yes"}}\n' for i in range(120)))
    code, out, err = run_cli("run", "q.jsonl", "--methods", "plain", "--model", model, "--out", "run")
    assert code == 0
    assert "120 of 120 answers" in out
    assert "no field answer, so nothing is scored; fields not read: gold" in err


def test_a_refused_run_leaves_no_folder_in_the_way_of_the_right_one(run_cli, model, tmp_path):
    run = ["run", "coin-flip", "--n", 2, "--out", "run"]
    for wrong in (["--model", "gpt"], ["--model", model, "--methods", "plain,few-shot"], ["--model", "http://h/v1"]):
        assert run_cli(*run, *wrong)[0] == 2
        assert not (tmp_path / "run").exists()
    assert run_cli(*run, "--model", model)[0] == 0


def test_resume_keeps_what_it_is_not_told(loopback, run_cli, monkeypatch):
    monkeypatch.setenv("MY_KEY", "k")
    server = loopback("--key", "k")
    run = ["run", "coin-flip", "--n", 2, "--model", f"{server.url}#m", "--endpoint.key-env", "MY_KEY", "--out", "run"]
    code, _, err = run_cli(*run, "--spending.max-total-tokens", 1100)
    assert code == 1
    assert "the budget does not allow another call" in err
    code, out, err = run_cli("resume", "run", "--endpoint.concurrency", 2, "--spending.max-total-tokens", 10**6)
    assert code == 0, err
    assert "6 of 6 answers" in out


def test_votes_at_temperature_0_are_warned_of(run_cli, model):
    _, _, err = run_cli("ask", "Q?", "--model", model, "--method", "plain*3")
    assert "several samples at temperature 0" in err


def test_a_changed_configuration_is_refused_and_the_difference_named(run_cli, model):
    run = ["run", "coin-flip", "--model", model, "--out", "run", "--n", 3]
    assert run_cli(*run)[0] == 0
    code, out, err = run_cli(*run, "--seed", 1)
    assert (code, out) == (2, "")
    assert "seed was 0, is 1" in err
    code, out, _ = run_cli("resume", "run")
    assert code == 0
    assert "12 from the record" in out
    code, out, _ = run_cli(*run[:-1], 3, "--endpoint.concurrency", 3)
    assert code == 0


def test_a_changed_task_file_is_another_run(run_cli, model, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "A?", "answer": "yes"}\n')
    assert run_cli("run", "q.jsonl", "--model", model, "--out", "run")[0] == 0
    (tmp_path / "q.jsonl").write_text('{"question": "B?", "answer": "yes"}\n')
    code, _, err = run_cli("resume", "run")
    assert code == 2
    assert "questions_hash was" in err


def test_rephrase_then_respond_and_replay_a_run_as_a_model(run_cli, model, tmp_path):
    code, out, _ = run_cli("rephrase", "coin-flip", "--n", 4, "--model", model, "--out", "x.jsonl")
    assert code == 0
    assert "rephrasings: 4" in out
    assert {item.rephrased for item in read_items(tmp_path / "x.jsonl")} == {
        "Is it heads, when a flip reverses the coin?"
    }
    assert run_cli("respond", "x.jsonl", "--model", model, "--out", "given")[0] == 0
    assert run_cli("run", "coin-flip", "--n", 4, "--model", model, "--out", "run")[0] == 0
    code, out, _ = run_cli("run", "coin-flip", "--n", 4, "--model", "replay:run", "--out", "again")
    assert code == 0
    first, second = (
        [json.loads(line)["replies"] for line in (tmp_path / name / "records.jsonl").read_text().splitlines()]
        for name in ("run", "again")
    )
    assert first == second


@pytest.mark.parametrize("option", ["--rephrase-sampling.max-tokens", "--rephrase_sampling.max_tokens"])
def test_rephrasings_have_settings_of_their_own(run_cli, model, tmp_path, option):
    run = ["run", "coin-flip", "--n", 2, "--methods", "two-step", "--model", model, "--sampling.temperature", 0.5]
    code, _, err = run_cli(*run, "--out", "run", option, 50)
    assert code == 0, err
    calls = [json.loads(line) for line in (tmp_path / "run" / "calls.jsonl").read_text().splitlines()]
    used = {(c["stage"], c["sampling"]["max_tokens"], c["sampling"]["temperature"]) for c in calls if "sampling" in c}
    assert used == {("rephrase", 50, 0.5), ("respond", 1024, 0.5)}


def test_transfer_matrix_shares_rephrasings(run_cli, model, tmp_path):
    (tmp_path / "models.yaml").write_text(
        yaml.safe_dump({name: {"model": model, "concurrency": 2} for name in ("strong",)})
    )
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"rules": RULES}))
    code, _, err = run_cli(
        "run", "coin-flip", "--n", 5, "--methods", "plain,two-step", "--model", f"{model},scripted:other.yaml",
        "--rephraser", "strong,scripted:other.yaml", "--models", "models.yaml", "--out", "run",
    )  # fmt: skip
    assert code == 0, err
    calls = [json.loads(line) for line in (tmp_path / "run" / "calls.jsonl").read_text().splitlines()]
    ok = [call for call in calls if call["status"] == "ok"]
    stages = [call["stage"] for call in ok]
    assert stages.count("rephrase") == 2 * 5  # N per rephraser, whoever answers
    assert (tmp_path / "run" / "figures" / "transfer.png").exists()


def test_few_shot_repair_is_one_call_for_all(run_cli, model, tmp_path):
    (tmp_path / "shots.jsonl").write_text('{"question": "1+1?", "answer": "1 and 1 is 2. The answer is 2."}\n')
    code, _, err = run_cli(
        "run", "coin-flip", "--n", 6, "--methods", "few-shot,few-shot-repaired", "--model", model, "--out", "run",
        "--exemplars", "shots.jsonl",
    )  # fmt: skip
    assert code == 0, err
    calls = [json.loads(line) for line in (tmp_path / "run" / "calls.jsonl").read_text().splitlines()]
    assert [call["stage"] for call in calls if call["status"] == "ok"].count("repair") == 1


def test_audit_ranks_the_ambiguous_question_first(run_cli, tmp_path):
    rules = [
        {"match": "(?s)bank.*Maintain all", "reply": '"Is a bank a place for money?"'},
        {"match": "(?s)sky.*Maintain all", "reply": '"Is the sky blue?"'},
        {"match": r"\(rephrased\)", "reply": "yes"},
        {"match": ".", "reply": "no"},
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"rules": rules}))
    rules[0]["reply"], rules[2] = '"Is a bank beside a river?"', {"match": r"(?s)\(rephrased\).*river", "reply": "no"}
    rules.insert(3, {"match": r"\(rephrased\)", "reply": "yes"})
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"rules": rules}))
    (tmp_path / "q.jsonl").write_text(
        '{"question": "Is the sky blue?", "kind": "yes-no"}\n{"question": "Is it a bank?", "kind": "yes-no"}\n'
    )
    code, _, err = run_cli(
        "audit", "q.jsonl", "--model", "scripted:rules.yaml,scripted:other.yaml", "--rephrasings", 2, "--out", "audit"
    )
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "audit" / "audit.jsonl").read_text().splitlines()]
    assert [row["question"] for row in rows] == ["Is it a bank?", "Is the sky blue?"]
    assert rows[0]["disagreement"] == pytest.approx(0.5)
    assert {reading["as"] for reading in rows[0]["readings"]} == {
        "Is a bank a place for money?",
        "Is a bank beside a river?",
    }
    assert rows[1]["disagreement"] == 0


def test_replay_reads_the_transcripts(run_cli, transcripts, tmp_path):
    code, out, _ = run_cli("replay", transcripts, "--out", tmp_path / "page.html")
    assert code == 0
    for figure in ("54.29", "89.52", "75.24", "52.05", "96.35", "99.09"):
        assert figure in out
    assert "rows disagree" in out
    assert "<details>" in (tmp_path / "page.html").read_text()
    code, out, _ = run_cli("replay", transcripts, "--json")
    found = json.loads(out)
    pairs = {(r["task"], r["first"], r["second"]): (r["lost"], r["gained"], r["p"]) for r in found["pairs"]}
    assert pairs["birthdate_day", "plain", "one-step"] == (7, 44, pytest.approx(1.21e-7, rel=0.01))
    assert pairs["birthdate_day", "plain", "two-step"] == (4, 26, pytest.approx(5.9e-5, rel=0.01))
    assert pairs["last_letter_concatenation", "plain", "two-step"][:2] == (0, 103)
    assert pairs["birthdate_day", "one-step", "two-step"] == (24, 9, pytest.approx(0.0135, rel=0.01))
    agreement = {(r["task"], r["method"]): r["agreement"] for r in found["logs"]}
    assert min(value for key, value in agreement.items() if key != ("last_letter_concatenation", "plain")) > 0.95


def proxied(backend, *bodies, method="two-step"):
    async def go():
        templates = load_templates()
        proxy = Proxy(backend, None, templates, Caller(templates=templates.hash), method)
        async with TestClient(TestServer(proxy.app())) as client:
            answers = []
            for body in bodies:
                answer = await client.post("/v1/chat/completions", data=json.dumps(body) if body else b"{")
                answers.append((answer.status, await answer.json()))
            models = await (await client.get("/v1/models")).json()
            return answers, models

    return asyncio.run(go())


def test_serve_applies_rar_and_keeps_the_conversation():
    seen = []

    def answer(request):
        seen.append([(message.role, message.content) for message in request.messages])
        return (
            "Better question?"
            if request.messages[-1].content.endswith("original question.") and len(seen) == 1
            else "4"
        )

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    (found, one_step), models = proxied(
        Scripted(answer), {"model": "anything", "messages": messages}, {"model": "one-step", "messages": messages}
    )
    status, body = found
    assert status == 200
    assert body["choices"][0]["message"]["content"] == "4"
    assert body["rar"] == {"method": "two-step", "rephrased": "Better question?", "calls": 2}
    assert seen[0][0] == seen[1][0] == ("system", "Be brief.")
    assert "(original) 2 + 2?\n(rephrased) Better question?" in seen[1][1][1]
    assert one_step[1]["model"] == "one-step"
    assert "two-step" in [row["id"] for row in models["data"]]


def test_serve_streams_the_whole_reply_as_one_piece():
    async def go():
        templates = load_templates()
        proxy = Proxy(Scripted(lambda request: "four"), None, templates, Caller(templates=templates.hash))
        async with TestClient(TestServer(proxy.app())) as client:
            body = {"messages": [{"role": "user", "content": "2 + 2?"}], "stream": True}
            body["stream_options"] = {"include_usage": True}
            answer = await client.post("/v1/chat/completions", json=body)
            return answer.content_type, await answer.text()

    kind, text = asyncio.run(go())
    assert kind == "text/event-stream"
    *lines, last, end = text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert pieces[0]["choices"][0]["delta"] == {"role": "assistant", "content": "four"}
    assert pieces[1]["choices"][0]["finish_reason"] == "stop"
    assert pieces[2]["usage"]["total_tokens"] > 0


def test_serve_answers_bad_requests_with_one_line():
    ok = [{"role": "user", "content": "?"}]
    bodies = [
        None,
        {"messages": []},
        {"messages": ok, "tools": [{"type": "function"}]},
        {"messages": ok, "response_format": {"type": "json_object"}},
        {"messages": ok, "temperature": -1},
        {"messages": ok, "n": 2},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": ok, "model": "one-step:nope"},
        {"messages": ok, "temperature": "hot"},
    ]
    answers, _ = proxied(Scripted(lambda request: "x"), *bodies)
    assert [status for status, _ in answers] == [400] * len(bodies)
    assert all(body["error"]["message"] for _, body in answers)


BAD_FILES = {
    "a.jsonl": ('{"question": "A?"}\n{"question": \n', "a.jsonl, line 2: not JSON"),
    "b.jsonl": ('{"question": ""}\n', "b.jsonl, line 1: the field question is missing"),
    "c.jsonl": ('{"question": "A?", "answer": "x", "choices": ["a", "b"]}\n', "line 1: the answer 'x' is none of"),
    "d.jsonl": ('{"id": "1", "question": "A?"}\n{"id": "1", "question": "B?"}\n', "the id '1' occurs twice"),
    "e.jsonl": ('{"question": 3.5}\n[1]\n', "e.jsonl, line 2: an object with a question is wanted, got list"),
    "f.jsonl": ('{"question": ["A?"]}\n', "line 1: question must be text, got list"),
    "g.jsonl": (
        '{"question": "A?", "answer": "x"}\n{"question": "B?"}\n',
        "line 2: either every question has an answer",
    ),
    "h.jsonl": ("\n", "h.jsonl: holds no questions"),
    "i.csv": ("question,answer\nA?,x,y\n", "i.csv, line 2: 2 columns are wanted"),
    "j.json": ('{"a": 1}', "j.json must hold a list of questions, got dict"),
    "k.parquet": ("nonsense", "k.parquet is not parquet"),
    "l.txt": ("A?", "l.txt: cannot read .txt"),
    "m.jsonl": ('{"question": "' + "x" * 1_000_000 + '"}\n', "line 1: the question has 1000000 characters"),
    "o.jsonl": ('{"question": "A?", "kind": "number", "answer": "twelve"}\n', "'twelve' is none of the kind number"),
    "n.jsonl": ('{"question": "A?", "kind": "riddle"}\n', "line 1: there is no kind 'riddle'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_task_file_is_one_line_naming_file_and_line(run_cli, model, tmp_path, name):
    content, words = BAD_FILES[name]
    (tmp_path / name).write_text(content)
    code, out, err = run_cli("run", name, "--model", model, "--out", "run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert not (tmp_path / "run").exists()


BAD_OPTIONS = [
    (["run", "no-such-task"], "there is no task 'no-such-task'"),
    (["run", "coin-flip", "--methods", "three-step"], "there is no method 'three-step'"),
    (["run", "coin-flip", "--methods", "one-step:rudely"], "there is no wording 'rudely'"),
    (["run", "coin-flip", "--methods", "plain*1000"], "votes must be in 1..100"),
    (["run", "coin-flip", "--methods", "few-shot"], "has no exemplars"),
    (["run", "coin-flip", "--methods", "two-step:given"], "has no rephrasing"),
    (["run", "coin-flip", "--methods", "plain,plain"], "occurs twice"),
    (["run", "coin-flip", "--model", "gpt"], "there is no model 'gpt'"),
    (["run", "coin-flip", "--model", "http://127.0.0.1:1/v1"], "a model name is wanted"),
    (["run", "coin-flip", "--model", "local:nowhere"], "there is no nowhere"),
    (["run", "coin-flip", "--templates", "nope"], "there is no template set 'nope'"),
    (["run", "coin-flip", "--endpoint.concurrency", "0", "--model", "http://h/v1#m"], "concurrency must be at least 1"),
    (["run", "coin-flip", "--spending.prices", "nope.yaml"], "nope.yaml: there is no such file"),
    (["run", "coin-flip", "--models", "nope.yaml"], "nope.yaml: there is no such file"),
    (["run", "coin-flip", "--model", "http://h/v1#m", "--endpoint.key-env", "NO_KEY"], "NO_KEY holds no key"),
    (["run", "coin-flip", "--spending.max-cost", "1"], "needs a price"),
    (["run", "coin-flip", "--sampling.temperature", "-1"], "temperature must be at least 0"),
    (["run", "coin-flip", "--sampling.max-tokens", "0"], "max_tokens must be at least 1"),
    (["run", "coin-flip", "--exemplars", "nope.jsonl"], "nope.jsonl: there is no such file"),
    (["run", "."], "a folder; give a file"),
    (["resume", "nowhere"], "nowhere holds no run"),
    (["report", "nowhere"], "holds no records.jsonl"),
    (["compare", "nowhere", "nowhere"], "holds no records.jsonl"),
    (["replay", "nowhere"], "is not a folder"),
    (["gen", "riddles"], "there is no generator 'riddles'"),
    (["gen", "coin-flip", "--out", "x.txt"], "give a .jsonl file"),
    (["ask", " "], "the question is empty"),
    (["audit", "coin-flip", "--n", "2", "--rephrasings", "1"], "at least 2"),
    (["serve", "--port", "99999"], "--port must be in"),
    (["serve", "--method", "plain*3"], "without votes"),
]


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS)
def test_bad_options_are_one_line(run_cli, model, options, words, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    extra = [] if "--model" in options or options[0] not in ("run", "ask", "audit", "serve") else ["--model", model]
    code, out, err = run_cli(*options, *extra)
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1
    assert words in err


def test_replies_that_are_no_text_are_one_line(run_cli, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "A?", "answer": "yes"}\n')
    (tmp_path / "r.jsonl").write_bytes(b"\xff\xfe\n")
    code, out, err = run_cli("score", "q.jsonl", "r.jsonl")
    assert (code, out) == (2, "")
    assert "r.jsonl is not UTF-8 text" in err


def test_csv_and_parquet_hold_the_same_questions(tmp_path):
    rows = [
        {"question": "A, or B?", "answer": "x", "choices": "x|y"},
        {"question": "C?", "answer": "y", "choices": "x|y"},
    ]
    (tmp_path / "t.csv").write_text('question,answer,choices\n"A, or B?",x,x|y\nC?,y,x|y\n')
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [read_items(tmp_path / name) for name in ("t.csv", "t.parquet", "t.jsonl")]
    assert found[0] == found[1] == found[2]
    assert found[0][0].choices == ("x", "y")


def test_the_official_data_files_are_read(transcripts):
    items = read_items(next(transcripts.rglob("birthdate_day_gpt-4.json")))
    assert (len(items), items[0].task, items[0].cluster) == (105, "birthdate_day", "Barack Obama")
    assert items[0].rephrased.startswith("Was the 44th President")


def test_recipes_name_real_options(run_cli):
    from pathlib import Path

    from rar_prompt import cli

    for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        assert set(content) <= set(cli.run.__annotations__), path
