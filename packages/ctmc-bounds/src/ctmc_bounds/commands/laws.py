"""law, bound and compare."""

from ctmc_bounds.commands.choices import COMPARED, Grid, Init, Inner, Representation, Sampler


def law(
    data: str = "mix:d=6",
    sampler: Sampler = "paper",
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
    """The exact law that a sampler generates: KL, TV, chi^2, calls, mass defect.

    Args:
        data: KIND:key=value,... (mix, ising, two-point, cat4, ramps, curie-weiss, product, markov, hmm, random,
            digits), or a file: .npy, .npz or .json law, .csv or .npy samples (FILE:S=3).
        sampler: paper, uniformization, midpoint, thinning, euler, reject, ordinal, first_jump, tweedie, theta_*.
        T: noise level at which sampling starts.
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
    from ctmc_bounds.verbs import laws
    from ctmc_bounds.verbs.problem import Problem

    laws.law(Problem.of(options), out, json)


def bound(
    data: str = "mix:d=6",
    sampler: Sampler = "paper",
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
        c: exp_const with steps h = c min(1, t) instead of N intervals; 0 for N intervals.
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
    options = dict(locals())
    from ctmc_bounds.verbs import laws
    from ctmc_bounds.verbs.problem import Problem

    laws.bound(Problem.of(options), C1, constant, out, json)


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
    options = dict(locals())
    from ctmc_bounds.verbs import laws
    from ctmc_bounds.verbs.problem import Problem

    laws.compare(Problem.of(options), samplers, calls, out, json)
