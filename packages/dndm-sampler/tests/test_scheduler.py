import inspect
from itertools import pairwise

import pytest
import torch
from dndm_sampler import algorithms
from dndm_sampler.denoising import ModelTime, Predictor
from dndm_sampler.noise import AbsorbingNoise
from dndm_sampler.randomness import NOISE, CounterUniforms
from dndm_sampler.sampler import DNDMSampler
from dndm_sampler.schedule import TransitionSchedule
from dndm_sampler.scheduler import DNDMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

MASK = 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(vocab=6, seed=0):
    """A small denoiser in which every logit depends on the whole row."""
    embed = torch.randn(vocab + 1, 16, generator=seeded(seed), dtype=torch.float64)
    mix = torch.randn(16, vocab, generator=seeded(seed + 1), dtype=torch.float64)

    def denoiser(x, t=None):
        features = embed[x]
        place = torch.arange(x.shape[1], dtype=torch.float64)[None, :, None]
        return torch.sin(features + features.cumsum(1) * 0.3 + features.flip(1) * 0.5 + place) @ mix

    return denoiser


def loop(scheduler, denoiser, x, generator=None, **options):
    """The diffusers loop; also counts the calls and the writes of each position."""
    calls, writes = 0, torch.zeros_like(x)
    for t in scheduler.timesteps:
        calls += 1
        output = scheduler.step(denoiser(x), t, x, generator=generator, **options)
        writes += output.transfer_index
        kept = ~(output.transfer_index | output.editing_transfer_index)
        assert torch.equal(output.prev_sample[kept], x[kept])
        x = output.prev_sample
    return x, calls, writes


@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": True}, {"version": 2}, {"order": "left_to_right"}, {"schedule": "beta:17,4"}, {"temperature": 0.5}],
    ids=str,
)
@pytest.mark.parametrize("calls", [1, 3, 8, 20])
def test_a_budget_loop_gives_the_sequences_of_the_sampler_with_the_same_seed(options, calls):
    sampler = DNDMSampler(network(), mask_token_id=MASK, num_calls=calls, **options)
    expected = sampler.sample(batch_size=3, length=8, generator=seeded(5))
    config = {("restoration_order" if key == "order" else key): value for key, value in options.items()}
    scheduler = DNDMScheduler(mask_token_id=MASK, **config)
    scheduler.set_timesteps(calls, block_length=8)
    x, _, writes = loop(scheduler, network(), torch.full((3, 8), MASK), seeded(5))
    assert torch.equal(x, expected.sequences)
    assert bool((writes == 1).all())
    torch.testing.assert_close(scheduler.transition_times, expected.transition_times)


def test_a_multinomial_budget_loop_with_loo_gives_the_sequences_of_the_sampler():
    sampler = DNDMSampler(network(), noise="multinomial", vocab_size=6, num_calls=4, token_correction="loo")
    expected = sampler.sample(batch_size=3, length=8, generator=seeded(5))
    uniforms = CounterUniforms(seeded(5), torch.device("cpu"))  # the sampler's own initial noise
    canvas = sampler.noise.sample(uniforms.grid(NOISE, torch.arange(3), 8))
    scheduler = DNDMScheduler(noise="multinomial", token_correction="loo")
    scheduler.set_timesteps(4)
    x, _, writes = loop(scheduler, network(), canvas, seeded(5))
    assert torch.equal(x, expected.sequences)
    assert bool((writes == 1).all())


@pytest.mark.parametrize("algorithm", ["dndm", "dndm_topk", "dndm_refresh"])
@pytest.mark.parametrize("steps", [1, 7, 1000, None])
def test_a_predetermined_loop_is_the_algorithm_on_its_own_transition_times(algorithm, steps):
    options = {"dndm": {}, "dndm_topk": {"top_k": True}, "dndm_refresh": {"version": 2}}[algorithm]
    scheduler = DNDMScheduler(mask_token_id=MASK, times="predetermined", schedule="cosine", temperature=0.0, **options)
    scheduler.set_timesteps(steps, block_length=9, generator=seeded(1))
    masked = torch.full((4, 9), MASK)
    x, calls, writes = loop(scheduler, network(), masked, seeded(2))
    tau = scheduler.transition_times
    assert calls == len(scheduler.timesteps) == len(tau.unique())
    assert bool((writes == 1).all())
    predict = Predictor(
        network(), AbsorbingNoise(MASK), ModelTime(TransitionSchedule("cosine"), None), masked, temperature=0.0,
        forbidden=(MASK,),
    )  # fmt: skip
    expected, _ = getattr(algorithms, algorithm)(predict, masked, tau)
    assert torch.equal(x, expected)
    assert predict.rows_of_calls == [4] * calls


@pytest.mark.parametrize("times", ["budget", "predetermined"])
def test_as_many_calls_as_positions_reproduce_the_data_law_of_an_exact_denoiser(times):
    """DNDM-C with an exact denoiser is random-order autoregression, so the samples follow the data (20 000 rows)."""
    law = torch.tensor([0.3, 0.05, 0.02, 0.13, 0.2, 0.05, 0.05, 0.2], dtype=torch.float64)  # over bits (a, b, c)
    words = torch.tensor([[(i >> 2) & 1, (i >> 1) & 1, i & 1] for i in range(8)])

    def exact(x):
        fits = ((x[:, None, :] == words) | (x[:, None, :] == 2)).all(2) * law
        one = (fits[:, :, None] * words).sum(1) / fits.sum(1, keepdim=True)
        return torch.stack([1 - one, one], dim=2).log()

    scheduler = DNDMScheduler(mask_token_id=2, times=times)
    scheduler.set_timesteps(3 if times == "budget" else None, block_length=3, generator=seeded(0))
    x, calls, _ = loop(scheduler, exact, torch.full((20000, 3), 2), seeded(0))
    counts = torch.bincount((x * torch.tensor([4, 2, 1])).sum(1), minlength=8)
    assert calls == 3
    chi2 = ((counts - 20000 * law) ** 2 / (20000 * law)).sum()
    assert float(chi2) < 29.9  # quantile 0.9999 of chi-squared with 7 degrees of freedom


def test_predetermined_times_follow_the_law_of_the_schedule():
    scheduler = DNDMScheduler(mask_token_id=MASK, times="predetermined", schedule="beta:5,3", num_train_timesteps=10)
    scheduler.set_timesteps(10, block_length=20000, generator=seeded(0))
    counts = torch.bincount((scheduler.timesteps[scheduler._plan]).long(), minlength=11)[1:] / 20000
    torch.testing.assert_close(counts.double(), TransitionSchedule("beta", 5, 3).pmf(10), atol=0.015, rtol=0)
    assert bool((scheduler.timesteps.diff() < 0).all())


def test_timesteps_are_on_the_scale_of_the_models_training():
    scheduler = DNDMScheduler(mask_token_id=MASK, times="predetermined", num_train_timesteps=1000)
    scheduler.set_timesteps(50, block_length=4000, generator=seeded(0))
    assert scheduler.timesteps.tolist() == [1000.0 - 20 * step for step in range(50)]


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 4), length=st.integers(1, 12), steps=st.integers(1, 15), fixed=st.floats(0, 1),
    seed=st.integers(0, 2**31), top_k=st.booleans(), times=st.sampled_from(["budget", "predetermined"]),
)  # fmt: skip
def test_every_free_position_is_written_once_and_fixed_ones_never(batch, length, steps, fixed, seed, top_k, times):
    prompt = torch.rand(batch, length, generator=seeded(seed)) < fixed
    x = torch.where(prompt, torch.randint(6, (batch, length), generator=seeded(seed)), MASK)
    scheduler = DNDMScheduler(mask_token_id=MASK, times=times, top_k=top_k)
    scheduler.set_timesteps(steps, block_length=length, generator=seeded(seed))
    out, _, writes = loop(scheduler, network(), x, seeded(seed))
    assert torch.equal(writes.bool(), ~prompt)
    assert int(writes.max()) <= 1
    assert torch.equal(out[prompt], x[prompt])
    assert not bool((out == MASK).any())


def test_no_mask_is_left_by_certain_or_tied_scores():
    for logits in (torch.zeros(2, 8, 6), torch.full((2, 8, 6), -50.0).index_fill(2, torch.tensor([1]), 50.0)):
        scheduler = DNDMScheduler(mask_token_id=MASK, top_k=True)
        scheduler.set_timesteps(3)
        x, _, writes = loop(scheduler, lambda x, logits=logits: logits, torch.full((2, 8), MASK))
        assert not bool((x == MASK).any())
        assert bool((writes == 1).all())


def test_the_mask_is_never_drawn_even_where_the_model_likes_it():
    logits = torch.zeros(2, 8, 7).index_fill(2, torch.tensor([MASK]), 30.0)
    scheduler = DNDMScheduler(mask_token_id=MASK)
    scheduler.set_timesteps(2)
    x, _, _ = loop(scheduler, lambda x: logits, torch.full((2, 8), MASK))
    assert int(x.max()) < MASK


def test_another_block_draws_new_times_from_the_generator():
    scheduler = DNDMScheduler(mask_token_id=MASK)
    scheduler.set_timesteps(4)
    generator, x = seeded(0), torch.full((2, 16), MASK)
    loop(scheduler, network(), x, generator)
    first = scheduler.transition_times
    loop(scheduler, network(), x, generator)
    assert not torch.equal(first, scheduler.transition_times)
    loop(scheduler, network(), x, seeded(0))
    assert torch.equal(first, scheduler.transition_times)


def test_a_new_shape_in_the_middle_is_finished_with_the_calls_that_are_left():
    scheduler = DNDMScheduler(mask_token_id=MASK)
    scheduler.set_timesteps(6)
    x = torch.full((3, 12), MASK)
    for step in range(2):
        x = scheduler.step(network()(x), step, x).prev_sample
    x = x[:2]
    before = x.clone()
    for step in range(2, 6):
        output = scheduler.step(network()(x), step, x)
        assert bool((output.transfer_index.sum(1) == 2).all())  # 8 masks a row in 4 calls
        x = output.prev_sample
    assert not bool((x == MASK).any())
    assert torch.equal(x[before != MASK], before[before != MASK])


def test_a_prompt_mask_keeps_tokens_under_uniform_noise():
    scheduler = DNDMScheduler(noise="multinomial")
    scheduler.set_timesteps(3)
    x = torch.randint(6, (2, 8), generator=seeded(0))
    prompt = torch.arange(8) < 3
    out, _, writes = loop(scheduler, network(), x, prompt_mask=prompt)
    assert torch.equal(out[:, :3], x[:, :3])
    assert torch.equal(writes.bool(), ~prompt.expand(2, -1))


def test_version_2_reports_rewritten_positions_as_edits():
    scheduler = DNDMScheduler(mask_token_id=MASK, version=2)
    scheduler.set_timesteps(4)
    x, edits = torch.full((4, 12), MASK), 0
    for t in scheduler.timesteps:
        output = scheduler.step(network()(x), t, x, generator=seeded(0))
        assert not bool((output.transfer_index & output.editing_transfer_index).any())
        edits += int(output.editing_transfer_index.sum())
        x = output.prev_sample
    assert edits > 0


def test_a_tuple_holds_the_fields_of_the_output_and_probabilities_are_the_models():
    scheduler = DNDMScheduler(mask_token_id=MASK, num_inference_steps=1, temperature=0.0)
    x = torch.full((2, 5), MASK)
    logits = network()(x)
    output = scheduler.step(logits, 0, x)
    as_tuple = scheduler.step(logits, torch.tensor(0), x, return_dict=False)
    assert list(output) == [
        "prev_sample", "transfer_index", "editing_transfer_index", "sampled_tokens", "sampled_probs", "pred_logits"
    ]  # fmt: skip
    for field, value in zip(output.values(), as_tuple, strict=True):
        assert torch.equal(field, value)
    best = logits.softmax(-1).max(-1)
    assert torch.equal(output.sampled_tokens, best.indices)
    torch.testing.assert_close(output.sampled_probs.double(), best.values, atol=1e-6, rtol=0)
    assert output.pred_logits is logits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits(dtype):
    scheduler = DNDMScheduler(mask_token_id=MASK, num_inference_steps=2)
    x, _, _ = loop(scheduler, lambda x: network()(x).to(dtype), torch.full((2, 5), MASK))
    assert not bool((x == MASK).any())


@pytest.mark.parametrize(
    "config",
    [
        {"mask_token_id": 7, "schedule": "beta:17,4", "top_k": True, "num_inference_steps": 5},
        {"noise": "multinomial", "vocab_size": 9, "token_correction": "loo", "temperature": 0.5},
        {"mask_token_id": 7, "schedule": [1.0, 0.4, 0.0], "times": "predetermined", "num_train_timesteps": 50},
    ],
    ids=str,
)
def test_save_and_load_round_trip(tmp_path, config):
    scheduler = DNDMScheduler(**config)
    scheduler.save_pretrained(tmp_path)
    loaded = DNDMScheduler.from_pretrained(tmp_path)
    for name in inspect.signature(DNDMScheduler.__init__).parameters.keys() - {"self"}:
        assert loaded.config[name] == scheduler.config[name]
    for each in (scheduler, loaded):
        each.set_timesteps(12, generator=seeded(0))
    assert torch.equal(scheduler.timesteps, loaded.timesteps)
    changed = DNDMScheduler.from_config(scheduler.config, temperature=0.0)
    assert changed.config.temperature == 0.0
    assert changed.config.schedule == scheduler.config.schedule


def test_add_noise_has_the_marginals_of_the_schedule():
    x0 = torch.arange(6).repeat(4, 20000)
    absorbing = DNDMScheduler(mask_token_id=MASK, schedule="cosine", num_train_timesteps=100)
    noisy = absorbing.add_noise(x0, torch.tensor([0, 30, 80, 100]), generator=seeded(0))
    share = (noisy != MASK).double().mean(1)
    expected = torch.cos(torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64) * torch.pi / 2)
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)
    assert torch.equal(noisy[0], x0[0])
    uniform = DNDMScheduler(noise="multinomial", vocab_size=6, num_train_timesteps=100)
    kept = (uniform.add_noise(x0, 40, generator=seeded(0)) == x0).double().mean()
    assert abs(float(kept) - (0.6 + 0.4 / 6)) < 0.01


BAD_CONFIGS = [
    ({"noise": "gaussian"}, "noise must be absorbing or multinomial"),
    ({"times": "random"}, "times must be budget or predetermined"),
    ({"version": 3}, "version must be 1 or 2"),
    ({"token_correction": "yes"}, "token_correction must be"),
    ({"token_correction": "loo"}, "absorbing noise has no such bias"),
    ({"top_k": True, "version": 2}, "two different algorithms"),
    ({"top_k": True, "restoration_order": "left_to_right"}, "top_k chooses the positions"),
    ({"restoration_order": "inside_out"}, "order must be random"),
    ({"noise": "multinomial", "mask_token_id": 3}, "multinomial noise has no mask"),
    ({"num_train_timesteps": 0}, "num_train_timesteps must be at least 1"),
    ({"temperature": -1.0}, "temperature must be 0 or more"),
    ({"schedule": "sigmoid"}, "there is no 'sigmoid'"),
    ({"schedule": [1.0, 0.5]}, "alphas must fall from 1 to 0"),
    ({"num_inference_steps": 0}, "num_inference_steps must be at least 1"),
    ({"block_length": 0}, "block_length must be at least 1"),
    ({"num_inference_steps": None}, "num_inference_steps is needed"),
]


@pytest.mark.parametrize(("config", "message"), BAD_CONFIGS, ids=[str(config) for config, _ in BAD_CONFIGS])
def test_bad_configurations_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        DNDMScheduler(**config)


X = torch.full((2, 4), MASK)
LOGITS = torch.zeros(2, 4, 6)
BAD_STEPS = [
    ({}, {"timestep": 9}, "step index 0..1, got 9"),
    ({}, {"sample": X.float()}, "sample must be token ids"),
    ({}, {"sample": X[0]}, "sample must be token ids"),
    ({}, {"temperature": -0.5}, "temperature must be 0 or more"),
    ({}, {"model_output": LOGITS[:, :3]}, "logits"),
    ({}, {"model_output": X}, "floating-point"),
    ({}, {"model_output": LOGITS * torch.nan}, "NaN"),
    ({}, {"top_p": 0.9}, "does not filter logits"),
    ({}, {"prompt_mask": torch.zeros(3, dtype=torch.bool)}, "prompt_mask must be bool"),
    ({"mask_token_id": None}, {}, "mask_token_id is needed"),
    ({"mask_token_id": None, "noise": "multinomial"}, {"mask_token_id": 3}, "noise is multinomial"),
    ({"mask_token_id": None, "noise": "multinomial", "vocab_size": 9}, {}, "vocab_size 9"),
    ({"times": "predetermined"}, {}, "call set_timesteps before step"),
]


@pytest.mark.parametrize(("config", "step", "message"), BAD_STEPS, ids=[str(message) for _, _, message in BAD_STEPS])
def test_bad_steps_are_named(config, step, message):
    scheduler = DNDMScheduler(**{"mask_token_id": MASK, "num_inference_steps": 2, **config})
    with pytest.raises((ValueError, RuntimeError), match=message):
        scheduler.step(**{"model_output": LOGITS, "timestep": 0, "sample": X, **step})


def test_bad_use_of_predetermined_times_is_named():
    scheduler = DNDMScheduler(mask_token_id=MASK, times="predetermined")
    scheduler.set_timesteps(10, block_length=3, generator=seeded(0))
    with pytest.raises(ValueError, match=r"block_length = 3 positions, but a row has 4"):
        scheduler.step(LOGITS, scheduler.timesteps[0], X)
    with pytest.raises(ValueError, match=r"123\.5 is not one of scheduler\.timesteps"):
        scheduler.step(LOGITS, 123.5, X)
    with pytest.raises(ValueError, match="drawn at the first step"):
        _ = scheduler.transition_times
    scheduler.set_timesteps(10, block_length=4, generator=seeded(0))
    with pytest.raises(ValueError, match=r"must start at scheduler\.timesteps\[0\]"):
        scheduler.step(LOGITS, scheduler.timesteps[-1], X)
    with pytest.raises(TypeError, match="temprature"):
        scheduler.step(LOGITS, scheduler.timesteps[0], X, temprature=1.0)
    with pytest.raises(ValueError, match=r"in 0\.\.1000"):
        scheduler.add_noise(X, 2000)
    with pytest.raises(ValueError, match="add_noise needs vocab_size"):
        DNDMScheduler(noise="multinomial").add_noise(X, 5)


def test_the_step_signature_has_what_pipelines_look_for():
    names = inspect.signature(DNDMScheduler.step).parameters
    assert {"model_output", "timestep", "sample", "mask_token_id", "temperature", "generator", "return_dict"} <= {
        *names
    }
    assert "block_length" in inspect.signature(DNDMScheduler.set_timesteps).parameters


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


class Processor:
    """Stands in for a tokenizer: every prompt is five tokens."""

    eos_token_id = None

    def apply_chat_template(self, messages, **options):
        return {"input_ids": torch.arange(3, 8).repeat(len(messages), 1)}

    def batch_decode(self, sequences, **options):
        return [" ".join(map(str, row.tolist())) for row in sequences]


@pytest.mark.parametrize("config", [{}, {"token_correction": "loo"}, {"top_k": True}], ids=str)
def test_diffusion_gemma_pipeline_runs_with_dndm(tiny_diffusion_gemma, config):
    from diffusers import DiffusionGemmaPipeline

    model = tiny_diffusion_gemma
    pipe = DiffusionGemmaPipeline(
        model=model, scheduler=DNDMScheduler(noise="multinomial", **config), processor=Processor()
    )
    pipe.set_progress_bar_config(disable=True)
    canvases = []

    def keep(pipeline, step, timestep, state):
        canvases.append(state["canvas"])
        return {}

    output = pipe(
        prompt=["a", "b"], gen_length=16, num_inference_steps=4, temperature=1.0, generator=seeded(0),
        confidence_threshold=None, callback_on_step_end=keep,
    )  # fmt: skip
    assert output.sequences.shape == (2, 16)
    assert len(canvases) == 8  # two canvases of 8 tokens, 4 calls each
    for block in (canvases[:4], canvases[4:]):
        for before, after in pairwise(block):
            assert int((before != after).sum(1).max()) <= 2  # 8 positions in 4 calls: two each, the others stay
    assert torch.equal(output.sequences, torch.cat([canvases[3], canvases[7]], dim=1))
    assert not bool(pipe.scheduler._block.waiting.any())
    again = pipe(
        prompt=["a", "b"], gen_length=16, num_inference_steps=4, temperature=1.0, generator=seeded(0),
        confidence_threshold=None,
    )  # fmt: skip
    assert torch.equal(output.sequences, again.sequences)


class MaskedModel(nn.Module):
    """The call convention of LLaDA2: counts its calls, likes no token in particular."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.calls = 0
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, input_ids, attention_mask, position_ids):
        from transformers.modeling_outputs import MaskedLMOutput

        self.calls += 1
        return MaskedLMOutput(logits=(network()(input_ids) * self.scale).float())


@pytest.mark.parametrize("steps", [3, 8])
def test_llada2_pipeline_runs_with_dndm_and_makes_no_call_beyond_the_last_transition(steps):
    from diffusers import LLaDA2Pipeline

    model = MaskedModel()
    pipe = LLaDA2Pipeline(model=model, scheduler=DNDMScheduler(mask_token_id=MASK))
    pipe.set_progress_bar_config(disable=True)
    prompt = torch.tensor([[1, 2, 3], [4, 5, 0]])
    output = pipe(
        input_ids=prompt, gen_length=13, block_length=8, num_inference_steps=steps, temperature=1.0,
        mask_token_id=MASK, generator=seeded(0), output_type="seq", eos_token_id=99,
    )  # fmt: skip
    assert output.sequences.shape == (2, 13)
    assert not bool((output.sequences == MASK).any())
    assert model.calls == min(steps, 5) + min(steps, 8)  # the first block holds three prompt tokens
