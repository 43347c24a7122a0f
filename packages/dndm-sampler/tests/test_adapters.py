import warnings

import pytest
import torch
from dndm_sampler.adapters import from_diffusion_gemma, from_hf_masked_lm, from_mdlm
from dndm_sampler.denoising import as_split
from dndm_sampler.sampler import DNDMSampler
from dndm_sampler.schedule import TransitionSchedule
from dndm_sampler.time_adapters import scalar_time, timestep_index
from torch import nn

MASK = 4
SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 20, "initializer_range": 0.5, "pad_token_id": 1,
}  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def masked_lm(family):
    """A tiny random model from configuration; nothing is downloaded."""
    torch.manual_seed(0)
    if family == "bert":
        from transformers import BertConfig, BertForMaskedLM

        model = BertForMaskedLM(BertConfig(**SMALL))
    elif family == "roberta":
        from transformers import RobertaConfig, RobertaForMaskedLM

        model = RobertaForMaskedLM(RobertaConfig(**SMALL))
    elif family == "xlm-roberta":
        from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

        model = XLMRobertaForMaskedLM(XLMRobertaConfig(**SMALL))
    elif family == "camembert":
        from transformers import CamembertConfig, CamembertForMaskedLM

        model = CamembertForMaskedLM(CamembertConfig(**SMALL))
    elif family == "distilbert":
        from transformers import DistilBertConfig, DistilBertForMaskedLM

        model = DistilBertForMaskedLM(
            DistilBertConfig(
                vocab_size=40, dim=16, hidden_dim=32, n_layers=2, n_heads=2, max_position_embeddings=20,
                initializer_range=0.5,
            )
        )  # fmt: skip
    elif family == "modernbert":
        from transformers import ModernBertConfig, ModernBertForMaskedLM

        special = {"eos_token_id": 2, "bos_token_id": 0, "cls_token_id": 0, "sep_token_id": 2}
        model = ModernBertForMaskedLM(ModernBertConfig(**SMALL, **special))
    else:
        from transformers import ElectraConfig, ElectraForMaskedLM

        model = ElectraForMaskedLM(ElectraConfig(**SMALL, embedding_size=16))
    for parameter in model.parameters():  # biases and norms start at 0 and 1: a wrong head would not show
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=seeded(parameter.numel()))
    return model.eval()


SPLIT = ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "modernbert"]


@pytest.mark.parametrize("shift", [False, True], ids=["plain", "shifted"])
@pytest.mark.parametrize("family", SPLIT)
@torch.no_grad()
def test_the_head_at_written_positions_gives_the_full_logits_and_the_same_tokens(family, shift):
    model = masked_lm(family)
    split = from_hf_masked_lm(model, shift_logits=shift)
    full = from_hf_masked_lm(model, shift_logits=shift, split_head=False)
    assert as_split(split) is not None
    assert as_split(full) is None
    x = torch.randint(5, 40, (3, 9), generator=seeded())
    seen = torch.ones(3, 9, dtype=torch.long)
    seen[1, 6:] = 0
    t = torch.ones(3)
    expected = model(input_ids=x, attention_mask=seen).logits
    if shift:
        expected = torch.cat([expected[:, :1], expected[:, :-1]], dim=1)
    assert torch.equal(full(x, t, attention_mask=seen), expected)
    assert torch.equal(split(x, t, attention_mask=seen), expected)
    row, position = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 5, 8, 3])
    at_positions = split.head(split.hidden(x, t, attention_mask=seen)[row, position])
    torch.testing.assert_close(at_positions, expected[row, position], atol=2e-5, rtol=1e-5)

    sequences = [
        DNDMSampler(denoiser, mask_token_id=MASK, num_steps=12).sample(
            input_ids=torch.where(seen.bool(), MASK, 1), model_kwargs={"attention_mask": seen}, generator=seeded(3)
        )
        for denoiser in (split, full)
    ]
    assert torch.equal(sequences[0].sequences, sequences[1].sequences)
    assert not bool((sequences[0].sequences == MASK).any())


@torch.no_grad()
def test_the_attention_mask_follows_its_row():
    denoiser = from_hf_masked_lm(masked_lm("bert"))
    seen = torch.ones(4, 8, dtype=torch.long)
    seen[0, 5:], seen[2, 3:] = 0, 0
    start = torch.where(seen.bool(), MASK, 1)
    sampler = DNDMSampler(denoiser, mask_token_id=MASK, num_steps=None, temperature=0.0)
    plan = sampler.sample(input_ids=start, model_kwargs={"attention_mask": seen}, generator=seeded())
    full = masked_lm("bert")
    for row in range(4):  # replay each row alone, with its own mask and its own times
        x = start[row : row + 1].clone()
        for position in plan.transition_times[row].argsort(descending=True)[: int(seen[row].sum())]:
            logits = full(input_ids=x, attention_mask=seen[row : row + 1]).logits
            logits[..., MASK] = -torch.inf
            x[0, position] = logits[0, position].argmax()
        assert torch.equal(x[0], plan.sequences[row])


@torch.no_grad()
def test_other_families_run_through_the_full_forward_or_a_given_head():
    model = masked_lm("electra")
    plain = from_hf_masked_lm(model)
    assert as_split(plain) is None
    given = from_hf_masked_lm(
        model,
        backbone=model.electra,
        head=lambda hidden: model.generator_lm_head(model.generator_predictions(hidden)),
    )
    assert as_split(given) is not None
    outs = [
        DNDMSampler(denoiser, mask_token_id=MASK, num_calls=3).sample(2, 7, generator=seeded(1)).sequences
        for denoiser in (plain, given)
    ]
    assert torch.equal(*outs)


def test_a_subclass_with_its_own_forward_is_not_split():
    from transformers import BertConfig, BertForMaskedLM

    class Own(BertForMaskedLM):
        pass

    assert as_split(from_hf_masked_lm(Own(BertConfig(**SMALL)))) is None


@pytest.mark.parametrize(("family", "positions"), [("bert", 20), ("roberta", 18), ("distilbert", 20), ("electra", 20)])
@torch.no_grad()
def test_a_sequence_longer_than_the_models_positions_is_refused_with_both_numbers(family, positions):
    denoiser = from_hf_masked_lm(masked_lm(family))
    sampler = DNDMSampler(denoiser, mask_token_id=MASK, num_calls=1)
    sampler.sample(1, positions)
    with pytest.raises(ValueError, match=f"{positions + 1} tokens, but the model has {positions} positions"):
        sampler.sample(1, positions + 1)


def test_adapters_follow_the_device_of_the_model():
    model = masked_lm("bert").to("meta")
    for denoiser in (from_hf_masked_lm(model), scalar_time(from_hf_masked_lm(model)), from_mdlm(model)):
        assert {parameter.device.type for parameter in denoiser.parameters()} == {"meta"}
        assert len(list(denoiser.parameters())) == len(list(model.parameters()))


def test_training_mode_warns_once_and_evaluation_mode_does_not():
    model = masked_lm("bert").train()
    denoiser = from_hf_masked_lm(model)
    sampler = DNDMSampler(denoiser, mask_token_id=MASK, num_calls=2)
    with pytest.warns(UserWarning, match=r"BertForMaskedLM is in training mode.*model\.eval\(\)") as seen:
        sampler.sample(1, 5)
    assert len(seen) == 1
    assert model.training  # left as it was
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DNDMSampler(from_hf_masked_lm(model), mask_token_id=MASK, num_calls=2).sample(1, 5)


class TimedNet(nn.Module):
    """Logits depend on the tokens, on the time and on the row's own extra input; records the times it was told."""

    def __init__(self, vocab=6):
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocab + 1, vocab, generator=seeded(1), dtype=torch.float64))
        self.told = []

    def forward(self, x, t, bonus=None):
        self.told.append(t)
        t = t if t.ndim else t.expand(len(x))
        logits = self.table[x] + torch.sin(self.table[x].cumsum(1) * 3 + t.double()[:, None, None])
        return logits if bonus is None else logits + bonus[:, None, None] * self.table[0]


class SplitTimedNet(TimedNet):
    def hidden(self, x, t, bonus=None):
        return super().forward(x, t, bonus)

    def head(self, hidden):
        return hidden


@pytest.mark.parametrize("net", [TimedNet, SplitTimedNet])
@pytest.mark.parametrize("batch_times", ["per_row", "shared"])
def test_scalar_time_gives_every_row_what_it_would_get_with_its_own_time(net, batch_times):
    inner = net()

    def one_time_only(x, t, **kwargs):
        assert t.ndim == 0
        return inner(x, t, **kwargs)

    def run(denoiser):
        sampler = DNDMSampler(denoiser, mask_token_id=6, num_steps=9, batch_times=batch_times)
        bonus = torch.arange(5, dtype=torch.float64)
        return sampler.sample(5, 7, generator=seeded(2), model_kwargs={"bonus": bonus})

    expected = run(net())
    wrapped = scalar_time(inner)
    assert (as_split(wrapped) is None) == (as_split(inner) is None)
    assert torch.equal(run(wrapped).sequences, expected.sequences)
    grouped = scalar_time(one_time_only)
    result = run(grouped)
    assert torch.equal(result.sequences, expected.sequences)
    assert all(t.ndim == 0 for t in inner.told)
    if batch_times == "shared":
        assert grouped.calls == result.nfe
    else:
        assert result.nfe < grouped.calls <= result.rows


@pytest.mark.parametrize(
    ("index", "expected"),
    [("zero", [0, 24, 49]), ("one", [1, 25, 50]), ("unit", [0.02, 0.5, 1.0])],
)
@pytest.mark.parametrize("sample_steps", [50, 1000])
def test_timestep_index_tells_the_noise_level_that_the_network_sees(index, expected, sample_steps):
    net = TimedNet()
    u = torch.tensor([1, 25, 50], dtype=torch.float32) / 50
    if sample_steps == 1000:  # the nearest of the 50 training steps
        u = torch.tensor([3, 498, 1000]) / 1000
    timestep_index(net, 50, index)(torch.zeros(3, 4, dtype=torch.long), u)
    assert net.told[0].tolist() == pytest.approx(expected)
    assert net.told[0].is_floating_point() == (index == "unit")


def test_timestep_index_reaches_every_row_of_an_embedding_table_and_keeps_a_split():
    net = SplitTimedNet()
    denoiser = timestep_index(net, 1000, "zero")
    denoiser.hidden(torch.zeros(1000, 1, dtype=torch.long), torch.arange(1, 1001).double().div(1000).float())
    assert net.told[0].tolist() == list(range(1000))
    assert as_split(denoiser) is not None
    assert as_split(timestep_index(TimedNet(), 1000)) is None
    assert as_split(scalar_time(timestep_index(net, 1000))) is not None


def test_mdlm_is_told_its_total_noise_and_log_probabilities_serve_as_logits():
    net = TimedNet()

    def subs(x, sigma):  # as MDLM: log-probabilities over V + 1 ids, the mask impossible
        log_p = net(x, sigma).log_softmax(-1)
        return torch.cat([log_p, torch.full_like(log_p[..., :1], -torch.inf)], dim=-1)

    denoiser = from_mdlm(subs)
    x, t = torch.full((3, 5), 6), torch.tensor([0.0, 0.5, 1.0])
    denoiser(x, t)
    eps = 1e-3
    expected = -torch.log1p(-(1 - eps) * t.double())  # MDLM's log-linear noise
    torch.testing.assert_close(net.told[-1].double(), expected, atol=1e-5, rtol=1e-5)
    out = DNDMSampler(denoiser, mask_token_id=6, num_steps=10).sample(4, 6, generator=seeded())
    assert int(out.sequences.max()) < 6
    from_mdlm(subs, "cosine", eps=0.01)(x, t)
    alpha = 0.01 + 0.99 * TransitionSchedule("cosine").alpha(t)
    torch.testing.assert_close(net.told[-1].double(), -alpha.log(), atol=1e-5, rtol=1e-5)
    from_mdlm(subs, time_agnostic=True)(x, t)
    assert net.told[-1].tolist() == [0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def tiny_diffusion_gemma():
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    text = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 2, "num_key_value_heads": 1, "global_head_dim": 8, "num_global_key_value_heads": 1,
        "num_experts": 2, "top_k_experts": 1, "moe_intermediate_size": 16, "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 128,
    }  # fmt: skip
    vision = {
        "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    config = DiffusionGemmaConfig(
        text_config=text, vision_config=vision, canvas_length=8, image_token_id=39, boi_token_id=38, eoi_token_id=37
    )
    return DiffusionGemmaForBlockDiffusion(config).eval()


@torch.no_grad()
def test_diffusion_gemma_canvas_logits_are_the_models_and_the_prompt_is_encoded_once(tiny_diffusion_gemma):
    model = tiny_diffusion_gemma
    encoded = []
    handle = model.model.encoder.register_forward_hook(lambda *call: encoded.append(1))
    prompts = torch.randint(3, 30, (4, 5), generator=seeded())
    seen = torch.ones_like(prompts)
    seen[1, :2] = 0

    def reference(x, t, input_ids, attention_mask):
        visible = nn.functional.pad(attention_mask.bool(), (0, x.shape[1]), value=True)
        return model(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=x, decoder_attention_mask=visible
        ).logits

    denoiser = from_diffusion_gemma(model)
    x = torch.randint(0, 40, (4, 8), generator=seeded(1))
    expected = reference(x, None, prompts, seen)
    encoded.clear()
    for rows in (4, 4, 3, 1, 4):  # rows drop off while sampling; then another sample starts
        logits = denoiser(x[:rows], torch.ones(rows), input_ids=prompts[:rows], attention_mask=seen[:rows])
        torch.testing.assert_close(logits, expected[:rows], atol=1e-5, rtol=1e-5)
    assert len(encoded) == 2
    kwargs = {"input_ids": prompts, "attention_mask": seen}
    outs = [
        DNDMSampler(each, noise="multinomial", vocab_size=40, num_steps=20).sample(
            4, 8, generator=seeded(4), model_kwargs=kwargs
        )
        for each in (denoiser, reference)
    ]
    handle.remove()
    assert torch.equal(outs[0].sequences, outs[1].sequences)


BAD = [
    (lambda: from_hf_masked_lm(nn.Identity(), backbone=nn.Identity()), "backbone was given without head"),
    (lambda: from_hf_masked_lm(nn.Identity(), head=nn.Identity()), "head was given without backbone"),
    (lambda: from_mdlm(nn.Identity(), eps=0.0), r"eps must be in \(0, 1\), got 0.0"),
    (lambda: from_mdlm(nn.Identity(), "sigmoid"), "there is no 'sigmoid'"),
    (lambda: timestep_index(nn.Identity(), 0), "num_train_steps must be at least 1, got 0"),
    (lambda: timestep_index(nn.Identity(), 5, "two"), "index must be zero, one or unit, got 'two'"),
    (lambda: from_diffusion_gemma(nn.Identity()), "needs a DiffusionGemmaForBlockDiffusion, got Identity"),
    (
        lambda: from_hf_masked_lm(lambda input_ids: ("logits",))(torch.zeros(1, 2), torch.ones(1)),
        "must return a tensor or an output with .logits, got tuple",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_layers_that_happen_to_be_named_hidden_and_head_do_not_make_a_split_denoiser():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = nn.Embedding(6, 8), nn.Linear(8, 5)

        def forward(self, x, t):
            return self.head(self.hidden(x))

    assert as_split(Net()) is None
    out = DNDMSampler(Net(), mask_token_id=5, num_steps=20).sample(2, 6)
    assert int(out.sequences.max()) < 5
