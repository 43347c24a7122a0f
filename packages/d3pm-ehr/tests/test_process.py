"""Exact statements about the process: tables of the literature, closed forms, enumeration of 2^3 states."""

import itertools
import math

import pytest
import torch
from d3pm_ehr.config import check_loss
from d3pm_ehr.layout import TokenLayout
from d3pm_ehr.objective import ImportanceTimes, bound, training_loss
from d3pm_ehr.posterior import (
    binary_posterior,
    joint,
    joint_to_mixture,
    mixture,
    mixture_to_joint,
    posterior,
    steps_between,
)
from d3pm_ehr.process import DiscreteDiffusion
from d3pm_ehr.schedule import noise_schedule, subsequence
from hypothesis import given
from hypothesis import strategies as st
from shared_core.errors import InputError
from torch import Tensor

F64 = torch.float64
LAW = torch.tensor([0.40, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.30], dtype=F64)
STATES = torch.tensor(list(itertools.product((0, 1), repeat=3)), dtype=torch.uint8)


def _steps(abar: Tensor, s: int, t: int):
    return steps_between(abar, torch.tensor(s), torch.tensor(t), F64)


def _kernel(keep: float, pi: Tensor) -> Tensor:
    return keep * torch.eye(len(pi), dtype=F64) + (1 - keep) * pi.expand(len(pi), -1)


def test_cosine_schedule_has_the_published_table() -> None:
    table = [1, 0.9859476341, 0.948001013, 0.8870797659, 0.8046603079, 0.7027400589, 0.583789037, 0.4506899978,
             0.3066685714, 0.1552150899, 0]  # fmt: skip
    assert noise_schedule("cosine", 10).tolist() == pytest.approx(table, abs=1e-9)
    assert noise_schedule("cosine_squared", 10).tolist() == pytest.approx([v * v for v in table], abs=1e-9)
    linear = noise_schedule("linear", 7)
    assert (linear[1:] / linear[:-1]).tolist() == pytest.approx([1 - 1 / (7 - t + 1) for t in range(1, 8)])


def test_binary_posterior_has_the_published_four_numbers() -> None:
    abar, pi = noise_schedule("cosine", 10), torch.full((1,), 0.5, dtype=F64)
    found = [float(binary_posterior(torch.tensor([a]), b, pi, _steps(abar, 4, 5))) for a in (0, 1) for b in (0, 1)]
    assert found == pytest.approx([0.00726541, 0.38448286, 0.61551714, 0.99273459], abs=5e-9)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.integers(1, 11), st.data())
def test_closed_form_posterior_is_bayes_rule_on_the_matrices(weights: list[float], t: int, data: st.DataObject) -> None:
    pi = torch.tensor(weights, dtype=F64) / sum(weights)
    abar = noise_schedule("cosine_squared", 12)
    s = data.draw(st.integers(0, t - 1))
    to_t, to_s = _kernel(float(abar[t] / abar[s]), pi), _kernel(float(abar[s]), pi)
    whole = _kernel(float(abar[t]), pi)
    torch.testing.assert_close(to_s @ to_t, whole)  # Chapman-Kolmogorov
    for a, b in itertools.product(range(len(pi)), repeat=2):
        brute = to_t[:, a] * to_s[b] / whole[b, a]
        found = posterior(torch.tensor([a]), torch.tensor([b]), pi[None], _steps(abar, s, t))[0]
        torch.testing.assert_close(found, brute)
        assert float(found.sum()) == pytest.approx(1)
        if len(pi) == 2:
            one = binary_posterior(torch.tensor([a]), torch.tensor([b]), pi[1:], _steps(abar, s, t))
            torch.testing.assert_close(one, found[1:])


@given(st.integers(2, 5), st.integers(1, 9), st.integers(0, 2**31))
def test_joint_with_converted_probabilities_is_mixture(levels: int, t: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    pi, p = (torch.rand(4, levels, generator=g, dtype=F64).add(0.01) for _ in range(2))
    pi, p = pi / pi.sum(-1, keepdim=True), p / p.sum(-1, keepdim=True)
    a = torch.randint(levels, (4,), generator=g)
    steps = _steps(noise_schedule("cosine", 10), t - 1, t)
    converted = mixture_to_joint(p, a, pi, steps)
    torch.testing.assert_close(joint(a, converted, pi, steps), mixture(a, p, pi, steps))
    torch.testing.assert_close(joint_to_mixture(converted, a, pi, steps), p)


class Oracle(torch.nn.Module):
    """The exact p(x_0^n | x_t) of a small law, as log-odds."""

    def __init__(self, process: DiscreteDiffusion) -> None:
        super().__init__()
        self.process = process

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        signal = self.process.abar[t][:, None]
        weight = LAW.expand(len(x_t), -1).clone()
        for n in range(3):
            a, b = x_t[:, n, None], STATES[None, :, n]
            if self.process.absorbing:
                likelihood = torch.where(a == 2, 1 - signal, signal * (a == b))
            else:
                pi = self.process.pi[0].expand(3, -1)[n][a.long()]
                likelihood = signal * (a == b) + (1 - signal) * pi
            weight = weight * likelihood
        p = weight @ STATES.to(F64) / weight.sum(1, keepdim=True).clamp_min(1e-300)
        return torch.logit(p.clamp(1e-15, 1 - 1e-15))


def _exact_chain(process: DiscreteDiffusion, times: list[int]) -> Tensor:
    """The law of x_0 when x_T ~ pi and every step is `process.reverse`, by enumeration."""
    size = 3 if process.absorbing else 2
    states = torch.tensor(list(itertools.product(range(size), repeat=3)), dtype=torch.uint8)
    if process.absorbing:
        law = (states == 2).all(1).to(F64)
    else:
        law = process.pi[0].expand(3, -1)[torch.arange(3), states.long()].prod(1)
    model = Oracle(process)
    for t, s in itertools.pairwise(times):
        at = torch.full((len(states),), t)
        (r,) = process.reverse(states, model(states, at), torch.tensor(s), torch.tensor(t))
        per_level = r if process.absorbing else torch.stack([1 - r, r], -1)
        move = torch.ones(len(states), len(states), dtype=F64)
        for n in range(3):
            move = move * per_level[:, n][:, states[:, n].long()]
        law = law @ move
    clean = (states < 2).all(1)
    return law[clean]


def _process(kernel: str, steps: int, form: str = "mixture", schedule: str = "cosine") -> DiscreteDiffusion:
    layout = TokenLayout([2, 2, 2])
    marginals = torch.tensor([0.45, 0.45, 0.45], dtype=F64)
    return DiscreteDiffusion(layout, noise_schedule(schedule, steps), kernel, marginals, form).to("cpu", F64)


@pytest.mark.parametrize(
    ("steps", "tv", "kl", "vlb", "tv_joint"),
    [
        (1, 0.442500, 0.437989, 2.064416, 0.44), (2, 0.216794, 0.098460, 1.832508, 0.36),
        (5, 0.090578, 0.018273, 1.719300, 0.30), (10, 0.043883, 0.004475, 1.672939, 0.289),
        (20, 0.021339, 0.001085, 1.649545, 0.285), (50, 0.008365, 0.000169, 1.635623, 0.282),
        (100, 0.004152, 0.000042, 1.631015, 0.282),
    ],
)  # fmt: skip
def test_oracle_chain_has_the_published_errors(steps: int, tv: float, kl: float, vlb: float, tv_joint: float) -> None:
    process = _process("uniform", steps)
    law = _exact_chain(process, list(range(steps, -1, -1)))
    assert float((law - LAW).abs().sum() / 2) == pytest.approx(tv, abs=2e-6)
    assert float((LAW * (LAW / law).log()).sum()) == pytest.approx(kl, abs=2e-6)
    expected = _exact_bound(process)
    assert expected == pytest.approx(vlb, abs=2e-6)
    assert expected >= float(-(LAW * law.log()).sum())  # never below the exact negative log-likelihood
    wrong = _exact_chain(_process("uniform", steps, "joint"), list(range(steps, -1, -1)))
    assert float((wrong - LAW).abs().sum() / 2) == pytest.approx(tv_joint, abs=0.006)


def _exact_bound(process: DiscreteDiffusion) -> float:
    """Expectation over data, t and x_t of the bound's terms, by enumeration."""
    model, total = Oracle(process), float((LAW * process.prior_divergence(STATES)).sum())
    size = 3 if process.absorbing else 2
    noisy = torch.tensor(list(itertools.product(range(size), repeat=3)), dtype=torch.uint8)
    for t in range(1, process.num_steps + 1):
        at, signal = torch.full((len(noisy),), t), float(process.abar[t])
        logits = model(noisy, at)
        for state, weight in zip(STATES, LAW, strict=True):
            clean = state.expand(len(noisy), -1)
            if process.absorbing:
                each = torch.where(noisy == 2, 1 - signal, signal * (noisy == clean).to(F64))
            else:
                pi = process.pi[0].expand(3, -1)
                each = signal * (noisy == clean) + (1 - signal) * pi[torch.arange(3), noisy.long()]
            total += float(weight * (each.prod(1) * process.divergence(clean, noisy, logits, at)).sum())
    return total


@pytest.mark.parametrize("kernel", ["uniform", "marginal", "absorbing"])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_the_bound_lies_above_the_likelihood_for_every_kernel(kernel: str, steps: int) -> None:
    process = _process(kernel, steps, schedule="linear")
    law = _exact_chain(process, list(range(steps, -1, -1)))
    assert float(law.sum()) == pytest.approx(1)
    assert _exact_bound(process) >= float(-(LAW * law.log()).sum()) - 1e-9


@pytest.mark.parametrize("kernel", ["uniform", "marginal", "absorbing"])
@pytest.mark.parametrize("form", ["mixture", "joint"])
def test_reverse_of_mixed_columns_is_bayes_rule_on_the_matrices(kernel: str, form: str) -> None:
    layout, g = TokenLayout([2, 3, 3]), torch.Generator().manual_seed(0)
    marginals = torch.tensor([0.3, 0.1, 0.2, 0.7, 0.5, 0.25, 0.25], dtype=F64)
    process = DiscreteDiffusion(layout, noise_schedule("cosine", 8), kernel, marginals, form).to("cpu", F64)
    clean = torch.stack([torch.randint(k, (30,), generator=g) for k in layout.levels], 1).to(torch.uint8)
    t = torch.full((30,), 5)
    noisy, logits = process.corrupt(clean, t, g), torch.randn(30, layout.logits, generator=g, dtype=F64)
    binary, triple = process.reverse(noisy, logits, t - 3, t)
    binary = binary if kernel == "absorbing" else torch.stack([1 - binary, binary], -1)
    heads = layout.probabilities(logits)
    heads = [torch.stack([1 - heads[0], heads[0]], -1), heads[1]]
    for group, column, found in ((0, 0, binary[:, 0]), (1, 0, triple[:, 0]), (1, 1, triple[:, 1])):
        size = layout.groups[group].levels + int(kernel == "absorbing")
        pi = process.pi[group].expand(2, -1)[column] if kernel != "absorbing" else torch.eye(size, dtype=F64)[-1]
        at, before = float(process.abar[5]), float(process.abar[2])
        to_t, to_s, whole = _kernel(at / before, pi), _kernel(before, pi), _kernel(at, pi)
        for row, a in enumerate(noisy[:, layout.groups[group].start + column].tolist()):
            p = torch.nn.functional.pad(heads[group][row, column], (0, size - layout.groups[group].levels))
            if kernel == "absorbing" and a < size - 1:
                expected = torch.eye(size, dtype=F64)[a]
            elif form == "mixture":
                expected = (p[:, None] * to_t[:, a] * to_s / whole[:, a, None].clamp_min(1e-300)).sum(0)
            else:
                expected = to_t[:, a] * (p @ to_s)
            torch.testing.assert_close(found[row], expected / expected.sum())


def test_mixture_reaches_one_binary_token_exactly_and_joint_does_not() -> None:
    abar, pi = noise_schedule("cosine", 10), torch.full((1, 2), 0.5, dtype=F64)
    found = {}
    for name, form in (("mixture", mixture), ("joint", joint)):
        law = torch.tensor([0.5, 0.5], dtype=F64)
        for t in range(10, 0, -1):
            steps = _steps(abar, t - 1, t)
            a = torch.tensor([[0], [1]])
            p = joint_to_mixture(torch.tensor([[[0.9, 0.1]]], dtype=F64).expand(2, 1, 2), a, pi, steps)
            law = law @ form(a, p, pi, steps)[:, 0]
        found[name] = float(law[1])
    assert found == pytest.approx({"mixture": 0.1, "joint": 0.2300471}, abs=5e-8)


def test_a_subsequence_of_all_steps_is_full_sampling_and_fewer_cost_accuracy() -> None:
    assert subsequence(30, 30) == list(range(30, -1, -1))
    process = _process("uniform", 30)
    errors = [float((_exact_chain(process, subsequence(30, k)) - LAW).abs().sum() / 2) for k in (3, 10, 30)]
    assert errors == sorted(errors, reverse=True)
    with pytest.raises(InputError, match=r"num_steps must be in 1\.\.30"):
        subsequence(30, 31)


@pytest.mark.parametrize("kernel", ["uniform", "marginal", "absorbing"])
def test_corruption_follows_qbar(kernel: str) -> None:
    layout = TokenLayout([2, 2, 4])
    marginals = torch.tensor([0.1, 0.7, 0.1, 0.2, 0.3, 0.4])
    process = DiscreteDiffusion(layout, noise_schedule("cosine", 10), kernel, marginals)
    clean = torch.tensor([[0, 1, 2]], dtype=torch.uint8).expand(200_000, -1)
    g = torch.Generator().manual_seed(0)
    noisy = process.corrupt(clean, torch.full((200_000,), 6), g)
    signal = float(process.abar[6])
    for column, (index, row) in enumerate([(0, 0), (0, 1), (1, 0)]):
        levels = layout.levels[column]
        if kernel == "absorbing":
            expected = torch.zeros(levels + 1)
            expected[levels] = 1 - signal
        else:
            expected = (1 - signal) * process.pi[index].expand(2, -1)[row if levels == 2 else 0].clone()
        expected[int(clean[0, column])] += signal
        found = torch.bincount(noisy[:, column].long(), minlength=len(expected)) / len(noisy)
        torch.testing.assert_close(found, expected, atol=0.005, rtol=0)


@pytest.mark.parametrize("kernel", ["uniform", "marginal", "absorbing"])
def test_evidence_turns_the_law_given_the_others_into_the_posterior(kernel: str) -> None:
    layout = TokenLayout([2, 3])
    process = DiscreteDiffusion(layout, noise_schedule("cosine", 10), kernel, torch.tensor([0.2, 0.5, 0.3, 0.2]))
    x, t = torch.tensor([[1, 2]], dtype=torch.uint8), torch.tensor([4])
    others = torch.tensor([[0.3, 0.1, -0.4, 0.8]])
    flat = others + process.evidence(x, t)
    if kernel == "absorbing":
        binary, levels = layout.probabilities(flat)
        torch.testing.assert_close(binary, torch.ones(1, 1))  # unmasked: known
        torch.testing.assert_close(levels, torch.tensor([[[0.0, 0.0, 1.0]]]))
        masked = torch.tensor([[2, 3]], dtype=torch.uint8)
        assert torch.equal(others + process.evidence(masked, t), others)
        return
    steps = process.steps(t - 1, t).extended(2)
    binary, levels = layout.probabilities(flat)
    p_binary, p_levels = layout.probabilities(others)
    two = torch.stack([1 - p_binary, p_binary], -1)
    torch.testing.assert_close(joint_to_mixture(two, x[:, :1], process.pi[0], steps)[..., 1], binary)
    torch.testing.assert_close(joint_to_mixture(p_levels, x[:, 1:], process.pi[1], steps), levels)


def test_mixed_levels_are_not_padded() -> None:
    layout = TokenLayout([2, 2, 2, 5, 5, 200])
    assert layout.logits == 3 + 2 * 5 + 200
    assert [(g.levels, g.columns) for g in layout.groups] == [(2, 3), (5, 2), (200, 1)]
    with pytest.raises(InputError, match="ordered"):
        TokenLayout([3, 2])
    with pytest.raises(InputError, match=r"row 1, column 3: level must be in 0\.\.4, got 5"):
        layout.check(torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 0, 5, 0, 0]]))


@pytest.mark.parametrize("kernel", ["uniform", "marginal", "absorbing"])
def test_binary_shortcut_agrees_with_the_general_form(kernel: str) -> None:
    process = _process(kernel, 9)
    g = torch.Generator().manual_seed(1)
    clean = torch.randint(2, (50, 3), generator=g, dtype=torch.uint8)
    t = torch.randint(2, 10, (50,), generator=g)
    noisy = process.corrupt(clean, t, g)
    logits = torch.randn(50, 3, generator=g, dtype=F64)
    found = process.divergence(clean, noisy, logits, t)
    p = torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], -1)
    steps = process.steps(t - 1, t).extended(2)
    if kernel == "absorbing":
        q = process.reverse(noisy, torch.where(clean.bool(), 60.0, -60.0).to(F64), t - 1, t)[0]
        r = process.reverse(noisy, logits, t - 1, t)[0]
    else:
        q = posterior(noisy, clean, process.pi[0], steps)
        r = mixture(noisy, p, process.pi[0], steps)
    torch.testing.assert_close(found, torch.xlogy(q, q / r.clamp_min(1e-300)).sum((1, 2)))


def test_absorbing_linear_weight_is_one_over_t() -> None:
    process = _process("absorbing", 8, schedule="linear")
    x0, x_t = STATES[:1], torch.full((1, 3), 2, dtype=torch.uint8)
    logits = torch.randn(1, 3, dtype=F64)
    for t in (1, 3, 8):
        ratio = process.divergence(x0, x_t, logits, torch.tensor([t])) / process.cross_entropy(x0, x_t, logits)
        assert float(ratio) == pytest.approx(1 / t)


def test_the_bound_estimate_is_unbiased() -> None:
    process = _process("uniform", 10)
    g = torch.Generator().manual_seed(0)
    rows = STATES[torch.multinomial(LAW, 40_000, replacement=True, generator=g)]
    each = bound(process, Oracle(process), rows, g)
    assert abs(float(each.mean()) - 1.672939) < 4 * float(each.std()) / math.sqrt(len(each))


def test_cross_entropy_with_joint_is_refused_unless_absorbing() -> None:
    with pytest.raises(InputError, match="would sample a wrong law"):
        check_loss("ce", "joint", "uniform")
    check_loss("ce", "joint", "absorbing")
    check_loss("vlb", "joint", "uniform")
    with pytest.raises(InputError, match="loss must be one of vlb, hybrid, ce"):
        check_loss("mse", "mixture", "uniform")  # type: ignore[arg-type]


def test_importance_times_follow_the_root_mean_square_and_stay_unbiased() -> None:
    times = ImportanceTimes(4)
    g = torch.Generator().manual_seed(0)
    t = torch.arange(1, 5).repeat(11)
    times.update(t, t.float())
    drawn, weights = times.draw(40_000, g)
    share = torch.bincount(drawn, minlength=5)[1:] / 40_000
    torch.testing.assert_close(share, torch.tensor([2.0, 2, 3, 4]) / 11, atol=0.01, rtol=0)
    assert float(weights.mean()) == pytest.approx(4, abs=0.05)
    other = ImportanceTimes(4)
    other.restore(times.state())
    assert torch.equal(other.squares, times.squares)


def test_losses_sum_over_tokens_and_average_over_records() -> None:
    process = _process("uniform", 5)
    x = STATES
    t, weights, logits = torch.full((8,), 3), torch.full((8,), 5.0, dtype=F64), torch.zeros(8, 3, dtype=F64)
    ce, _ = training_loss(process, x, x, t, weights, logits, "ce", 0.0)
    assert float(ce) == pytest.approx(3 * math.log(2))
    vlb, each = training_loss(process, x, x, t, weights, logits, "vlb", 0.0)
    hybrid, _ = training_loss(process, x, x, t, weights, logits, "hybrid", 0.01)
    assert float(vlb) == pytest.approx(5 * float(each.mean()))
    assert float(hybrid) == pytest.approx(float(vlb) + 0.01 * float(ce))
