"""scan, plan and schedule."""

from ctmc_bounds.commands.choices import PLANNED, Basis, Grid, Init, Inner, Over, Representation


def scan(
    over: Over = "N",
    values: list[float] = [16, 32, 64, 128],  # noqa: B006 - read only; the help shows it
    samplers: list[str] = ["paper", "midpoint"],  # noqa: B006 - read only; the help shows it
    bounds: bool = True,
    h: float | None = None,
    data: str = "mix",
    T: float = 6.0,
    delta: float = 0.01,
    grid: Grid = "exp_const",
    N: int = 64,
    c: float = 0.0,
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
        T: noise level at which sampling starts; chosen for each eps.
        delta: noise level at which sampling stops; 0 needs data with full support.
        grid: constant, exp_const or optimal.
        N: intervals.
        c: exp_const with steps h = c min(1, t) instead of N intervals; 0 for N intervals.
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
    options = dict(locals())
    from ctmc_bounds.verbs import scan as module
    from ctmc_bounds.verbs.problem import Problem

    module.scan(Problem.of(options), over, values, samplers, bounds, h, out, json)


def plan(
    data: str | None = None,
    S: int | None = None,
    d: int | None = None,
    eps: float = 0.001,
    delta: float | None = None,
    tv: float | None = None,
    T: float | None = None,
    by: Basis | None = None,
    samplers: list[str] = PLANNED,
    grid: Grid = "exp_const",
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
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
        device: auto, cpu, cuda or cuda:N; for the exact laws of --data.
    """
    from ctmc_bounds.verbs import work

    work.plan(data, S, d, eps, delta, tv, T, by, samplers, grid, out, json, device)


def schedule(
    data: str = "mix:d=6",
    T: float = 6.0,
    delta: float = 0.01,
    grid: Grid = "exp_const",
    N: int = 64,
    c: float = 0.0,
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
        c: exp_const with steps h = c min(1, t) instead of N intervals; 0 for N intervals.
        init: uniform noise, or exact (q_T, to see the discretisation alone).
        optimal: show the optimal grid, h proportional to c(t)^(-1/3).
        out: run folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda or cuda:N.
    """
    options = dict(locals())
    from ctmc_bounds.verbs import work
    from ctmc_bounds.verbs.problem import Problem

    work.schedule(Problem.of(options), optimal, out, json)
