"""Shared, packed and chunked log-probabilities are those of one plain forward pass a response."""

import itertools
from collections.abc import Callable

import pytest
import torch
from shared_core.errors import InputError
from spin_llm import token_logprobs as chunked
from spin_llm.causal_blocks import visible_spans
from spin_llm.packing import pack
from spin_llm.sequence_logprobs import NAIVE, Scoring, scoring_of, sequence_logprobs
from spin_llm.token_logprobs import logits_logprobs, token_logprobs
from torch import nn

PROMPTS = [[3, 4, 5], [6], [2, 2, 7, 8, 9, 10, 11]]
RESPONSES = [[[5, 6, 1], [12]], [[4, 4, 4, 4, 4, 1], [3, 1]], [[1], [7, 8]]]
SHORT_CUTS = [Scoring(*switches) for switches in itertools.product([True, False], repeat=2)]


def one_by_one(model: nn.Module) -> torch.Tensor:
    """The definition: sum over tokens of log softmax of the logits one place earlier."""
    sums = []
    for prompt, group in zip(PROMPTS, RESPONSES, strict=True):
        for response in group:
            ids = torch.tensor([[*prompt, *response]])
            logprobs = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
            sums.append(logprobs[len(prompt) - 1 :].sum())
    return torch.stack(sums)


def gradients(model: nn.Module, value: torch.Tensor) -> torch.Tensor:
    weights = torch.linspace(0.3, -1, len(value), dtype=value.dtype)
    found = torch.autograd.grad((value * weights).sum(), [w for w in model.parameters() if w.requires_grad])
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("scoring", SHORT_CUTS, ids=str)
@pytest.mark.parametrize("pad_id", [0, 1])
def test_every_short_cut_equals_the_definition_gradients_too(
    make_model: Callable[..., nn.Module], scoring: Scoring, pad_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 13 * 4)  # several chunks
    model = make_model()
    batch = pack(PROMPTS, RESPONSES, pad_id, scoring.share_prompt, torch.float64)
    found, expected = sequence_logprobs(model, batch, scoring), one_by_one(model)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    # the norm of Llama models rounds to float32 whatever the model's dtype
    tolerance = 1e-10 if "GPT2" in type(model).__name__ else 1e-5
    torch.testing.assert_close(gradients(model, found), gradients(model, expected), rtol=tolerance, atol=tolerance)


def test_in_float32_they_agree_to_1e_5(make_model: Callable[..., nn.Module]) -> None:
    model = make_model(dtype=torch.float32)
    found = sequence_logprobs(model, pack(PROMPTS, RESPONSES), Scoring())
    torch.testing.assert_close(found, one_by_one(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("trained", ["hidden", "hidden and head", "head"])
@pytest.mark.parametrize("bias", [False, True])
def test_chunked_head_has_the_gradient_of_the_plain_one(
    trained: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 50)
    torch.manual_seed(0)
    head = nn.Linear(6, 11, bias=bias).double().requires_grad_("head" in trained)
    hidden = torch.randn(23, 6, dtype=torch.float64, requires_grad="hidden" in trained)
    targets, weights = torch.randint(11, (23,)), torch.randn(23, dtype=torch.float64)
    inputs = [item for item in (hidden, *head.parameters()) if item.requires_grad]
    plain, ours = logits_logprobs(head(hidden), targets), token_logprobs(hidden, head, targets)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-13)
    for left, right in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((plain * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


def test_a_head_that_is_no_plain_linear_layer_is_called_as_it_is() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(6, 11), nn.Tanh()).double()
    hidden, targets = torch.randn(5, 6, dtype=torch.float64, requires_grad=True), torch.randint(11, (5,))
    plain, ours = logits_logprobs(head(hidden), targets), token_logprobs(hidden, head, targets)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(
        *(torch.autograd.grad(value.sum(), [hidden, *head.parameters()])[1] for value in (ours, plain))
    )


def test_scoring_finds_the_short_cuts_of_known_families(make_model: Callable[..., nn.Module]) -> None:
    assert scoring_of(make_model(dtype=torch.float32)) == Scoring(share_prompt=True, split_head=True)


def test_a_model_with_windows_or_capped_logits_falls_back() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=13, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=4096, final_logit_softcapping=1.0, initializer_range=0.5,
        attn_implementation="eager",
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    assert scoring_of(model) == NAIVE


def test_a_recurrent_model_falls_back_to_separate_rows() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=13, hidden_size=16, state_size=4, num_hidden_layers=2, initializer_range=0.5)
    model = MambaForCausalLM(config).eval()
    found = scoring_of(model)
    assert not found.share_prompt
    batch = pack(PROMPTS, RESPONSES, share_prompt=False)
    torch.testing.assert_close(sequence_logprobs(model, batch, found), one_by_one(model), rtol=0, atol=1e-4)


def test_probabilities_of_all_responses_sum_to_one(make_model: Callable[..., nn.Module]) -> None:
    """Finished ones (token 1 ends) and those cut at three tokens: a wrong shift, mask or end token shows here."""
    model = make_model(vocabulary=5)
    every: list[list[int]] = []
    open_ = [[]]
    for _ in range(3):
        longer = [[*response, token] for response in open_ for token in range(5)]
        every += [response for response in longer if response[-1] == 1]
        open_ = [response for response in longer if response[-1] != 1]
    with torch.no_grad():
        found = sequence_logprobs(model, pack([[2, 3]], [every + open_], dtype=torch.float64), Scoring())
    assert abs(float(found.exp().sum()) - 1) < 1e-10


def test_empty_prompts_and_responses_are_refused() -> None:
    with pytest.raises(InputError, match="prompt 1 has an empty response"):
        pack([[1], [2]], [[[1]], [[3], []]])
    with pytest.raises(InputError, match="prompt 0 is empty"):
        pack([[]], [[[1]]])


@pytest.mark.parametrize("bias", [False, True])
def test_fused_lora_layers_are_pefts_own(bias: bool) -> None:
    from peft.tuners.lora import Linear, LoraConfig
    from spin_llm.fused_lora import FusedLoraLinear, fuse_lora

    torch.manual_seed(0)
    base = nn.Linear(6, 9, bias=bias).double().requires_grad_(False)
    layer = Linear(base, "default", LoraConfig(r=2, lora_alpha=6), r=2, lora_alpha=6).double()
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    x, pull = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, 9, dtype=torch.float64)
    inputs = [x, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    plain = layer(x)
    expected = torch.autograd.grad((plain * pull).sum(), inputs)
    fuse_lora(layer)
    assert type(layer) is FusedLoraLinear
    torch.testing.assert_close(layer(x), plain, rtol=1e-13, atol=1e-13)
    for left, right in zip(torch.autograd.grad((layer(x) * pull).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *given: layer(given[0]), (x,))
    layer.enable_adapters(False)
    torch.testing.assert_close(layer(x), base(x))


def test_attention_by_blocks_is_the_whole_attention(
    make_model: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    from spin_llm import causal_blocks

    monkeypatch.setattr(causal_blocks, "BLOCK", 3)
    model = make_model()
    batch = pack(PROMPTS, RESPONSES, dtype=torch.float64)
    plain = sequence_logprobs(model, batch, Scoring())
    expected = gradients(model, plain)
    scoring = scoring_of(model)
    assert model.config._attn_implementation == causal_blocks.NAME  # type: ignore[union-attr]
    found = sequence_logprobs(model, batch, scoring)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-11)
    torch.testing.assert_close(gradients(model, found), expected, rtol=0, atol=1e-10)


def test_the_plan_of_a_mask_goes_with_the_mask(llama: Callable[..., nn.Module]) -> None:
    import gc

    from spin_llm import causal_blocks

    model = llama()
    scoring = scoring_of(model)
    gc.collect()
    before = len(causal_blocks._plans)
    for _ in range(3):
        sequence_logprobs(model, pack(PROMPTS, RESPONSES, dtype=torch.float64), scoring)
    gc.collect()
    assert len(causal_blocks._plans) <= before + 1


@pytest.mark.parametrize("additive", [True, False])
def test_blocks_meet_no_keys_that_every_row_hides(additive: bool) -> None:
    mask = pack([[1] * 4, [1] * 3], [[[1] * 4, [1] * 4], [[1] * 4, [1] * 5]]).attention_mask
    mask = mask if additive else mask == 0
    blocks = dict(visible_spans(mask, 4))
    assert blocks[(0, 4)] == [(0, 4)]
    assert blocks[(4, 8)] == [(0, 8)]
    assert blocks[(8, 12)] == [(0, 12)]  # the second row's generated response begins at 7
    alone = dict(visible_spans(mask[:1], 4))
    assert alone[(8, 12)] == [(0, 4), (8, 12)]
    assert dict(visible_spans(torch.zeros(1, 1, 5, 5, dtype=torch.bool), 4)) == {(0, 4): [(0, 4)], (4, 5): [(4, 5)]}


def test_the_fused_feed_forward_layer_has_the_familys_gradient(llama: Callable[..., nn.Module]) -> None:
    from peft import LoraConfig, get_peft_model
    from spin_llm.fused_lora import fuse_lora
    from spin_llm.gated_mlp import GatedMLP, fuse_mlps

    torch.manual_seed(0)
    model = get_peft_model(llama(), LoraConfig(r=2, target_modules="all-linear")).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    batch = pack(PROMPTS, RESPONSES, dtype=torch.float64)
    plain = sequence_logprobs(model, batch, Scoring())
    expected = gradients(model, plain)
    fuse_mlps(fuse_lora(model))
    assert sum(isinstance(module, GatedMLP) for module in model.modules()) == 2
    found = sequence_logprobs(model, batch, Scoring())
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-11)
    torch.testing.assert_close(gradients(model, found), expected, rtol=0, atol=1e-10)
