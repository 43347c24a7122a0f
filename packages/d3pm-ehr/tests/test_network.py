"""Denoisers, training, sampling, guidance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from d3pm_ehr import (
    EHRD3PM,
    Cohort,
    Diffusion,
    GeneratorConfig,
    Guidance,
    LangevinGuide,
    Network,
    Training,
    embedded_cohort,
)
from d3pm_ehr.checkpoint import load_state, save_state
from d3pm_ehr.cohort import empirical_laws
from d3pm_ehr.condition import Condition, Term
from d3pm_ehr.denoiser import make_denoiser
from d3pm_ehr.process import DiscreteDiffusion
from d3pm_ehr.sampling import Draws, _precision, sample_by_transition_times, sample_tokens
from d3pm_ehr.schedule import noise_schedule, subsequence
from d3pm_ehr.training import TrainingState
from shared_core.errors import InputError
from torch import Tensor


def config(
    kernel: str = "uniform", backbone: str = "mlp", steps: int = 12, evidence: bool = False, **training: object
) -> GeneratorConfig:
    return GeneratorConfig(
        Diffusion(kernel=kernel, num_steps=6, evidence=evidence),  # type: ignore[arg-type] # a literal
        Network(backbone=backbone, width=16, depth=2, heads=2, rank=4),  # type: ignore[arg-type] # a literal
        Training(steps=steps, batch_size=32, checkpoint_every=4, **training),  # type: ignore[arg-type] # by name
    )


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return embedded_cohort(400, seed=1, codes=24)


@pytest.mark.parametrize("backbone", ["mlp", "transformer", "linear"])
@pytest.mark.parametrize("kernel", ["uniform", "marginal", "absorbing"])
def test_an_untrained_denoiser_is_exact_for_independent_columns(cohort: Cohort, backbone: str, kernel: str) -> None:
    settings = config(kernel, backbone, evidence=True)
    model = EHRD3PM(settings, "cpu").build(cohort.vocabulary, empirical_laws(cohort)).denoiser
    x0, t = cohort.tokens(slice(0, 20)), torch.full((20,), 3)
    x_t = model.process.corrupt(x0, t, torch.Generator().manual_seed(0))
    laws = model.layout.probabilities(model(x_t, t))
    for group, law, pi in zip(
        model.layout.groups, laws, [part for _, part in model.layout.parts(model.base_logits)], strict=True
    ):
        signal = float(model.process.abar[3])
        prior = torch.stack([torch.sigmoid(-pi), torch.sigmoid(pi)], -1) if group.levels == 2 else pi.softmax(-1)
        a = x_t[:, group.start : group.stop].long()
        if kernel == "absorbing":
            expected = torch.where(
                (a == group.levels)[..., None],
                prior,
                torch.nn.functional.one_hot(a, group.levels + 1)[..., :-1].float(),
            )
        else:
            hot = torch.nn.functional.one_hot(a, group.levels)
            stationary = model.process.pi[model.layout.groups.index(group)]
            to_a = signal * hot + (1 - signal) * (hot * stationary).sum(-1, keepdim=True)
            expected = prior * to_a / (prior * to_a).sum(-1, keepdim=True)
        torch.testing.assert_close(law, expected[..., 1] if group.levels == 2 else expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backbone", ["mlp", "transformer", "linear"])
def test_head_of_hidden_is_forward_and_one_time_serves_all(cohort: Cohort, backbone: str) -> None:
    model = EHRD3PM(config(backbone=backbone), "cpu").build(cohort.vocabulary, empirical_laws(cohort)).denoiser
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    x, t = cohort.tokens(slice(0, 8)), torch.full((8,), 2)
    torch.testing.assert_close(model(x, t), model.head(model.hidden(x, t)) + model.offset(x, t))
    torch.testing.assert_close(model(x, t), model(x, t[:1]))
    assert model.pooled(model.hidden(x, t)).shape == (8, 16)


def test_linear_attention_costs_no_square(cohort: Cohort) -> None:
    layer = (
        EHRD3PM(config(backbone="linear"), "cpu").build(cohort.vocabulary, empirical_laws(cohort)).denoiser.layers[0]
    )  # type: ignore[union-attr, index]
    assert layer.project.shape == (2, 4, cohort.vocabulary.layout.columns)  # type: ignore[union-attr]


@pytest.mark.parametrize("kernel", ["uniform", "marginal", "absorbing"])
@pytest.mark.parametrize("loss", ["ce", "vlb", "hybrid"])
def test_training_learns_what_the_codes_have_in_common(kernel: str, loss: str) -> None:
    rows, held = _copies(1500, 0), _copies(500, 1)
    seen: list[float] = []
    sampler = "importance" if loss == "vlb" else "uniform"
    settings = config(kernel, steps=100, loss=loss, learning_rate=1e-2, ema=0.9, time_sampler=sampler)
    settings = replace(settings, training=replace(settings.training, checkpoint_every=50))
    EHRD3PM(settings, "cpu").fit(rows, held, after=lambda state, metrics: seen.append(metrics["held_out_bound"]))
    untrained = float(-EHRD3PM(settings, "cpu").build(rows.vocabulary, empirical_laws(rows)).elbo(held, draws=4).mean())
    assert min(seen) < 0.8 * untrained
    assert min(seen) > 2 * 0.6


def _copies(rows: int, seed: int) -> Cohort:
    """Two bits of probability 0.3 (0.61 nats each), each three times."""
    bits = np.random.default_rng(seed).random((rows, 2)) < 0.3
    return Cohort.from_arrays(np.repeat(bits, 3, axis=1))


def test_the_bound_is_above_the_exact_likelihood_of_the_embedded_law() -> None:
    from d3pm_ehr.embedded import embedded_law

    law = embedded_law()
    rows = law.sample(2000, seed=5)
    entropy = -law.log_likelihood(rows)
    model = EHRD3PM(config(), "cpu").build(rows.vocabulary, empirical_laws(rows))
    bound = -model.elbo(rows).double().numpy()
    assert bound.mean() > entropy.mean() - 3 * (bound - entropy).std() / np.sqrt(2000)


def test_an_interrupted_training_goes_on_to_the_same_bits(cohort: Cohort, tmp_path: Path) -> None:
    settings = config(steps=12, time_sampler="importance")
    whole = EHRD3PM(settings, "cpu").fit(cohort, cohort)

    class StopError(Exception):
        pass

    def stop(state: TrainingState, metrics: dict[str, float]) -> None:
        save_state(tmp_path, cut, state)
        if state.step == 8:
            raise StopError

    cut = EHRD3PM(settings, "cpu")
    with pytest.raises(StopError):
        cut.fit(cohort, cohort, after=stop)
    again = EHRD3PM(settings, "cpu").build(cohort.vocabulary, empirical_laws(cohort))
    state = load_state(tmp_path, again)
    assert state.step == 8
    again.fit(cohort, cohort, state=state)
    for name, value in whole.denoiser.state_dict().items():
        assert torch.equal(value, again.denoiser.state_dict()[name]), name


@pytest.mark.parametrize("judge", ["bound", "ce"])
@pytest.mark.parametrize("loss", ["ce", "vlb"])
def test_early_stopping_keeps_the_best_weights(cohort: Cohort, judge: str, loss: str) -> None:
    few, seen = cohort.take(np.arange(20)), []
    settings = config(steps=400, patience=2, learning_rate=0.05, judge=judge, loss=loss)
    model = EHRD3PM(settings, "cpu").fit(few, cohort, after=lambda state, metrics: seen.append(metrics))
    assert model.state.stopped
    assert model.state.step < 400
    values = [metrics[f"held_out_{judge}"] for metrics in seen]
    assert model.state.best_loss == min(values)
    assert min(values[-2:]) > min(values)


def test_a_diverging_loss_is_told(cohort: Cohort) -> None:
    from shared_core.errors import RunError

    with pytest.raises(RunError, match="the loss is nan at step"):
        EHRD3PM(config(steps=40, learning_rate=1e30), "cpu").fit(cohort)


@pytest.fixture(scope="module", params=["uniform", "marginal", "absorbing"])
def trained(request: pytest.FixtureRequest) -> EHRD3PM:
    rows = embedded_cohort(3000, seed=2, codes=24)
    settings = config(request.param, steps=150, learning_rate=1e-2)
    return EHRD3PM(replace(settings, training=replace(settings.training, checkpoint_every=150)), "cpu").fit(rows)


def test_draws_depend_on_seed_and_row_only(trained: EHRD3PM) -> None:
    trained.denoiser.double()
    trained.denoiser.process.to("cpu", torch.float64)
    try:
        one, many = trained.sample(700, seed=3, batch_size=256), trained.sample(700, seed=3, batch_size=5000)
        first, other = trained.sample(300, seed=3), trained.sample(700, seed=4)
    finally:
        trained.denoiser.float()
        trained.denoiser.process.to("cpu", torch.float32)
    assert torch.equal(one.tokens(), many.tokens())
    assert torch.equal(one.tokens()[:300], first.tokens())
    assert not torch.equal(one.tokens(), other.tokens())


def test_all_steps_of_a_subsequence_are_full_sampling(trained: EHRD3PM) -> None:
    assert torch.equal(trained.sample(100, seed=1, num_steps=6).tokens(), trained.sample(100, seed=1).tokens())
    assert not torch.equal(trained.sample(100, seed=1, num_steps=3).tokens(), trained.sample(100, seed=1).tokens())
    with pytest.raises(InputError, match=r"num_steps must be in 1\.\.6"):
        trained.sample(10, num_steps=7)


def test_samples_resemble_the_records(trained: EHRD3PM) -> None:
    made, real = trained.sample(3000, seed=9), embedded_cohort(3000, seed=8, codes=24)
    p, q = (np.asarray(c.codes.mean(0)).ravel() for c in (real, made))
    assert 1 - ((p - q) ** 2).sum() / ((p - p.mean()) ** 2).sum() > 0.7  # 150 steps of width 16
    assert made.columns.max(0).tolist() == [9, 1, 1]


class Fixed(torch.nn.Module):
    """A denoiser whose law does not look at x_t: samples then have its probabilities exactly."""

    def __init__(self, process: DiscreteDiffusion, logits: Tensor) -> None:
        super().__init__()
        self.process, self.logits, self.layout = process, logits, process.layout

    def hidden(self, x: Tensor, t: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)

    def head(self, z: Tensor) -> Tensor:
        return z

    def offset(self, x: Tensor, t: Tensor) -> Tensor:
        return self.process.evidence(x, t)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.hidden(x, t) + self.offset(x, t)


def test_transition_times_draw_the_ancestral_law_with_few_calls() -> None:
    from d3pm_ehr.layout import TokenLayout

    layout = TokenLayout([2, 2, 2, 4])
    process = DiscreteDiffusion(layout, noise_schedule("linear", 200), "absorbing")
    model = Fixed(process, torch.tensor([-2.0, 0.0, 1.0, 0.5, -1.0, 0.2, 0.0]))
    calls = [0]

    def tick() -> None:
        calls[0] += 1

    fast = torch.cat(list(sample_by_transition_times(model, 20_000, 0, batch_size=20_000, tick=tick)))  # type: ignore[arg-type] # a denoiser in all that is used
    assert calls[0] <= layout.columns
    slow = torch.cat(list(sample_tokens(model, 20_000, subsequence(200, 20), 1, batch_size=20_000)))  # type: ignore[arg-type]
    expected = [float(torch.sigmoid(torch.tensor(v))) for v in (-2.0, 0.0, 1.0)]
    for made in (fast, slow):
        assert made[:, :3].float().mean(0).tolist() == pytest.approx(expected, abs=0.012)
        shares = torch.bincount(made[:, 3].long(), minlength=4) / len(made)
        torch.testing.assert_close(shares, model.logits[3:].softmax(0), atol=0.012, rtol=0)


def test_transition_times_need_the_absorbing_kernel(trained: EHRD3PM) -> None:
    if trained.config.diffusion.kernel == "absorbing":
        assert len(trained.sample(50, transition_times=True)) == 50
        with pytest.raises(InputError, match="transition times go with neither"):
            trained.sample(5, transition_times=True, condition="401")
    else:
        with pytest.raises(InputError, match="need kernel absorbing"):
            trained.sample(5, transition_times=True)


def test_guidance_gradient_has_the_closed_form() -> None:
    from d3pm_ehr.layout import TokenLayout

    g = torch.Generator().manual_seed(0)
    process = DiscreteDiffusion(TokenLayout([2] * 5), noise_schedule("cosine", 4)).to("cpu", torch.float64)
    model = make_denoiser(process, Network(width=7), torch.full((5,), 0.3, dtype=torch.float64)).double()
    with torch.no_grad():
        model.output.weight.copy_(torch.randn(5, 7, generator=g, dtype=torch.float64))  # type: ignore[union-attr, operator]
    w, c0, strength = torch.randn(7, generator=g, dtype=torch.float64), 0.3, 0.7
    guide = LangevinGuide(model, Guidance(strength=strength), classifier=_Linear(w, c0))
    y, z = torch.randn(2, 3, 7, generator=g, dtype=torch.float64)
    t = torch.tensor([2])
    reference = model.head(z)
    found = guide.gradient(y, z, reference, 0.0, torch.zeros(3, 5, dtype=torch.uint8), t)
    a_y, a_z = model.head(y), model.head(z)
    s = torch.sigmoid(a_y)
    expected = (
        strength * ((s * (1 - s) * (a_y - a_z)) @ model.output.weight) - w * (1 - torch.sigmoid(y @ w + c0))[:, None]
    )  # type: ignore[union-attr, operator]
    torch.testing.assert_close(found, expected)
    by_autograd = y.clone().requires_grad_()
    p, q = torch.sigmoid(model.head(by_autograd)), torch.sigmoid(a_z)
    energy = (
        strength * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
        - torch.nn.functional.logsigmoid(by_autograd @ w + c0).sum()
    )
    energy.backward()
    torch.testing.assert_close(found, by_autograd.grad)


class _Linear(torch.nn.Module):
    def __init__(self, w: Tensor, c: float) -> None:
        super().__init__()
        self.w, self.c = w, c

    def forward(self, pooled: Tensor, t: Tensor) -> Tensor:
        return pooled @ self.w + self.c


def test_no_inner_step_or_a_constant_classifier_changes_no_bit(trained: EHRD3PM) -> None:
    plain = trained.sample(200, seed=5).tokens()
    assert torch.equal(trained.sample(200, seed=5, condition="401", guidance=Guidance(inner_steps=0)).tokens(), plain)
    zero = _Linear(torch.zeros(16), 0.2)
    guide = LangevinGuide(trained.denoiser, Guidance(strength=2.0), classifier=zero)
    made = torch.cat(list(sample_tokens(trained.denoiser, 200, subsequence(6, 6), 5, guide=guide)))
    assert torch.equal(made, plain)


@pytest.mark.parametrize("method", ["own_head", "classifier", "replace", "reject"])
def test_guidance_raises_the_wanted_condition(trained: EHRD3PM, method: str) -> None:
    wanted = Condition.parse("250", trained.vocabulary)
    base = float(wanted.holds(trained.sample(600, seed=1).tokens()).float().mean())
    if method == "classifier":
        with pytest.raises(InputError, match="no classifier was trained"):
            trained.sample(10, condition="250", guidance=Guidance(method="classifier"))
        trained.fit_classifier("250", embedded_cohort(2000, seed=4, codes=24), steps=150, learning_rate=1e-2)
    settings = Guidance(method=method, strength=0.01, inner_steps=10, learning_rate=3.0)  # type: ignore[arg-type] # a literal
    share = float(wanted.holds(trained.sample(300, seed=1, condition="250", guidance=settings).tokens()).float().mean())
    assert share == 1 if method in ("replace", "reject") else share > 1.3 * base


def test_langevin_noise_has_the_temperature() -> None:
    from d3pm_ehr.layout import TokenLayout

    process = DiscreteDiffusion(TokenLayout([2] * 3), noise_schedule("cosine", 4))
    model = make_denoiser(process, Network(width=8), torch.full((3,), 0.3))
    flat = _Linear(torch.zeros(8), 0.0)
    guide = LangevinGuide(model, Guidance(inner_steps=1, learning_rate=0.5, temperature=0.2), classifier=flat)
    x, z = torch.zeros(256, 3, dtype=torch.uint8), torch.zeros(256, 8)
    y = guide(x, torch.tensor([2]), z, Draws(0, range(1), torch.device("cpu")))
    assert float(y.std()) == pytest.approx((2 * 0.5 * 0.2) ** 0.5, rel=0.05)


def test_given_codes_are_kept_and_contradictions_refused(trained: EHRD3PM) -> None:
    made = trained.sample(100, given={"250": 1, "401": 0, "sex": "female"})
    place = made.vocabulary.codes.index
    dense = made.codes.toarray()
    assert dense[:, place("ICD9CM:250")].all()
    assert not dense[:, place("ICD9CM:401")].any()
    assert (made.columns[:, 1] == 1).all()
    with pytest.raises(InputError, match="given contradicts itself about ICD9CM:250"):
        trained.sample(5, given={"250": 1, "ICD9CM:250": 0})
    with pytest.raises(InputError, match="not in the vocabulary of 24 codes; nearest"):
        trained.sample(5, given={"259": 1})
    with pytest.raises(InputError, match="n must be at least 1, got 0"):
        trained.sample(0)


def test_conditions_are_logic(cohort: Cohort) -> None:
    tokens, names = cohort.tokens(), cohort.vocabulary
    has = {c: tokens[:, names.find(c)] == 1 for c in ("250", "401", "272")}
    assert torch.equal(Condition.parse("250,!401", names).holds(tokens), has["250"] & ~has["401"])
    assert torch.equal(Condition.parse("250|272", names).holds(tokens), has["250"] | has["272"])
    assert torch.equal(Condition.parse("!250|272", names).holds(tokens), ~(has["250"] | has["272"]))
    assert torch.equal(Condition.parse("age=60-69", names).holds(tokens), tokens[:, names.find("age")] == 6)
    logits = torch.randn(5, names.layout.logits, generator=torch.Generator().manual_seed(0))
    p = torch.sigmoid(logits[:, [names.find("250"), names.find("272")]])
    found = Condition.parse("250|272", names).log_probability(names.layout, logits).exp()
    torch.testing.assert_close(found, 1 - (1 - p).prod(1), rtol=1e-4, atol=1e-5)
    for text, words in {"250,!250": "contradicts itself", "sex": "is a column; write sex=LEVEL", "250,": "empty term",
                        "sex=other": "has no level 'other'"}.items():  # fmt: skip
        with pytest.raises(InputError, match=words):
            Condition.parse(text, names)
    with pytest.raises(InputError, match="any-of term"):
        Condition.parse("250|272", names).fixed(names.layout)


def test_conditions_fix_a_level_only_where_one_is_left(cohort: Cohort) -> None:
    names = cohort.vocabulary
    token = names.find("age")
    assert Condition.parse("!250,sex=male", names).fixed(names.layout) == {names.find("250"): 0, names.find("sex"): 0}
    assert Condition.parse("!sex=male", names).fixed(names.layout) == {names.find("sex"): 1}
    with pytest.raises(InputError, match="does not say what to fix"):
        Condition.parse("!age=0-9", names).fixed(names.layout)  # nine levels are left
    many = ",".join(f"!age={level}" for level in names.levels_of(token)[:9])
    assert Condition.parse(many, names).fixed(names.layout) == {token: 9}
    for text in ("!sex=male,!sex=female", "250|272,!250|272", "age=0-9|age=10-19,age=20-29"):
        with pytest.raises(InputError, match="contradicts itself"):
            Condition.parse(text, names)
    wanted = Condition.parse("250|272,!401", names)
    wanted.refuse_given({names.find("250"): 0}, names)  # 272 may still be there
    for given in ({"250": 0, "272": 0}, {"401": 1}):
        with pytest.raises(InputError, match="contradict each other"):
            wanted.refuse_given(names.fixed(given), names)


def test_guidance_of_the_joint_form_reads_the_law_given_the_token_itself(cohort: Cohort) -> None:
    """Joint with p' is mixture with p, so own-head guidance without the KL has to be the same update on either."""
    from d3pm_ehr.layout import TokenLayout

    g = torch.Generator().manual_seed(0)
    updates = {}
    for form in ("mixture", "joint"):
        process = DiscreteDiffusion(TokenLayout([2] * 5), noise_schedule("cosine", 4), form=form)  # type: ignore[arg-type] # a literal
        process.to("cpu", torch.float64)
        # the offset makes the mixture's head p(x_0 | x_t) of the joint's p'
        model = make_denoiser(process, Network(width=7), torch.full((5,), 0.3), evidence=form == "mixture").double()
        with torch.no_grad():
            weight = torch.randn(5, 7, generator=g.manual_seed(1), dtype=torch.float64)
            model.output.weight.copy_(weight)  # type: ignore[union-attr, operator]
        x, t = torch.tensor([[1, 0, 1, 0, 0]], dtype=torch.uint8), torch.tensor([3])
        z = torch.randn(1, 7, generator=g.manual_seed(2), dtype=torch.float64)
        guide = LangevinGuide(model, Guidance(strength=0.0), condition=Condition((Term(((0, 1),)),)))
        updates[form] = guide(x, t, z, Draws(0, range(1), torch.device("cpu")))
        torch.testing.assert_close(
            process.clean_logits(x, t, model(x, t)), model.head(model.hidden(x, t)) + process.evidence(x, t)
        )
    torch.testing.assert_close(updates["joint"], updates["mixture"])


def test_rare_levels_keep_their_share_over_many_absorbing_steps() -> None:
    from d3pm_ehr.layout import TokenLayout

    process = DiscreteDiffusion(TokenLayout([2] * 2000), noise_schedule("linear", 4000), "absorbing")
    model = Fixed(process, torch.full((2000,), -11.5))  # a share of 1e-5
    t = torch.tensor([4000])
    steps = process.steps(t - 1, t)
    leave = float(1 - steps.noise_s / steps.noise_t)
    precision = _precision(model, model.logits)  # type: ignore[arg-type] # a denoiser in all that is used
    u = torch.rand(500, 2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * leave  # all leave MASK
    near = (u * 2**24).floor() / 2**24 if precision == torch.float32 else u  # what a float32 draw can be
    drawn = process.step_back(
        torch.full((500, 2000), 2, dtype=torch.uint8), model.logits.expand(500, -1), t - 1, t, near
    )
    assert 0 < int((drawn == 1).sum()) < 30  # ten of a million; float32 gave more than a hundred


def test_importance_sampled_times_give_the_same_expected_loss(trained: EHRD3PM) -> None:
    from d3pm_ehr.objective import ImportanceTimes, UniformTimes, training_loss

    model, rows = trained.denoiser, embedded_cohort(3000, seed=9, codes=24).tokens().repeat(4, 1)
    g = torch.Generator().manual_seed(0)
    found = {}
    for times in (UniformTimes(6), ImportanceTimes(6)):
        times.update(torch.arange(1, 7).repeat(11), torch.tensor([1.0, 1, 2, 5, 9, 4]).repeat(11))
        t, weights = times.draw(len(rows), g)
        x_t = model.process.corrupt(rows, t, g)
        with torch.no_grad():
            loss, each = training_loss(model.process, rows, x_t, t, weights, model(x_t, t), "vlb", 0.0)
        found[type(times).__name__] = float(loss), float((each * weights).std()) / len(rows) ** 0.5
    (first, one), (second, two) = found.values()
    assert abs(first - second) < 4 * (one**2 + two**2) ** 0.5


def test_a_constant_code_is_told_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    rows = Cohort.from_arrays(np.array([[1, 0, 1], [1, 0, 0]] * 8), ["all", "none", "some"])
    model = EHRD3PM(config(steps=2), "cpu").fit(rows)
    assert "2 codes are in none or in all of the 16 training records: all, none" in caplog.text
    assert len(model.vocabulary.codes) == 3


def test_a_saved_model_is_the_same_and_holds_no_record(trained: EHRD3PM, tmp_path: Path) -> None:
    rows = embedded_cohort(3000, seed=2, codes=24)
    trained.classifiers.clear()
    trained.save(tmp_path)
    again = EHRD3PM.from_pretrained(tmp_path, "cpu")
    assert torch.equal(again.sample(64, seed=2).tokens(), trained.sample(64, seed=2).tokens())
    save_state(tmp_path, trained, trained.state)
    for name in ("model.safetensors", "checkpoint.safetensors"):
        _no_rows(tmp_path / name, rows)
    assert {p.name for p in tmp_path.iterdir()} == {"model.safetensors", "model.json", "checkpoint.safetensors"}


def _no_rows(path: Path, rows: Cohort) -> None:
    """No integer tensors but counters, none with a row for each record, and no record's bytes."""
    from safetensors.torch import load_file

    raw = path.read_bytes()
    for name, value in load_file(path).items():
        assert value.is_floating_point(), name
        assert len(rows) not in value.shape, name
    tokens = rows.tokens()
    long = tokens[tokens.sum(1) > 6]
    assert len(long)
    assert not any(row.numpy().tobytes() in raw for row in long[:200])


def test_a_damaged_model_is_one_line(trained: EHRD3PM, tmp_path: Path) -> None:
    trained.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="holds a damaged model"):
        EHRD3PM.from_pretrained(tmp_path, "cpu")
    with pytest.raises(InputError, match="holds no trained model"):
        EHRD3PM.from_pretrained(tmp_path / "nothing", "cpu")


def test_the_wrong_posterior_is_seen_on_records() -> None:
    """Trained by cross-entropy, sampled by the joint form: far too many codes (the refusal's reason)."""
    rows = embedded_cohort(3000, seed=2, codes=24, columns=False)
    settings = config(steps=150, learning_rate=1e-2)
    settings = replace(
        settings,
        diffusion=replace(settings.diffusion, num_steps=30),
        training=replace(settings.training, checkpoint_every=150),
    )
    model = EHRD3PM(settings, "cpu").fit(rows)
    right = float(model.sample(800, seed=0).lengths().mean())
    model.denoiser.process.form = "joint"
    wrong = float(model.sample(800, seed=0).lengths().mean())
    assert abs(right - rows.lengths().mean()) < 0.5
    assert wrong > 1.5 * right


def test_numpy_and_data_frames_are_accepted() -> None:
    import pandas as pd

    table = embedded_cohort(200, codes=6, columns=False).codes.toarray()
    model = EHRD3PM(config(steps=3), "cpu").fit(pd.DataFrame(table, columns=list("abcdef")))
    assert model.vocabulary.codes == tuple("abcdef")
    frame = embedded_cohort(5, codes=6).frame()
    assert frame.shape == (5, 9)
    assert set(frame["sex"]) <= {"male", "female"}
    with pytest.raises(InputError, match="row 1, column 2: a code is 0 or 1, got nan"):
        Cohort.from_arrays(np.array([[0, 1, 0], [0, 0, np.nan]]))
    with pytest.raises(InputError, match="row 1, column 2: a code is 0 or 1, got 3"):
        Cohort.from_arrays(np.array([[0, 1, 0], [0, 0, 3]]))
    with pytest.raises(InputError, match="no rows"):
        Cohort.from_arrays(np.zeros((0, 3)))
