"""The command `ctmc-bounds`: verbs to public functions."""

from typing import Literal

from shared_core.cli import Verb, run

Sampler = Literal[
    "paper", "uniformization", "midpoint", "thinning", "euler", "reject", "ordinal", "first_jump", "tweedie",
    "theta_trapezoidal", "theta_rk2",
]  # fmt: skip
Grid = Literal["constant", "exp_const", "optimal"]
Init = Literal["uniform", "exact"]
Representation = Literal["auto", "enumerated", "product", "counts"]
Inner = Literal["first_jump", "euler", "reject"]
Envelope = Literal["analytic", "max", "adaptive"]
COMPARED = [
    "paper", "midpoint", "thinning", "euler", "reject", "first_jump", "tweedie", "theta_trapezoidal", "theta_rk2",
]  # fmt: skip
PLANNED = ["paper", "midpoint", "thinning", "euler", "tweedie", "first_jump", "theta_trapezoidal"]


def law(
    data: str = "mix:d=6",
    sampler: Sampler = "paper",
    T: float = 6.0,
    delta: float = 0.01,
    grid: Grid = "exp_const",
    N: int = 64,
    c: float | None = None,
    init: Init = "uniform",
    representation: Representation = "auto",
    score_noise: float = 0.0,
    score_bias: float = 0.0,
    network: str | None = None,
    clip: bool = False,
    theta: float = 0.5,
    inner: Inner = "first_jump",
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """The exact law that a sampler generates: KL, TV, chi^2, calls, mass defect.

    Args:
        data: KIND:key=value,... (mix, ising, two-point, cat4, ramps, curie-weiss, product, markov, hmm, random,
            digits), or a file: .npy, .npz or .json law, .csv or .npy samples (FILE:S=3).
        sampler: paper, uniformization, midpoint, thinning, euler, reject, ordinal, first_jump, tweedie, theta_*.
        T: noise level at which sampling starts.
        delta: noise level at which sampling stops; 0 needs data with full support.
        grid: constant, exp_const or optimal.
        N: intervals.
        c: exp_const with steps h = c min(1, t) instead of N intervals.
        init: uniform noise, or exact (q_T, to see the discretisation alone).
        representation: where the law lives.
        score_noise: standard deviation of log-normal noise on every score value.
        score_bias: eta of a score that is e^eta too large.
        network: folder of the verb train: its network is the estimator.
        clip: clip scores to their bounds, and Euler's and Tweedie's probabilities, counted in the rows.
        theta: of the theta schemes.
        inner: kernel inside the theta schemes.
        seed: of draws and of the score noise.
        out: run folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda or cuda:N.
    """
    from ctmc_bounds.verbs import laws
    from ctmc_bounds.verbs.problem import Problem

    laws.law(
        Problem(
            data=data,
            sampler=sampler,
            T=T,
            delta=delta,
            grid=grid,
            N=N,
            c=c,
            init=init,
            representation=representation,
            score_noise=score_noise,
            score_bias=score_bias,
            network=network,
            clip=clip,
            theta=theta,
            inner=inner,
            seed=seed,
            device=device,
        ),
        out,
        json,
    )


def bound(
    data: str = "mix:d=6",
    sampler: Sampler = "paper",
    T: float = 6.0,
    delta: float = 0.01,
    grid: Grid = "exp_const",
    N: int = 64,
    c: float | None = None,
    init: Init = "uniform",
    representation: Representation = "auto",
    score_noise: float = 0.0,
    score_bias: float = 0.0,
    network: str | None = None,
    clip: bool = False,
    seed: int = 0,
    C1: float | None = None,
    constant: float = 1.0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Every bound beside the measured KL, with its ratio and what it rests on.

    Args:
        data: KIND:key=value,... (mix, ising, two-point, cat4, ramps, curie-weiss, product, markov, hmm, random,
            digits), or a file: .npy, .npz or .json law, .csv or .npy samples (FILE:S=3).
        sampler: paper, uniformization or midpoint.
        T: noise level at which sampling starts.
        delta: noise level at which sampling stops; 0 needs data with full support.
        grid: constant, exp_const or optimal.
        N: intervals.
        c: exp_const with steps h = c min(1, t) instead of N intervals.
        init: uniform noise, or exact (q_T, to see the discretisation alone).
        representation: where the law lives.
        score_noise: standard deviation of log-normal noise on every score value.
        score_bias: eta of a score that is e^eta too large.
        network: folder of the verb train: its network is the estimator.
        clip: clip scores to their bounds, and Euler's and Tweedie's probabilities, counted in the rows.
        seed: of draws and of the score noise.
        C1: uniform bound of the scores in the paper's Theorem 1; 1 + S/(e^delta - 1) by default.
        constant: universal constant assumed in the paper's form.
        out: run folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda or cuda:N.
    """
    from ctmc_bounds.verbs import laws
    from ctmc_bounds.verbs.problem import Problem

    laws.bound(
        Problem(
            data=data,
            sampler=sampler,
            T=T,
            delta=delta,
            grid=grid,
            N=N,
            c=c,
            init=init,
            representation=representation,
            score_noise=score_noise,
            score_bias=score_bias,
            network=network,
            clip=clip,
            seed=seed,
            device=device,
        ),
        C1,
        constant,
        out,
        json,
    )


def scan(
    over: Literal["d", "S", "N", "T", "delta", "eps", "sigma", "h"] = "N",
    values: list[float] = [16, 32, 64, 128],  # noqa: B006 - read only; the help shows it
    samplers: list[str] = ["paper", "midpoint"],  # noqa: B006 - read only; the help shows it
    bounds: bool = True,
    h: float | None = None,
    data: str = "mix:d=6",
    T: float = 6.0,
    delta: float = 0.01,
    grid: Grid = "exp_const",
    N: int = 64,
    c: float | None = None,
    init: Init = "uniform",
    representation: Representation = "auto",
    score_noise: float = 0.0,
    score_bias: float = 0.0,
    network: str | None = None,
    clip: bool = False,
    theta: float = 0.5,
    inner: Inner = "first_jump",
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Exact KL and bounds as one quantity varies, with local exponents; goes on where it stopped.

    Args:
        over: what varies; eps gives the calls needed, h uses equal steps of that length.
        values: its values.
        samplers: which samplers.
        bounds: also the Girsanov and certified bounds of time-frozen samplers.
        h: equal steps of this length, whatever T.
        data: KIND:key=value,... (mix, ising, two-point, cat4, ramps, curie-weiss, product, markov, hmm, random,
            digits), or a file: .npy, .npz or .json law, .csv or .npy samples (FILE:S=3).
        T: noise level at which sampling starts.
        delta: noise level at which sampling stops; 0 needs data with full support.
        grid: constant, exp_const or optimal.
        N: intervals.
        c: exp_const with steps h = c min(1, t) instead of N intervals.
        init: uniform noise, or exact (q_T, to see the discretisation alone).
        representation: where the law lives.
        score_noise: standard deviation of log-normal noise on every score value.
        score_bias: eta of a score that is e^eta too large.
        network: folder of the verb train: its network is the estimator.
        clip: clip scores to their bounds, and Euler's and Tweedie's probabilities, counted in the rows.
        theta: of the theta schemes.
        inner: kernel inside the theta schemes.
        seed: of draws and of the score noise.
        out: run folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda or cuda:N.
    """
    from ctmc_bounds.verbs import scan as module
    from ctmc_bounds.verbs.problem import Problem

    problem = Problem(
        data=data,
        T=T,
        delta=delta,
        grid=grid,
        N=N,
        c=c,
        init=init,
        representation=representation,
        score_noise=score_noise,
        score_bias=score_bias,
        network=network,
        clip=clip,
        theta=theta,
        inner=inner,
        seed=seed,
        device=device,
    )
    module.scan(problem, over, values, samplers, bounds, h, out, json)


def compare(
    samplers: list[str] = COMPARED,
    calls: list[float] = [24, 32, 48, 64, 96, 128],  # noqa: B006 - read only; the help shows it
    data: str = "mix:d=6",
    T: float = 6.0,
    delta: float = 0.01,
    grid: Grid = "exp_const",
    init: Init = "uniform",
    representation: Representation = "auto",
    score_noise: float = 0.0,
    score_bias: float = 0.0,
    network: str | None = None,
    clip: bool = False,
    theta: float = 0.5,
    inner: Inner = "first_jump",
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Exact KL of every sampler at equal network calls, and the figure of KL against calls.

    Args:
        samplers: which samplers.
        calls: budgets: network calls per sample.
        data: KIND:key=value,... (mix, ising, two-point, cat4, ramps, curie-weiss, product, markov, hmm, random,
            digits), or a file: .npy, .npz or .json law, .csv or .npy samples (FILE:S=3).
        T: noise level at which sampling starts.
        delta: noise level at which sampling stops; 0 needs data with full support.
        grid: constant, exp_const or optimal.
        init: uniform noise, or exact (q_T, to see the discretisation alone).
        representation: where the law lives.
        score_noise: standard deviation of log-normal noise on every score value.
        score_bias: eta of a score that is e^eta too large.
        network: folder of the verb train: its network is the estimator.
        clip: clip scores to their bounds, and Euler's and Tweedie's probabilities, counted in the rows.
        theta: of the theta schemes.
        inner: kernel inside the theta schemes.
        seed: of draws and of the score noise.
        out: run folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda or cuda:N.
    """
    from ctmc_bounds.verbs import laws
    from ctmc_bounds.verbs.problem import Problem

    problem = Problem(
        data=data,
        T=T,
        delta=delta,
        grid=grid,
        init=init,
        representation=representation,
        score_noise=score_noise,
        score_bias=score_bias,
        network=network,
        clip=clip,
        theta=theta,
        inner=inner,
        seed=seed,
        device=device,
    )
    laws.compare(problem, samplers, calls, out, json)


def plan(
    data: str | None = None,
    S: int | None = None,
    d: int | None = None,
    eps: float = 0.001,
    delta: float | None = None,
    tv: float | None = None,
    T: float | None = None,
    by: Literal["exact", "certified", "worst_case"] | None = None,
    samplers: list[str] = PLANNED,
    grid: Grid = "exp_const",
    out: str | None = None,
    json: bool = False,
) -> None:
    """T, N and network calls for a target KL, by the exact law or by a certificate.

    Args:
        data: law to plan for, as in `law`; without it every law on [S]^d.
        S: values of a token, without --data.
        d: tokens, without --data.
        eps: target of KL(q_delta || generated law).
        delta: early stop.
        tv: instead of --delta: what early stopping may cost in total variation.
        T: fixed horizon; chosen by default.
        by: what the promise rests on; the sharpest possible by default.
        samplers: which samplers.
        grid: constant, exp_const or optimal.
        out: run folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
    """
    from ctmc_bounds.verbs import work

    work.plan(data, S, d, eps, delta, tv, T, by, samplers, grid, out, json)


def schedule(
    data: str = "mix:d=6",
    T: float = 6.0,
    delta: float = 0.01,
    grid: Grid = "exp_const",
    N: int = 64,
    c: float | None = None,
    init: Init = "uniform",
    optimal: bool = False,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Noise levels of a grid, the local error density, and the paper's KL on every family.

    Args:
        data: KIND:key=value,... (mix, ising, two-point, cat4, ramps, curie-weiss, product, markov, hmm, random,
            digits), or a file: .npy, .npz or .json law, .csv or .npy samples (FILE:S=3).
        T: noise level at which sampling starts.
        delta: noise level at which sampling stops; 0 needs data with full support.
        grid: constant, exp_const or optimal.
        N: intervals.
        c: exp_const with steps h = c min(1, t) instead of N intervals.
        init: uniform noise, or exact (q_T, to see the discretisation alone).
        optimal: show the optimal grid, h proportional to c(t)^(-1/3).
        out: run folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda or cuda:N.
    """
    from ctmc_bounds.verbs import work
    from ctmc_bounds.verbs.problem import Problem

    problem = Problem(
        data=data,
        T=T,
        delta=delta,
        grid=grid,
        N=N,
        c=c,
        init=init,
        device=device,
    )
    work.schedule(problem, optimal, out, json)


def sample(
    n: int = 1000,
    save: str | None = None,
    data: str = "mix:d=6",
    sampler: Sampler = "paper",
    T: float = 6.0,
    delta: float = 0.01,
    grid: Grid = "exp_const",
    N: int = 64,
    c: float | None = None,
    init: Init = "uniform",
    score_noise: float = 0.0,
    score_bias: float = 0.0,
    network: str | None = None,
    clip: bool = False,
    theta: float = 0.5,
    inner: Inner = "first_jump",
    envelope: Envelope = "analytic",
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Draw samples with the exact or an estimated score.

    Args:
        n: how many.
        save: file for the samples, .npy (integers, (n, d)) or .csv.
        data: KIND:key=value,... (mix, ising, two-point, cat4, ramps, curie-weiss, product, markov, hmm, random,
            digits), or a file: .npy, .npz or .json law, .csv or .npy samples (FILE:S=3).
        sampler: paper, uniformization, midpoint, thinning, euler, reject, ordinal, first_jump, tweedie, theta_*.
        T: noise level at which sampling starts.
        delta: noise level at which sampling stops; 0 needs data with full support.
        grid: constant, exp_const or optimal.
        N: intervals.
        c: exp_const with steps h = c min(1, t) instead of N intervals.
        init: uniform noise, or exact (q_T, to see the discretisation alone).
        score_noise: standard deviation of log-normal noise on every score value.
        score_bias: eta of a score that is e^eta too large.
        network: folder of the verb train: its network is the estimator.
        clip: clip scores to their bounds, and Euler's and Tweedie's probabilities, counted in the rows.
        theta: of the theta schemes.
        inner: kernel inside the theta schemes.
        envelope: lambda_k of uniformization.
        seed: of draws and of the score noise.
        out: run folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda or cuda:N.
    """
    from ctmc_bounds.verbs import work
    from ctmc_bounds.verbs.problem import Problem

    problem = Problem(
        data=data,
        sampler=sampler,
        T=T,
        delta=delta,
        grid=grid,
        N=N,
        c=c,
        init=init,
        score_noise=score_noise,
        score_bias=score_bias,
        network=network,
        clip=clip,
        theta=theta,
        inner=inner,
        envelope=envelope,
        seed=seed,
        device=device,
    )
    work.sample(problem, n, save, out, json)


def verify(
    data: str = "mix:d=6",
    T: float = 6.0,
    delta: float = 0.01,
    N: int = 32,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> int:
    """Check the identities and inequalities of the theory on your distribution; exit 1 if one fails.

    Args:
        data: KIND:key=value,... (mix, ising, two-point, cat4, ramps, curie-weiss, product, markov, hmm, random,
            digits), or a file: .npy, .npz or .json law, .csv or .npy samples (FILE:S=3).
        T: noise level at which sampling starts.
        delta: noise level at which sampling stops; 0 needs data with full support.
        N: intervals of the checks that need a schedule.
        seed: of draws and of the score noise.
        out: run folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda or cuda:N.
    """
    from ctmc_bounds.verbs import work
    from ctmc_bounds.verbs.problem import Problem

    return work.verify(
        Problem(
            data=data,
            T=T,
            delta=delta,
            N=N,
            seed=seed,
            device=device,
        ),
        out,
        json,
    )


def train(
    data: str = "digits",
    width: int = 128,
    layers: int = 2,
    steps: int = 4000,
    batch: int = 256,
    lr: float = 0.003,
    T: float = 6.0,
    delta: float = 0.01,
    seed: int = 0,
    out: str = "runs/ctmc-bounds-train",
    json: bool = False,
    device: str = "auto",
) -> None:
    """Train a small cavity network on a law; resumes after a stop.

    Args:
        data: law to learn, as in `law`.
        width: hidden units.
        layers: hidden layers.
        steps: Adam steps.
        batch: draws per step.
        lr: first learning rate.
        T: noise level at which sampling starts.
        delta: smallest noise level, above 0.
        seed: of weights and draws.
        out: run folder; the network is network.safetensors.
        json: print JSON instead of a table.
        device: auto, cpu, cuda or cuda:N.
    """
    from ctmc_bounds.cavity_network import Training
    from ctmc_bounds.verbs import work

    work.train(data, width, layers, Training(steps, batch, lr, T, delta, seed), out, device, json)


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the claims and print them with their verdicts.

    Args:
        scale: smoke takes seconds, laptop minutes on two cores, paper larger spaces and longer training.
        claims: ids of claims, comma separated; all by default.
        out: run folder; runs/ctmc-bounds-reproduce-SCALE by default.
        seed: seed of every draw.
        device: auto, cpu, cuda or cuda:N.
    """
    from ctmc_bounds.reproduce import claims as all_claims

    return all_claims.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)


def main() -> int:
    """Entry point of the console script."""
    verbs: list[Verb] = [law, bound, scan, compare, plan, schedule, sample, verify, train, reproduce]
    return run("ctmc-bounds", verbs, summary="Exact laws and error bounds of score-based discrete diffusion on [S]^d.")
