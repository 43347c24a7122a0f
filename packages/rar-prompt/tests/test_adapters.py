"""RaR inside other tools, against their pinned versions; skipped where the extras are not installed."""

import asyncio

import pytest
from rar_prompt.backends.scripted import Scripted

REPHRASE = "Maintain all information in the original question."


def scripted(seen):
    def answer(request):
        text = request.messages[-1].content
        seen.append(text)
        return "What is two plus two?" if text.endswith(REPHRASE) else "The answer is 4.\nSTOP more"

    return Scripted(answer)


def test_lm_evaluation_harness_calls_twice_and_cuts_at_stop_strings():
    pytest.importorskip("lm_eval", reason="pip install rar-prompt[lm-eval]")
    from lm_eval.api.instance import Instance
    from rar_prompt.adapters.lm_eval import RaRLM

    seen = []
    lm = RaRLM(scripted(seen))
    requests = [
        Instance("generate_until", {}, (f"{n} + {n}?", {"until": ["STOP", "\n\n"], "max_gen_toks": 20}), n)
        for n in range(3)
    ]
    assert lm.generate_until(requests) == ["The answer is 4.\n"] * 3
    assert len(seen) == 6
    assert any("(original) 1 + 1?\n(rephrased) What is two plus two?" in text for text in seen)
    with pytest.raises(NotImplementedError, match="generate_until"):
        lm.loglikelihood([])
    lm.rar.close()


def test_lm_evaluation_harness_evaluates_a_task(tmp_path):
    pytest.importorskip("lm_eval", reason="pip install rar-prompt[lm-eval]")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from rar_prompt.adapters.lm_eval import RaRLM

    (tmp_path / "sums.json").write_text('[{"q": "2 + 2?", "a": "The answer is 4."}]')
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "sums.json")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["\nSTOP"], "max_gen_toks": 20},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    result = simple_evaluate(
        model=RaRLM(scripted([])), tasks=[task], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0
    )
    assert result["results"]["sums"]["exact_match,none"] == 1.0


def test_dspy_asks_through_the_engine():
    dspy = pytest.importorskip("dspy", reason="pip install rar-prompt[dspy]")
    from rar_prompt.adapters.dspy import AsyncRaREngine, RaREngine

    seen = []
    lm = dspy.LM("rar", engine=RaREngine(scripted(seen)), async_engine=AsyncRaREngine(scripted(seen)), cache=False)
    assert lm("2 + 2?") == ["The answer is 4.\nSTOP more"]
    assert (
        seen[0]
        == f'"2 + 2?"\nGiven the above question, rephrase and expand it to help you do better answering. {REPHRASE}'
    )
    assert "(rephrased) What is two plus two?" in seen[1]
    assert asyncio.run(lm.acall("2 + 2?")) == ["The answer is 4.\nSTOP more"]


def test_inspect_ai_uses_the_role_of_the_rephraser(tmp_path):
    pytest.importorskip("inspect_ai", reason="pip install rar-prompt[inspect]")
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import includes
    from rar_prompt.adapters.inspect_ai import rephrase_and_respond

    task = Task([Sample("2 + 2?", target="4")], solver=rephrase_and_respond(), scorer=includes())

    def says(name, text):
        output = ModelOutput.from_content(name, text)
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # else a tokenizer is fetched
        return get_model(f"mockllm/{name}", custom_outputs=[output])

    responder, rephraser = says("responder", "It is 4."), says("rephraser", '"What is two plus two?"')
    (log,) = eval(task, model=responder, model_roles={"rephraser": rephraser}, log_dir=str(tmp_path), display="none")
    assert log.status == "success"
    sample = log.samples[0]
    assert sample.metadata["rephrased"] == "What is two plus two?"
    assert sample.messages[0].text.startswith("(original) 2 + 2?\n(rephrased) What is two plus two?\n")
    assert log.results.scores[0].metrics["accuracy"].value == 1.0
