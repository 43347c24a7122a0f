"""The opponent's responses follow the model's law, and their recorded log-probability is what scoring finds."""

from collections.abc import Callable

import pytest
import torch
from shared_core.errors import InputError, RunError
from spin_llm.packing import pack
from spin_llm.sampling import Sampler, draw, sample_responses, sampling_batches
from spin_llm.sequence_logprobs import Scoring, sequence_logprobs
from torch import nn

PROMPTS = [[3], [2, 4, 3, 3], [0, 2]]


def test_frequencies_are_the_models_probabilities(make_model: Callable[..., nn.Module]) -> None:
    model = make_model(vocabulary=5)
    prompts = [[2, 3]] * 3000 + [[4]] * 3000  # two lengths: the shorter is padded in mixed batches
    drawn = sample_responses(model, prompts, Sampler(max_new_tokens=2, batch_size=2000), [1], range(6000))
    outcomes = [[1]] + [[first, second] for first in (0, 2, 3, 4) for second in range(5)]
    for half, prompt in ((drawn[:3000], [2, 3]), (drawn[3000:], [4])):
        with torch.no_grad():
            law = sequence_logprobs(model, pack([prompt], [outcomes], dtype=torch.float64), Scoring()).exp()
        counts = torch.tensor([sum(response.ids == outcome for response in half) for outcome in outcomes])
        assert counts.sum() == 3000
        expected = law / law.sum() * 3000
        assert ((counts - expected) ** 2 / expected).sum() < 45.3  # chi-square, 20 degrees of freedom, 1 in 1000
    assert all(response.finished == (response.ids[-1] == 1) for response in drawn)


def test_recorded_logprobs_are_those_of_scoring(make_model: Callable[..., nn.Module]) -> None:
    model = make_model()
    drawn = sample_responses(model, PROMPTS * 4, Sampler(max_new_tokens=6, temperature=1.7, top_k=4), [1], range(12))
    with torch.no_grad():
        batch = pack(PROMPTS * 4, [[response.ids] for response in drawn], dtype=torch.float64)
        again = sequence_logprobs(model, batch, Scoring())
    recorded = torch.tensor([response.logprob for response in drawn], dtype=torch.float64)
    torch.testing.assert_close(recorded, again, rtol=0, atol=1e-6)  # rotary tables are float32


def test_a_response_does_not_depend_on_its_batch(make_model: Callable[..., nn.Module]) -> None:
    model = make_model()
    together = sample_responses(model, PROMPTS, Sampler(max_new_tokens=8), [1], [5, 6, 7])
    apart = sample_responses(model, PROMPTS, Sampler(max_new_tokens=8, batch_size=1), [1], [5, 6, 7])
    assert [response.ids for response in together] == [response.ids for response in apart]


def test_temperature_0_is_greedy(make_model: Callable[..., nn.Module]) -> None:
    model = make_model()
    ours = sample_responses(model, PROMPTS, Sampler(max_new_tokens=8, temperature=0), [1], [0] * 3)
    for prompt, response in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([prompt])
        options = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": 1, "pad_token_id": 0}
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert theirs[0, len(prompt) :].tolist() == response.ids


def test_top_k_and_top_p_keep_what_they_say() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)).expand(1000, -1)
    uniforms = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64)
    for sampler, kept in ((Sampler(top_k=2), 2), (Sampler(top_p=0.81), 3), (Sampler(top_p=0.79), 2), (Sampler(), 4)):
        tokens, logprobs = draw(logits, sampler, uniforms)
        assert set(tokens.tolist()) == set(range(kept)), sampler
        torch.testing.assert_close(logprobs, logits[0, tokens])  # raw, not renormalised


def test_batches_hold_prompts_of_similar_length() -> None:
    assert sampling_batches([[1] * 3, [1], [1] * 2, [1]], 2) == [[1, 3], [2, 0]]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": -1}, "temperature must be 0 or more"),
        ({"top_p": 0}, "top_p must be in"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_settings_are_refused(given: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Sampler(**given)  # type: ignore[arg-type] # the table mixes kinds


def test_logits_that_are_not_finite_stop_the_run() -> None:
    with pytest.raises(RunError, match="not finite"):
        draw(torch.tensor([[0.0, float("nan")]]), Sampler(), torch.tensor([0.5]))


def test_a_common_beginning_is_computed_once_and_changes_nothing(
    make_model: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    from spin_llm import decoding

    assert decoding.common_beginning([[1, 2, 3], [1, 2, 4, 5], [1, 2]]) == 1  # one token of each is left
    assert decoding.common_beginning([[1, 2], [3, 2]]) == 0
    assert decoding.common_beginning([[1, 2, 3]]) == 0
    monkeypatch.setattr(decoding, "GROWTH", 2)
    model = make_model()
    monkeypatch.setattr(decoding.similar_lengths, "__defaults__", (1,))  # several groups
    prompts = [[2, 3, 4, *rest] for rest in ([6, 7], [5], [8, 5, 5, 9], [7])]
    assert decoding.similar_lengths(list(map(len, prompts))) == [[1, 3], [0], [2]]
    together = sample_responses(model, prompts, Sampler(max_new_tokens=8), [1], [1, 2, 3, 4])
    apart = sample_responses(model, prompts, Sampler(max_new_tokens=8, batch_size=1), [1], [1, 2, 3, 4])
    assert [response.ids for response in together] == [response.ids for response in apart]
    assert [response.logprob for response in together] == pytest.approx([response.logprob for response in apart])


def test_groups_of_similar_length_hold_every_row_once() -> None:
    from spin_llm.decoding import similar_lengths

    lengths = [40, 12, 41, 300, 13, 39]
    groups = similar_lengths(lengths)
    assert sorted(row for group in groups for row in group) == list(range(6))
    assert [3] in groups
    assert len(similar_lengths([40, 41, 42, 40])) == 1
