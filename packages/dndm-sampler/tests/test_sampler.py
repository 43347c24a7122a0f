"""`DNDMSampler`: counts, invariants and laws of every method."""

import pytest
import torch
from dndm_sampler import DNDMSampler, MarkovChainDenoiser, MultinomialNoise
from dndm_sampler.enumeration import exact_problem
from dndm_sampler.reproduce.exact import reference_problem
from dndm_sampler.schedule import TransitionSchedule
from dndm_sampler.transition_times import count_times
from shared_core.errors import InputError, RunError

V = 5
pytestmark = pytest.mark.filterwarnings("ignore::dndm_sampler.sampler.BiasWarning")
ABSORBING = {"noise": "absorbing", "mask_token_id": V}
MULTINOMIAL = {"noise": "multinomial", "vocab_size": V}
VARIANTS = {
    "dndm": {},
    "version 2": {"version": 2},
    "top-k": {"top_k": True},
    "top-k remask": {"top_k": True, "remask": True},
    "continuous": {"num_steps": None},
    "continuous top-k": {"num_steps": None, "top_k": True},
    "left to right": {"order": "left_to_right"},
    "right to left": {"order": "right_to_left"},
    "shared times": {"batch_times": "shared"},
    "budget": {"num_calls": 3},
    "argmax": {"temperature": 0.0},
    "beta": {"schedule": "beta:17,4", "num_steps": 20},
    "ancestral": {"method": "ancestral", "num_steps": 20},
    "rdm": {"method": "rdm", "num_steps": 6},
}
MULTINOMIAL_VARIANTS = {
    "loo": {"token_correction": "loo"},
    "thinned": {"method": "thinned_ancestral", "num_steps": 30},
}


def seed(value=0):
    return torch.Generator().manual_seed(value)


class CountingDenoiser:
    """Logits that depend on the whole row, the position and the time; counts its calls and rows."""

    def __init__(self, vocab=V):
        self.weights = torch.randn(64, vocab, generator=seed(9), dtype=torch.float64)
        self.calls, self.rows, self.times = 0, 0, []

    def __call__(self, x, t):
        self.calls += 1
        self.rows += len(x)
        self.times.append(t.clone())
        place = (x.cumsum(1) * 7 + torch.arange(x.shape[1])) % 64
        return self.weights[place] * (1 + t[:, None, None])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("noise", ["absorbing", "multinomial"])
def test_every_variant_writes_all_free_positions_keeps_the_fixed_ones_and_counts_its_calls(name, noise):
    ids = ABSORBING if noise == "absorbing" else MULTINOMIAL
    denoiser = CountingDenoiser()
    sampler = DNDMSampler(denoiser, **{"num_steps": 50, **ids, **VARIANTS[name]})
    given = torch.randint(V, (6, 12), generator=seed(1))
    fixed = torch.zeros(6, 12, dtype=torch.bool)
    fixed[:, ::4] = True
    out = sampler.sample(input_ids=given, fixed_mask=fixed, generator=seed())
    assert torch.equal(out.sequences[fixed], given[fixed])
    assert bool(((out.sequences >= 0) & (out.sequences < V)).all()), "no mask is left"
    assert (out.nfe, out.rows) == (denoiser.calls, denoiser.rows)
    assert int(out.nfe_per_row.sum()) == out.rows
    assert bool((out.scores[fixed] == 0).all())
    assert bool((out.scores[~fixed] <= 0).all())
    if out.transition_times is not None:
        assert bool((out.transition_times[fixed] == 0).all())
        assert torch.equal(out.nfe_per_row, count_times(out.transition_times))
        assert out.nfe == int(count_times(out.transition_times).max())


@pytest.mark.parametrize("name", [*VARIANTS, *MULTINOMIAL_VARIANTS])
def test_a_row_does_not_depend_on_its_batch_mates_and_a_seed_repeats(name):
    options = {"num_steps": 50, **MULTINOMIAL, **{**VARIANTS, **MULTINOMIAL_VARIANTS}[name]}
    whole = DNDMSampler(CountingDenoiser(), **options).sample(7, 10, generator=seed(4)).sequences
    again = DNDMSampler(CountingDenoiser(), **options).sample(7, 10, generator=seed(4)).sequences
    part = DNDMSampler(CountingDenoiser(), **options).sample(3, 10, generator=seed(4)).sequences
    other = DNDMSampler(CountingDenoiser(), **options).sample(7, 10, generator=seed(5)).sequences
    assert torch.equal(whole, again)
    assert torch.equal(whole[:3], part)
    assert not torch.equal(whole, other)


def _deviation(sampler, problem, law, rows=20_000):
    """Largest deviation of the sampler's frequencies from a law, in standard deviations."""
    out = sampler.sample(rows, problem.length, generator=seed(2)).sequences
    place = (out * torch.tensor([problem.vocab**n for n in range(problem.length - 1, -1, -1)])).sum(1)
    found = torch.bincount(place, minlength=len(law)).double() / rows
    return float(((found - law).abs() / (law * (1 - law) / rows).sqrt().clamp(min=1 / rows)).max())


def _table_denoiser(problem, steps):
    alphas = TransitionSchedule("linear").alphas(steps)
    symbols = problem.vocab + (problem.noise == "absorbing")
    tables = torch.stack([problem.table(float(a), k / steps).clamp(min=1e-300).log() for k, a in enumerate(alphas)])
    code = torch.tensor([symbols**n for n in range(problem.length - 1, -1, -1)])
    return lambda x, t: tables[(t * steps).round().long(), (x * code).sum(1)]


@pytest.mark.parametrize(
    ("noise", "options", "law"),
    [
        ("absorbing", {}, lambda p, s: p.dndm(s, 4)),
        ("absorbing", {"method": "ancestral"}, lambda p, s: p.ancestral(s, 4)),
        ("absorbing", {"num_calls": 2}, lambda p, s: p.balanced(2)),
        ("absorbing", {"num_steps": None}, lambda p, s: p.data),
        ("multinomial", {}, lambda p, s: p.dndm(s, 4)),
        ("multinomial", {"version": 2}, lambda p, s: p.dndm(s, 4, refresh=True)),
        ("multinomial", {"token_correction": "loo"}, lambda p, s: p.dndm(s, 4, loo=True)),
        ("multinomial", {"method": "ancestral"}, lambda p, s: p.ancestral(s, 4)),
        ("multinomial", {"method": "thinned_ancestral"}, lambda p, s: p.ancestral(s, 4)),
    ],
)
def test_samples_follow_the_enumerated_law(noise, options, law):
    problem = reference_problem(noise)
    ids = {"mask_token_id": 3} if noise == "absorbing" else {"vocab_size": 3}
    sampler = DNDMSampler(_table_denoiser(problem, 4), noise=noise, **ids, **{"num_steps": 4, **options})
    assert _deviation(sampler, problem, law(problem, TransitionSchedule("linear"))) < 5


def test_one_step_is_one_shot_parallel_decoding():
    problem = exact_problem(torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64), "absorbing")
    out = DNDMSampler(_table_denoiser(problem, 1), mask_token_id=2, num_steps=1).sample(4000, 2, generator=seed())
    assert out.nfe == 1
    assert float((out.sequences[:, 0] != out.sequences[:, 1]).double().mean()) == pytest.approx(0.5, abs=0.03)


def test_top_k_restores_confident_and_tied_tokens_without_leaving_a_mask():
    for logits in (torch.tensor([20.0, 0, 0, 0, 0]), torch.zeros(5)):
        sampler = DNDMSampler(lambda x, t, z=logits: z.expand(*x.shape, V), top_k=True, num_steps=40, **ABSORBING)
        for remask in (False, True):
            sampler.remask = remask
            assert int(sampler.sample(8, 16, generator=seed()).sequences.max()) < V


def test_only_written_positions_reach_the_head():
    embedding = torch.randn(V + 1, 8, generator=seed(1))
    head = torch.randn(8, V, generator=seed(2))

    class Split:
        seen = 0

        def hidden(self, x, t):
            return embedding[x]

        def head(self, hidden):
            type(self).seen += len(hidden)
            return hidden @ head

    split = DNDMSampler(Split(), num_steps=30, **ABSORBING).sample(4, 9, generator=seed())
    full = DNDMSampler(lambda x, t: embedding[x] @ head, num_steps=30, **ABSORBING).sample(4, 9, generator=seed())
    assert torch.equal(split.sequences, full.sequences)
    assert Split.seen == 4 * 9, "each position costs one row of the output layer"


def test_all_positions_fixed_costs_nothing():
    given = torch.randint(V, (2, 5))
    denoiser = CountingDenoiser()
    out = DNDMSampler(denoiser, **ABSORBING).sample(input_ids=given, fixed_mask=torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(out.sequences, given)
    assert (denoiser.calls, out.nfe) == (0, 0)


def test_absorbing_infill_keeps_what_is_not_masked_by_default():
    given = torch.tensor([[1, V, 2, V]])
    out = DNDMSampler(CountingDenoiser(), **ABSORBING).sample(input_ids=given, generator=seed())
    assert out.sequences[0, [0, 2]].tolist() == [1, 2]
    assert out.nfe <= 2


def test_noise_tokens_stay_as_drawn_until_they_are_written():
    out = DNDMSampler(CountingDenoiser(), num_steps=30, **MULTINOMIAL).sample(
        3, 8, generator=seed(), return_history=True
    )
    tau = out.transition_times
    before = None
    for rows, t, x in out.history:
        if before is not None:
            changed = x != before
            allowed = torch.zeros_like(changed)
            allowed[rows] = tau[rows] == t[:, None]
            assert bool((~changed | allowed).all())
        before = x


def test_excluded_tokens_are_never_noise_and_forbidden_ones_never_written():
    noise = MultinomialNoise(V, excluded=[0, 1])
    seen = []
    sampler = DNDMSampler(lambda x, t: seen.append(x.clone()) or torch.zeros(*x.shape, V), noise=noise,
                          forbidden_token_ids=[0], num_steps=20)  # fmt: skip
    out = sampler.sample(20, 10, generator=seed())
    assert int(seen[0].min()) >= 2
    assert int(out.sequences.min()) == 1


def test_matched_time_tells_the_denoiser_the_true_noise_level():
    denoiser = CountingDenoiser()
    beta, cosine = TransitionSchedule("beta", a=5, b=3), TransitionSchedule("cosine")
    sampler = DNDMSampler(denoiser, schedule=beta, num_steps=40, time_map="matched", train_schedule=cosine, **ABSORBING)
    out = sampler.sample(1, 6, generator=seed())
    told = torch.stack([t[0] for t in denoiser.times]).double()
    times = out.transition_times[0].unique().flip(0).double() / 40
    assert torch.allclose(cosine.alpha(told), beta.alpha(times), atol=1e-6)


def test_plan_is_what_sample_uses():
    sampler = DNDMSampler(CountingDenoiser(), num_steps=30, **ABSORBING)
    tau, calls = sampler.plan(4, 9, seed(3))
    out = sampler.sample(4, 9, generator=seed(3))
    assert torch.equal(tau, out.transition_times)
    assert torch.equal(calls, out.nfe_per_row)


def test_model_kwargs_follow_their_rows():
    marks = torch.arange(6)[:, None]

    def denoiser(x, t, marks, scale):
        assert len(marks) == len(x)
        return torch.nn.functional.one_hot(marks.expand(-1, x.shape[1]) % V, V) * 1000.0 * scale

    out = DNDMSampler(denoiser, num_steps=20, **ABSORBING).sample(
        6, 7, generator=seed(), model_kwargs={"marks": marks, "scale": 1.0}
    )
    assert torch.equal(out.sequences, (marks % V).expand(-1, 7))


def test_temperature_zero_is_argmax_and_low_temperature_sharpens():
    logits = torch.tensor([0.0, 1.0, 0.5, 0.2, 0.1])

    def run(temperature):
        sampler = DNDMSampler(
            lambda x, t: logits.expand(*x.shape, V), temperature=temperature, num_steps=None, **ABSORBING
        )
        return sampler.sample(200, 20, generator=seed()).sequences

    assert bool((run(0.0) == 1).all())
    found = torch.bincount(run(0.5).flatten(), minlength=V).double() / 4000
    assert torch.allclose(found, (logits.double() / 0.5).softmax(0), atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_of_any_floating_type(dtype):
    out = DNDMSampler(lambda x, t: torch.zeros(*x.shape, V, dtype=dtype), **ABSORBING).sample(2, 6, generator=seed())
    assert int(out.sequences.max()) < V


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["dndm", "ancestral", "rdm"])
def test_logits_that_are_not_finite_stop_the_run_and_say_at_which_step(bad, method):
    calls = []

    def denoiser(x, t):
        calls.append(1)
        return torch.full((*x.shape, V), bad if len(calls) >= 3 else 0.0)

    with pytest.raises(RunError, match=r"at call \d+, step t = \d+ of 40: no token"):
        DNDMSampler(denoiser, method=method, num_steps=40, **ABSORBING).sample(2, 20, generator=seed())


def test_the_step_that_is_named_is_that_of_the_row_with_the_bad_logits():
    times = {}

    def denoiser(x, t):
        logits = torch.zeros(*x.shape, V)
        if len(x) == 2 and not times and float(t[0]) != float(t[1]):
            times["bad"] = round(float(t[1]) * 40)
            logits[1] = float("nan")
        return logits

    with pytest.raises(RunError) as error:
        DNDMSampler(denoiser, num_steps=40, **ABSORBING).sample(2, 20, generator=seed())
    assert f"step t = {times['bad']} of 40" in str(error.value)
    with pytest.raises(RunError, match=r"at call 1, time 0\.\d+: no token"):
        DNDMSampler(lambda x, t: torch.full((*x.shape, V), float("nan")), num_steps=None, **ABSORBING).sample(1, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "absorbing"}, "mask_token_id is needed"),
        ({"noise": "absorbing", "mask_token_id": -1}, "mask_token_id must be a token id, got -1"),
        ({"noise": "absorbing", "mask_token_id": 9, "vocab_size": 5}, "out of range"),
        ({"noise": "multinomial"}, "vocab_size is needed"),
        ({"noise": "gaussian"}, "noise must be absorbing or multinomial"),
        ({**ABSORBING, "num_steps": 0}, "num_steps must be at least 1"),
        ({**ABSORBING, "num_calls": 0}, "num_calls must be at least 1"),
        ({**ABSORBING, "temperature": -0.1}, "temperature must be 0 or more, and finite, got -0.1"),
        ({**ABSORBING, "temperature": float("inf")}, "and finite, got inf"),
        ({**ABSORBING, "temperature": float("nan")}, "and finite, got nan"),
        ({**ABSORBING, "top_k": True, "order": "left_to_right"}, "contradicts order"),
        ({**ABSORBING, "order": "inside_out"}, "order must be random"),
        ({**ABSORBING, "token_correction": "loo"}, "multinomial noise"),
        ({**MULTINOMIAL, "token_correction": "all"}, "None or 'loo'"),
        ({**ABSORBING, "version": 3}, "version must be one of 1, 2"),
        ({**ABSORBING, "version": 2, "top_k": True}, "two different algorithms"),
        ({**ABSORBING, "remask": True}, "remask=True needs top_k"),
        ({**ABSORBING, "scalar_time": True}, "batch_times='shared'"),
        ({**ABSORBING, "method": "ancestral", "num_steps": None}, "needs num_steps"),
        ({**ABSORBING, "method": "thinned_ancestral"}, "multinomial noise"),
        ({**ABSORBING, "method": "ancestral", "top_k": True}, "belong to method='dndm'"),
        ({**ABSORBING, "method": "euler"}, "method must be one of"),
        ({**ABSORBING, "time_map": "matched"}, "needs train_schedule"),
        ({**ABSORBING, "time_map": "other"}, "index or matched"),
        ({**ABSORBING, "forbidden_token_ids": (2, -1)}, "forbidden_token_ids must be token ids, got -1"),
        ({**ABSORBING, "batch_times": "lockstep"}, "batch_times must be one of"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        DNDMSampler(CountingDenoiser(), **options)


@pytest.mark.parametrize(
    ("denoiser", "arguments", "message"),
    [
        (None, {"batch_size": 2}, "length must be at least 1, got None"),
        (None, {"batch_size": 0, "length": 3}, "batch_size must be at least 1, got 0"),
        (None, {"fixed_mask": torch.ones(1, 1, dtype=torch.bool)}, "fixed_mask needs input_ids"),
        (None, {"input_ids": torch.zeros(3)}, "input_ids must be token ids"),
        (None, {"input_ids": torch.zeros(1, 3, dtype=torch.long), "fixed_mask": torch.zeros(1, 2, dtype=torch.bool)},
         "fixed_mask must be bool"),
        (lambda x, t: torch.zeros(len(x), V), {"batch_size": 1, "length": 3}, r"\[rows, length, vocab\]"),
        (lambda x, t: torch.zeros(*x.shape, V, dtype=torch.long), {"batch_size": 1, "length": 3}, "floating-point"),
        (lambda x, t: None, {"batch_size": 1, "length": 3}, "floating-point tensor of logits, got NoneType"),
    ],
)  # fmt: skip
def test_bad_calls_are_refused_by_name(denoiser, arguments, message):
    with pytest.raises(InputError, match=message):
        DNDMSampler(denoiser or CountingDenoiser(), **ABSORBING).sample(**arguments)


def test_a_vocabulary_that_disagrees_with_the_logits_is_refused():
    sampler = DNDMSampler(CountingDenoiser(vocab=4), **MULTINOMIAL)
    with pytest.raises(InputError, match="vocab_size 5, the denoiser's logits 4"):
        sampler.sample(1, 4)


def test_multinomial_infill_needs_a_mask_of_fixed_positions():
    with pytest.raises(InputError, match="fixed_mask is needed"):
        DNDMSampler(CountingDenoiser(), **MULTINOMIAL).sample(input_ids=torch.zeros(1, 4, dtype=torch.long))


def test_the_exact_denoiser_gives_the_entropy_rate_of_its_chain():
    transition = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], dtype=torch.float64)
    stationary = torch.linalg.matrix_power(transition, 200)[0]
    chain = MarkovChainDenoiser(stationary, transition)
    out = DNDMSampler(chain, mask_token_id=3, num_steps=None).sample(400, 24, generator=seed())
    assert float(chain.nll(out.sequences).mean()) == pytest.approx(
        float(chain.nll(chain.draw(4000, 24)).mean()), abs=0.03
    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_seed_gives_the_same_sequences_on_a_gpu():
    transition = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    runs = []
    for device in ("cpu", "cuda"):
        chain = MarkovChainDenoiser(transition[0], transition).to(device)
        sampler = DNDMSampler(chain, mask_token_id=3, num_steps=100)
        runs.append(sampler.sample(8, 16, generator=seed(), device=device).sequences.cpu())
    assert torch.equal(*runs)


def _drawing(tokens, scores):
    """A prediction that is written down in advance: one row of tokens and of scores for every call."""
    from dndm_sampler.denoising import Drawn

    plan = iter(zip(tokens, scores, strict=True))

    def predict(x, t, row, position):
        token, score = next(plan)
        return Drawn(torch.tensor(token)[position], torch.tensor(score, dtype=torch.float64)[position])

    return predict


def test_the_biased_combination_warns_and_no_other(recwarn):
    from dndm_sampler import BiasWarning

    with pytest.warns(BiasWarning, match="thinned_ancestral"):
        DNDMSampler(CountingDenoiser(), **MULTINOMIAL)
    recwarn.clear()
    DNDMSampler(CountingDenoiser(), **ABSORBING)
    for options in ({"token_correction": "loo"}, {"version": 2}, {"top_k": True}, {"temperature": 0}):
        DNDMSampler(CountingDenoiser(), **MULTINOMIAL, **options)
    assert not recwarn.list


@pytest.mark.parametrize("conditional", [False, True])
def test_rdm_returns_low_scores_to_noise_and_conditionally_only_a_repeated_token_that_sank(conditional):
    from dndm_sampler.baselines import rdm
    from dndm_sampler.noise import AbsorbingNoise

    # linear, 4 calls: 3, 2, 1, 0 positions stay noise. Position 0 is written at once and scores lowest afterwards, with
    # another token: only the unconditional rule takes it back. Position 1 repeats its token with a lower score.
    predict = _drawing(
        [[1, 2, 3, 4], [5, 2, 3, 4], [5, 2, 3, 6], [7, 8, 9, 6]],
        [[-1, -2, -3, -4], [-9, -1, -2, -3], [-2, -9, -1, -1], [-1, -1, -1, -1]],
    )
    x, free, seen = torch.full((1, 4), 10), torch.ones(1, 4, dtype=torch.bool), []
    rdm(
        predict, x, free, torch.zeros(1, 4, dtype=torch.long), TransitionSchedule("linear").alphas(4),
        AbsorbingNoise(10), shape="linear", conditional=conditional,
        on_call=lambda rows, t, now: seen.append(now[0].tolist()),
    )  # fmt: skip
    first = 1 if conditional else 5
    assert seen == [[1, 10, 10, 10], [1 if conditional else 10, 2, 3, 10], [first, 10, 3, 6], [first, 8, 3, 6]]


@pytest.mark.parametrize("to_noise", [True, False])
def test_remasking_lets_a_restored_position_wait_again_with_its_noise_or_its_token(to_noise):
    from dndm_sampler.algorithms import dndm_topk_remask

    predict = _drawing([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[-1, -2, -3], [-9, -1, -2], [-1, -1, -1]])
    seen = []
    x, _ = dndm_topk_remask(
        predict, torch.tensor([[10, 11, 12]]), torch.tensor([[3, 2, 1]]), to_noise=to_noise,
        on_call=lambda rows, t, now: seen.append(now[0].tolist()),
    )  # fmt: skip
    assert seen[:2] == [[1, 11, 12], [10 if to_noise else 1, 5, 6]]
    assert x[0].tolist() == [7, 5, 6]


def test_a_token_that_noise_never_makes_survives_a_prediction_of_another():
    from dndm_sampler.baselines import posterior

    q = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    half = torch.tensor([0.5], dtype=torch.float64)
    law = posterior(torch.tensor([0]), torch.tensor([1]), half, half / 2, q)
    assert law.tolist() == [[1.0, 0.0, 0.0]]
