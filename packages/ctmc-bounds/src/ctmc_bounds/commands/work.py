"""sample, verify, train and reproduce."""

from ctmc_bounds.commands.choices import Envelope, Grid, Init, Inner, Sampler, Scale


def sample(
    n: int = 1000,
    data: str = "mix:d=6",
    sampler: Sampler = "paper",
    T: float = 6.0,
    delta: float = 0.01,
    grid: Grid = "exp_const",
    N: int = 64,
    c: float = 0.0,
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
        data: KIND:key=value,... (mix, ising, two-point, cat4, ramps, curie-weiss, product, markov, hmm, random,
            digits), or a file: .npy, .npz or .json law, .csv or .npy samples (FILE:S=3).
        sampler: paper, uniformization, midpoint, thinning, euler, reject, ordinal, first_jump, tweedie, theta_*.
        T: noise level at which sampling starts.
        delta: noise level at which sampling stops; 0 needs data with full support.
        grid: constant, exp_const or optimal.
        N: intervals.
        c: exp_const with steps h = c min(1, t) instead of N intervals; 0 for N intervals.
        init: uniform noise, or exact (q_T, to see the discretisation alone).
        score_noise: standard deviation of log-normal noise on every score value.
        score_bias: eta of a score that is e^eta too large.
        network: folder of the verb train: its network is the estimator.
        clip: clip scores to their bounds, and Euler's and Tweedie's probabilities, counted in the rows.
        theta: of the theta schemes.
        inner: kernel inside the theta schemes.
        envelope: lambda_k of uniformization.
        seed: of draws and of the score noise.
        out: file for the samples, .npy (integers, (n, d)) or .csv; or run folder for samples.npy, result.json,
            rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda or cuda:N.
    """
    options = dict(locals())
    from ctmc_bounds.verbs import work
    from ctmc_bounds.verbs.problem import Problem

    work.sample(Problem.of(options), n, out, json)


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
    options = dict(locals())
    from ctmc_bounds.verbs import work
    from ctmc_bounds.verbs.problem import Problem

    return work.verify(Problem.of(options), out, json)


def train(
    data: str = "digits",
    width: int = 128,
    layers: int = 2,
    steps: int = 4000,
    batch_size: int = 256,
    learning_rate: float = 0.003,
    T: float = 6.0,
    delta: float = 0.01,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Train a small cavity network on a law; resumes after a stop.

    Args:
        data: law to learn, as in `law`.
        width: hidden units.
        layers: hidden layers.
        steps: Adam steps.
        batch_size: draws per step.
        learning_rate: of the first step; falls to 0 along a cosine.
        T: noise level at which sampling starts.
        delta: smallest noise level, above 0.
        seed: of weights and draws.
        out: run folder; runs/ctmc-bounds-train by default; the network is network.safetensors.
        json: print JSON instead of a table.
        device: auto, cpu, cuda or cuda:N.
    """
    from ctmc_bounds.cavity_network import Training
    from ctmc_bounds.verbs import work

    training = Training(steps, batch_size, learning_rate, T, delta, seed)
    work.train(data, width, layers, training, out, device, json)


def reproduce(
    scale: Scale = "laptop",
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
