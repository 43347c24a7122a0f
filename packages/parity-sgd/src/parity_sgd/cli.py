"""The command `parity-sgd`: verbs to public functions."""

from typing import Literal

from shared_core.cli import run


def train(
    d: int | None = None,
    k: int | None = None,
    support: list[int] | None = None,
    label_noise: float = 0.0,
    width: int | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    rho: float | None = None,
    learning_rate: float = 0.1,
    decay: float = 1.0,
    runs: int = 1,
    seed: int = 0,
    log_every: int | None = None,
    out: str | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Train the network on a sparse parity and score it exactly.

    Args:
        d: dimension.
        k: size of the parity; its support is then the first k coordinates.
        support: the coordinates of the parity, comma separated, counted from 0.
        label_noise: probability with which a training label is flipped.
        width: neurons; max(16 * 2^k, 4^k) by default.
        batch_size: B in the paper, fresh samples a step; by default what one step needs to get all signs right.
        steps: steps; 2 ln(d) / learning-rate by default.
        rho: threshold of the mean gradient; half of the signal (1 - 2 label-noise) k! by default.
        learning_rate: eta in the paper.
        decay: lambda, outside the sign.
        runs: how many, with consecutive seeds.
        seed: seed of the first run.
        log_every: steps between rows of metrics.jsonl; about 30 rows by default.
        out: run folder; runs/parity-sgd-train by default.
        device: auto, cpu, cuda, cuda:N or mps.
        json: print JSON instead of a table.
    """
    from parity_sgd.printing import print_table
    from parity_sgd.runs import check_runs, make_task, run_training, summary
    from parity_sgd.settings import SignSGD

    task = make_task(d, k, support, label_noise, seed, device)
    settings = SignSGD.default(
        task, width=width, batch_size=batch_size, steps=steps, rho=rho, learning_rate=learning_rate, decay=decay
    )
    trained = run_training(task, settings, check_runs(seed, runs), out=out, log_every=log_every)
    print_table([summary(run) for run in trained], json)


def predict(
    d: int = 64,
    k: int | None = None,
    support: list[int] | None = None,
    width: int | None = None,
    runs: int = 1,
    seed: int = 0,
    checkpoint: str | None = None,
    json: bool = False,
) -> None:
    """Predict the accuracy after training from the initial weights alone.

    Args:
        d: dimension.
        k: size of the parity.
        support: its coordinates, comma separated.
        width: neurons; max(16 * 2^k, 4^k) by default.
        runs: how many starts, those of `train` with the same seeds.
        seed: first seed.
        checkpoint: a seed-N.safetensors of `train`: its start's prediction beside what training ended in.
        json: print JSON instead of a table.
    """
    from parity_sgd.printing import print_table
    from parity_sgd.runs import check_runs, make_task
    from parity_sgd.studies import predict_rows

    task = make_task(d, 1 if checkpoint and k is None and support is None else k, support, 0.0, seed, "cpu")
    print_table(predict_rows(task, width, check_runs(seed, runs), checkpoint), json)


def scaling(
    k: int | None = None,
    ds: list[int] | None = None,
    kind: Literal["per-step", "end-to-end"] = "per-step",
    runs: int = 8,
    seed: int = 0,
    width: int | None = None,
    learning_rate: float = 0.1,
    out: str | None = None,
    json: bool = False,
) -> None:
    """Measure how the needed samples grow with d and fit the exponent (runs on the CPU).

    Args:
        k: size of the parity.
        ds: dimensions, comma separated.
        kind: per-step, the batch with which one step gets all its signs right; or end-to-end, the smallest batch with
            which three quarters of whole runs reach accuracy 0.99.
        runs: of a size, with consecutive seeds.
        seed: first seed.
        width: neurons; 8 per-step and max(16 * 2^k, 4^k) end-to-end by default.
        learning_rate: eta in the paper, of whole runs.
        out: run folder; runs/parity-sgd-scaling by default.
        json: print JSON instead of a table.
    """
    from parity_sgd.printing import print_table
    from parity_sgd.studies import run_scaling

    rows = run_scaling(kind, k, ds or [], runs=runs, seed=seed, width=width, learning_rate=learning_rate, out=out)
    print_table(rows, json)


def ablate(
    d: int = 24,
    k: int | None = None,
    support: list[int] | None = None,
    studies: list[str] | None = None,
    label_noise: float = 0.0,
    width: int | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    learning_rate: float = 0.1,
    runs: int = 3,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Change one ingredient at a time and measure what it was worth.

    Args:
        d: dimension.
        k: size of the parity.
        support: its coordinates, comma separated.
        studies: of dead-zone, threshold, basis, sign, width and learning-rate; all by default.
        label_noise: probability with which a training label is flipped.
        width: neurons; max(16 * 2^k, 4^k) by default.
        batch_size: B in the paper, samples a step; by default what one step needs to get all signs right.
        steps: steps; 2 ln(d) / learning-rate by default.
        learning_rate: eta in the paper.
        runs: of a variant, with consecutive seeds.
        seed: first seed.
        out: run folder; runs/parity-sgd-ablate by default.
        device: auto, cpu, cuda, cuda:N or mps.
        json: print JSON instead of a table.
    """
    from parity_sgd.ablation import STUDIES
    from parity_sgd.printing import print_table
    from parity_sgd.runs import check_runs, make_task
    from parity_sgd.settings import SignSGD
    from parity_sgd.studies import run_ablation

    task = make_task(d, k, support, label_noise, seed, device)
    settings = SignSGD.default(task, width=width, batch_size=batch_size, steps=steps, learning_rate=learning_rate)
    print_table(run_ablation(task, settings, studies or list(STUDIES), check_runs(seed, runs), out), json)


def neurons(
    d: int | None = None,
    k: int | None = None,
    support: list[int] | None = None,
    label_noise: float = 0.0,
    width: int | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    rho: float | None = None,
    learning_rate: float = 0.1,
    decay: float = 1.0,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Follow a good and a bad neuron beside their closed-form path.

    Args:
        d: dimension.
        k: size of the parity.
        support: its coordinates, comma separated.
        label_noise: probability with which a training label is flipped.
        width: neurons; max(16 * 2^k, 4^k) by default.
        batch_size: B in the paper, samples a step; by default what one step needs to get all signs right.
        steps: steps; 2 ln(d) / learning-rate by default.
        rho: threshold of the mean gradient; half of the signal (1 - 2 label-noise) k! by default.
        learning_rate: eta in the paper.
        decay: lambda, outside the sign.
        seed: seed of the run.
        out: run folder; runs/parity-sgd-neurons by default.
        device: auto, cpu, cuda, cuda:N or mps.
        json: print JSON instead of a table.
    """
    from parity_sgd.printing import print_table
    from parity_sgd.runs import make_task
    from parity_sgd.settings import SignSGD
    from parity_sgd.studies import run_neurons

    task = make_task(d, k, support, label_noise, seed, device)
    settings = SignSGD.default(
        task, width=width, batch_size=batch_size, steps=steps, rho=rho, learning_rate=learning_rate, decay=decay
    )
    print_table(run_neurons(task, settings, seed, out), json)


def fit(
    file: str,
    k: int | None = None,
    label: str | None = None,
    methods: list[Literal["sign-sgd", "elimination", "brute-force", "sgd", "relu-sgd"]] | None = None,
    label_noise: float | None = None,
    width: int | None = None,
    epochs: int = 15,
    batches: int = 16,
    learning_rate: float = 0.1,
    decay: float = 1.0,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Recover which k columns of a table make its label, and test the answer on held-out rows (runs on the CPU).

    Exit code 1 where no method's answer is confirmed.

    Args:
        file: csv, tsv or parquet with columns of 0/1 or -1/+1.
        k: number of columns in the parity.
        label: label column; y or label where there is one, else the last.
        methods: sign-sgd by default; elimination over GF(2) is far better where labels have no noise.
        label_noise: probability of a flipped label to assume; 0, 0.1, 0.2 and 0.3 are tried by default.
        width: neurons; max(16 * 2^k, 4^k) by default.
        epochs: passes over the training rows.
        batches: mini-batches a pass.
        learning_rate: eta in the paper.
        decay: lambda, outside the sign.
        seed: seed of the split and of the starts.
        json: print JSON instead of text.
    """
    from parity_sgd.fitting import fit_file
    from parity_sgd.printing import print_fits
    from parity_sgd.searches import FitSettings

    settings = FitSettings(width, epochs, batches, learning_rate, decay, label_noise)
    fits = fit_file(file, k, label=label, methods=methods or ["sign-sgd"], settings=settings, seed=seed)
    print_fits(fits, json)
    return 0 if any(found.recovered for found in fits) else 1


def sample(
    d: int | None = None,
    n: int = 10000,
    k: int | None = None,
    support: list[int] | None = None,
    label_noise: float = 0.0,
    seed: int = 0,
    out: str | None = None,
) -> None:
    """Write a table with a planted parity, to try `fit` on.

    Args:
        d: feature columns.
        n: rows.
        k: size of the parity; its support is then the first k columns.
        support: columns of the parity, comma separated, counted from 0.
        label_noise: probability with which a label is flipped.
        seed: seed of the rows.
        out: csv, tsv or parquet to write; needed.
    """
    from parity_sgd.runs import make_task
    from parity_sgd.tables import check_table_name, write_table

    out = check_table_name(out)
    write_table(out, *make_task(d, k, support, label_noise, seed, "cpu").sample(n))
    print(out)


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print them with their verdicts.

    Args:
        scale: smoke takes seconds, laptop minutes on two cores, paper larger sizes than the paper's own.
        claims: ids of claims, comma separated; all by default.
        out: run folder; runs/parity-sgd-reproduce-SCALE by default.
        seed: seed of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from parity_sgd.reproduce import claims as paper_claims

    return paper_claims.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)


def main() -> int:
    """Entry point of the console script."""
    return run(
        "parity-sgd",
        [train, predict, scaling, ablate, neurons, fit, sample, reproduce],
        summary="k-sparse parity by sign SGD, to the statistical-query limit.",
    )
