"""The command `sam-cnn`: verbs to public functions."""

from collections.abc import Callable
from typing import Literal

from shared_core.cli import run


def simulate(
    d: int = 10_000,
    mu: float = 4.0,
    n: int = 20,
    P: int = 2,
    sigma_p: float = 1.0,
    label_noise: float = 0.0,
    noise_patches: Literal["shared", "independent"] = "shared",
    m: int = 10,
    init: str = "theorem",
    learning_rate: str = "0.01",
    rho: list[str] = ["0", "auto"],  # noqa: B006 - read only; the help shows it
    steps: int = 700,
    sam_steps: int | None = 500,
    batch_size: int | None = None,
    points: int = 1000,
    runs: int = 20,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Train one cell of the data model with GD, SGD or SAM, many runs at once, at any dimension.

    Args:
        d: dimension of a patch.
        mu: length of the signal.
        n: training samples.
        P: patches.
        sigma_p: standard deviation of the noise.
        label_noise: probability that a label is flipped, p in the paper.
        noise_patches: the same noise vector in all noise patches, or one each.
        m: filters of each sign.
        init: standard deviation of the initial weights: small, theorem, torch or a number.
        learning_rate: eta in the paper, or auto.
        rho: radii of SAM, tau in the paper, each an algorithm; 0 is plain descent, auto the theorem's scale.
        steps: in all.
        sam_steps: the first so many are SAM's; null for all.
        batch_size: null for the full batch.
        points: test points a run.
        runs: seeds.
        seed: which block of seeds.
        out: folder for result.json and rows.csv.
        json: print JSON instead of a table.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from sam_cnn import verbs
    from sam_cnn.patches import PatchData
    from sam_cnn.simulation import trainings_by_tau

    cell = PatchData(d, mu, n, P, sigma_p, label_noise, noise_patches)
    trainings = trainings_by_tau(
        rho, m=m, init=init, eta=learning_rate, steps=steps, sam_steps=sam_steps, batch_size=batch_size, points=points
    )
    verbs.simulate_cell(cell, trainings, verbs.run_seeds(seed, runs), out, device, json)


def phase(
    d: str = "1000:21000:21",
    mu: str = "0.5:10:20",
    n: int = 20,
    P: int = 2,
    sigma_p: float = 1.0,
    label_noise: float = 0.0,
    noise_patches: Literal["shared", "independent"] = "shared",
    m: int = 10,
    init: str = "torch",
    learning_rate: str = "0.01",
    rho: list[str] = ["0", "0.03", "0.1"],  # noqa: B006 - read only; the help shows it
    steps: int = 100,
    sam_steps: int | None = None,
    batch_size: int | None = None,
    points: int = 1000,
    runs: int = 10,
    level: float = 0.1,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Draw the map of test error over d and |mu|, its boundary and the theory's; resumable.

    Args:
        d: dimensions: lo:hi:count, lo:hi:count:log or numbers with commas.
        mu: lengths of the signal, likewise.
        n: training samples.
        P: patches.
        sigma_p: standard deviation of the noise.
        label_noise: probability that a label is flipped, p in the paper.
        noise_patches: the same noise vector in all noise patches, or one each.
        m: filters of each sign.
        init: standard deviation of the initial weights: small, theorem, torch or a number.
        learning_rate: eta in the paper, or auto.
        rho: radii of SAM, tau in the paper, each a map (a sweep); 0 is plain descent, auto the theorem's scale.
        steps: in all.
        sam_steps: the first so many are SAM's; null for all.
        batch_size: null for the full batch.
        points: test points a run.
        runs: seeds in each cell.
        level: clean test error at the boundary.
        seed: which block of seeds.
        out: run folder; runs/sam-cnn-phase by default; the same command goes on where it was interrupted.
        json: print JSON instead of a table.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from sam_cnn import verbs
    from sam_cnn.patches import PatchData
    from sam_cnn.simulation import trainings_by_tau

    dimensions, lengths = verbs.axis(d, "d", whole=True), verbs.axis(mu, "mu")
    base = PatchData(dimensions[0], lengths[0], n, P, sigma_p, label_noise, noise_patches)
    trainings = trainings_by_tau(
        rho, m=m, init=init, eta=learning_rate, steps=steps, sam_steps=sam_steps, batch_size=batch_size, points=points
    )
    seeds = verbs.run_seeds(seed, runs)
    verbs.phase(base, dimensions, lengths, trainings, seeds, level, out, device, json)


def train(
    data: str = "digits",
    label_noise: float = 0.4,
    optimizer: Literal["sgd", "sam", "asam", "gsam", "looksam", "msam"] = "sam",
    rho: float | None = None,
    epochs: int = 40,
    sam_epochs: int | None = None,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    batch_size: int = 64,
    micro_batches: int = 4,
    model: Literal["cnn", "resnet18"] = "cnn",
    augment: bool = False,
    root: str | None = None,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Train a CNN on real images with label noise; resumable to the bit.

    Args:
        data: digits, mnist5k, cifar10, cifar100 or a .npz file with x (n, [channels,] height, width) and y (n,).
        label_noise: probability that a training label is replaced by another class.
        optimizer: sgd, sam, asam, gsam, looksam, or msam (each micro-batch climbs along its own gradient).
        rho: radius; 0.1 by default, 1 for asam.
        epochs: passes over the data; cosine learning rate.
        sam_epochs: after so many epochs the rest is plain SGD.
        learning_rate: at the start, of the cosine schedule.
        momentum: of SGD.
        weight_decay: of SGD.
        batch_size: images a step.
        micro_batches: of msam.
        model: cnn, or resnet18 (of torchvision).
        augment: shifts and mirror images, as is usual for CIFAR.
        root: folder with CIFAR as torchvision keeps it.
        seed: of weights, label noise and batches.
        out: run folder; runs/sam-cnn-train by default; the same command goes on where it was interrupted.
        json: print JSON instead of a table.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from sam_cnn import verbs
    from sam_cnn.classifier import Fit

    fit = Fit(
        optimizer,
        rho,
        epochs,
        sam_epochs,
        learning_rate,
        momentum,
        weight_decay,
        batch_size,
        micro_batches,
        model,
        augment,
        seed,
    )
    verbs.train(data, label_noise, root, fit, out, device, json)


def mechanism(
    d: int = 10_000,
    mu: float = 4.0,
    n: int = 20,
    P: int = 2,
    sigma_p: float = 1.0,
    label_noise: float = 0.0,
    m: int = 10,
    init: str = "theorem",
    learning_rate: str = "0.01",
    rho: str = "auto",
    steps: int = 700,
    sam_steps: int = 500,
    batch_size: int | None = None,
    at: list[int] = [0, 3, 10, 30, 100, 200, 300, 400, 499, 500, 510, 550, 600, 700],  # noqa: B006 - read only
    runs: int = 20,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Follow GD and SAM-then-GD: signal and noise in y f, active neurons at W and at W + eps.

    Args:
        d: dimension of a patch.
        mu: length of the signal.
        n: training samples.
        P: patches.
        sigma_p: standard deviation of the noise.
        label_noise: probability that a label is flipped, p in the paper.
        m: filters of each sign.
        init: standard deviation of the initial weights: small, theorem, torch or a number.
        learning_rate: eta in the paper, or auto.
        rho: radius of SAM, tau in the paper; auto for the theorem's scale.
        steps: in all.
        sam_steps: the first so many are SAM's.
        batch_size: null for the full batch.
        at: numbers of steps after which the state is shown; those beyond steps are left out.
        runs: seeds.
        seed: which block of seeds.
        out: folder for result.json, rows.csv and the figure.
        json: print JSON instead of a table.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from sam_cnn import verbs
    from sam_cnn.patches import PatchData
    from sam_cnn.simulation import Training

    training = Training(m, init, learning_rate, rho, steps, sam_steps, batch_size)
    shown = sorted({step for step in at if step <= steps})
    data, seeds = PatchData(d, mu, n, P, sigma_p, label_noise), verbs.run_seeds(seed, runs)
    verbs.show_mechanism(data, training, seeds, shown, out, device, json)


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print them with their verdicts.

    Args:
        scale: smoke takes seconds, laptop minutes on two cores, paper draws larger maps and trains longer.
        claims: ids of claims, comma separated; all by default.
        out: run folder; runs/sam-cnn-reproduce-SCALE by default.
        seed: seed of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from sam_cnn.reproduce import claims as paper_claims

    return paper_claims.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)


def main() -> int:
    """Entry point of the console script."""
    verbs: list[Callable[..., int | None]] = [simulate, phase, train, mechanism, reproduce]
    return run("sam-cnn", verbs, summary="Sharpness-aware minimisation: the optimiser, and why it generalises.")
