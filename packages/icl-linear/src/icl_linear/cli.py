"""The command `icl-linear`: verbs to public functions."""

from collections.abc import Callable
from typing import Literal

from shared_core.cli import run


def risk(
    spectrum: str = "power:2",
    d: int = 32,
    psi: float = 1.0,
    sigma: float = 1.0,
    trace: float | None = 1.0,
    context: list[int] = [16, 64, 256],  # noqa: B006 - read only; the help shows it
    test: list[int] | None = None,
    gamma: str | None = None,
    draws: int = 200,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Exact risk of attention trained with N examples and tested with M, beside ridge.

    Args:
        spectrum: iso, power:A, exp[:B], spiked:S[:R], or a file with eigenvalues or a covariance matrix.
        d: dimension of a named spectrum.
        psi: standard deviation of a task's coefficients.
        sigma: standard deviation of the label noise.
        trace: a named spectrum is scaled to this trace; null leaves it as it is.
        context: N, examples in each pretraining prompt.
        test: M, examples at test; the same as context by default.
        gamma: file with the Gamma to judge instead of the optimum of each N.
        draws: of the context inputs, for ridge.
        seed: of those draws.
        out: folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from icl_linear.options import problem_on
    from icl_linear.verbs.theory import risk_table

    options = {"spectrum": spectrum, "d": d, "psi": psi, "sigma": sigma, "trace": trace}
    settings = options | {"context": context, "test": test, "gamma": gamma, "draws": draws, "seed": seed}
    problem = problem_on(options, device)
    risk_table(problem, context, test, gamma, draws, seed, settings, out, json)


def curve(
    spectrum: str = "power:2",
    d: int = 32,
    psi: float = 1.0,
    sigma: float = 1.0,
    trace: float | None = 1.0,
    context: int = 50,
    tasks: list[int] = [100, 300, 1000, 3000, 10000],  # noqa: B006 - read only; the help shows it
    schedule: str = "geometric",
    learning_rate: float | None = None,
    batch_size: int = 1,
    test: list[int] = [],  # noqa: B006 - read only; the help shows it
    runs: int = 0,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Expected excess risk after T steps of one-pass SGD, exactly, with the bound beside it.

    Args:
        spectrum: iso, power:A, exp[:B], spiked:S[:R], or a file with eigenvalues or a covariance matrix.
        d: dimension of a named spectrum.
        psi: standard deviation of a task's coefficients.
        sigma: standard deviation of the label noise.
        trace: a named spectrum is scaled to this trace; null leaves it as it is.
        context: N, examples in each pretraining prompt.
        tasks: T, numbers of steps, each a run of its own (the schedule depends on T).
        schedule: geometric (the paper's), constant, linear, poly or poly:POWER.
        learning_rate: gamma_0 in the paper; half the largest stable step by default.
        batch_size: tasks averaged in each step.
        test: M, other numbers of examples at which to give the trained model's risk.
        runs: sampled runs to set beside the exact values; none by default.
        seed: of the sampled runs.
        out: folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from icl_linear.options import problem_on
    from icl_linear.verbs.theory import learning_curve

    options = {"spectrum": spectrum, "d": d, "psi": psi, "sigma": sigma, "trace": trace}
    settings = options | {
        "context": context,
        "tasks": tasks,
        "schedule": schedule,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
    }
    settings |= {"test": test, "runs": runs, "seed": seed}
    problem = problem_on(options, device)
    learning_curve(problem, context, tasks, schedule, learning_rate, batch_size, test, runs, seed, settings, out, json)


def bound(
    spectrum: str = "power:2",
    d: int = 32,
    psi: float = 1.0,
    sigma: float = 1.0,
    trace: float | None = 1.0,
    context: int = 50,
    tasks: list[int] = [100, 1000, 10000],  # noqa: B006 - read only; the help shows it
    learning_rate: float | None = None,
    test: list[int] = [4, 50, 1000],  # noqa: B006 - read only; the help shows it
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """The task-complexity bound term by term (effective dimension, bias, variance) beside the exact risk.

    Args:
        spectrum: iso, power:A, exp[:B], spiked:S[:R], or a file with eigenvalues or a covariance matrix.
        d: dimension of a named spectrum.
        psi: standard deviation of a task's coefficients.
        sigma: standard deviation of the label noise.
        trace: a named spectrum is scaled to this trace; null leaves it as it is.
        context: N, examples in each pretraining prompt.
        tasks: T, numbers of pretraining tasks.
        learning_rate: gamma_0 in the paper; half the largest stable step by default.
        test: M, examples at test for the rates of ridge and attention.
        out: folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from icl_linear.options import problem_on
    from icl_linear.verbs.theory import bound_table

    options = {"spectrum": spectrum, "d": d, "psi": psi, "sigma": sigma, "trace": trace}
    settings = options | {"context": context, "tasks": tasks, "learning_rate": learning_rate, "test": test}
    bound_table(problem_on(options, device), context, tasks, learning_rate, test, settings, out, json)


def plan(
    spectrum: str = "power:2",
    d: int = 32,
    psi: float = 1.0,
    sigma: float = 1.0,
    trace: float | None = 1.0,
    context: int = 50,
    target: float = 0.1,
    relative: bool = True,
    schedule: str = "geometric",
    learning_rate: float | None = None,
    batch_size: int = 1,
    most: int = 1_000_000,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Pretraining tasks needed for a target excess risk.

    Args:
        spectrum: iso, power:A, exp[:B], spiked:S[:R], or a file with eigenvalues or a covariance matrix.
        d: dimension of a named spectrum.
        psi: standard deviation of a task's coefficients.
        sigma: standard deviation of the label noise.
        trace: a named spectrum is scaled to this trace; null leaves it as it is.
        context: N, examples in each pretraining prompt.
        target: excess risk over the best attention model.
        relative: the target is a share of the untrained model's excess risk.
        schedule: geometric (the paper's), constant, linear, poly or poly:POWER.
        learning_rate: gamma_0 in the paper; half the largest stable step by default.
        batch_size: tasks averaged in each step.
        most: steps at which to give up.
        out: folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from icl_linear.options import problem_on
    from icl_linear.verbs.theory import plan_table

    options = {"spectrum": spectrum, "d": d, "psi": psi, "sigma": sigma, "trace": trace}
    settings = options | {"context": context, "target": target, "relative": relative, "schedule": schedule}
    settings |= {"learning_rate": learning_rate, "batch_size": batch_size, "most": most}
    problem = problem_on(options, device)
    plan_table(problem, context, target, relative, schedule, learning_rate, batch_size, most, settings, out, json)


def train(
    model: Literal["gamma", "factored", "full", "gpt2"] = "gamma",
    spectrum: str = "power:2",
    d: int = 20,
    psi: float = 1.0,
    sigma: float = 1.0,
    trace: float | None = 1.0,
    context: int = 20,
    steps: int = 2000,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    schedule: str | None = None,
    optimizer: Literal["adam", "sgd"] | None = None,
    loss: Literal["query", "all"] | None = None,
    runs: int = 1,
    pool: int | None = None,
    design: Literal["gaussian", "sphere", "gamma"] = "gaussian",
    layers: int | None = None,
    width: int | None = None,
    heads: int | None = None,
    max_context: int | None = None,
    test: list[int] = [],  # noqa: B006 - read only; the help shows it
    prompts: int = 2000,
    checkpoint_every: int = 100,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Pretrain Gamma (the paper's SGD), full linear attention or a GPT-2; resumable.

    Args:
        model: gamma (one-pass SGD), factored or full linear attention, gpt2 (these three by autograd).
        spectrum: iso, power:A, exp[:B], spiked:S[:R], or a file with eigenvalues or a covariance matrix.
        d: dimension of a named spectrum.
        psi: standard deviation of a task's coefficients.
        sigma: standard deviation of the label noise.
        trace: a named spectrum is scaled to this trace; null leaves it as it is.
        context: N, examples in each pretraining prompt.
        steps: of the optimiser.
        batch_size: fresh tasks in each step; 1 for gamma, 64 for the others.
        learning_rate: gamma_0 in the paper; half the largest stable one for gamma, 0.003 for attention, 0.001 for gpt2.
        schedule: geometric, constant, linear or poly[:POWER]; geometric for gamma, constant for the others.
        optimizer: adam or sgd, for the models trained by autograd.
        loss: query (the last position) or all (every prefix), for autograd; all for gpt2, query for attention.
        runs: independent runs at once, for gamma.
        pool: draw tasks from a fixed pool of this many instead of fresh ones.
        design: law of the inputs; the closed forms shown beside are for gaussian.
        layers: of gpt2, 3 by default.
        width: of gpt2, 64 by default.
        heads: of gpt2, 4 by default.
        max_context: examples gpt2 has positions for; context by default.
        test: M, examples at test; context by default.
        prompts: for judging models without a closed form.
        checkpoint_every: steps between checkpoints.
        seed: of tasks and start.
        out: run folder; runs/icl-linear-train by default; the same command goes on where it was interrupted.
        json: print JSON instead of a table.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from icl_linear.options import train_options

    options = {"spectrum": spectrum, "d": d, "psi": psi, "sigma": sigma, "trace": trace}
    train_options(
        options, model=model, context=context, steps=steps, batch_size=batch_size,
        learning_rate=learning_rate, schedule=schedule, optimizer=optimizer, loss=loss, seed=seed, pool=pool,
        design=design, layers=layers, width=width, heads=heads, max_context=max_context,
    )(
        runs=runs, checkpoint_every=checkpoint_every, lengths=test, prompts=prompts,
        out=out, device=device, as_json=json,
    )  # fmt: skip


def compare(
    spectrum: str = "iso",
    d: int = 32,
    psi: float = 1.0,
    sigma: float = 1.0,
    trace: float | None = 1.0,
    context: list[int] = [16, 64, 256],  # noqa: B006 - read only; the help shows it
    test: list[int] | None = None,
    tasks: list[int] = [],  # noqa: B006 - read only; the help shows it
    run: str | None = None,
    prompts: int = 2000,
    draws: int = 200,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    device: str = "auto",
) -> None:
    """Attention beside ridge for every pretraining length N and test length M; or a trained run beside both.

    Args:
        spectrum: iso, power:A, exp[:B], spiked:S[:R], or a file with eigenvalues or a covariance matrix.
        d: dimension of a named spectrum.
        psi: standard deviation of a task's coefficients.
        sigma: standard deviation of the label noise.
        trace: a named spectrum is scaled to this trace; null leaves it as it is.
        context: N, examples in each pretraining prompt.
        test: M, examples at test; 4, 16, 64, 256, 1024 by default (a run's own with --run).
        tasks: T; adds models pretrained with so many tasks at the first N.
        run: folder of `train` to judge instead (its own problem is used).
        prompts: for judging a run without a closed form.
        draws: of the context inputs, for ridge.
        seed: of those draws.
        out: folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from icl_linear.options import problem_on
    from icl_linear.verbs.comparison import compare_lengths, compare_run

    if run is not None:
        compare_run(run, test, prompts, device, {"run": run, "test": test, "prompts": prompts}, out, json)
        return
    options = {"spectrum": spectrum, "d": d, "psi": psi, "sigma": sigma, "trace": trace}
    tested = test or [4, 16, 64, 256, 1024]
    settings = options | {"context": context, "test": tested, "tasks": tasks, "draws": draws, "seed": seed}
    compare_lengths(problem_on(options, device), context, tested, tasks, draws, seed, settings, out, json)


def estimate(
    data: str,
    task: str = "task",
    target: str = "y",
    context: int | None = None,
    fraction: float = 0.1,
    standardize: bool = True,
    splits: int = 5,
    passes: int = 1,
    most: int = 1_000_000,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
) -> None:
    """Fit spectrum, prior and noise to a csv of tasks; tasks needed; in-context prediction beside ridge.

    Args:
        data: csv with one row for each example: a task column, a label column, numeric features.
        task: name of the task column.
        target: name of the label column.
        context: N, rows given as examples; half of the shortest task by default.
        fraction: of the untrained model's excess risk, to which tasks needed refers.
        standardize: divide features by their pooled standard deviation (one prior for all coefficients).
        splits: random splits into training and held-out tasks.
        passes: prompts drawn from each training task.
        most: steps at which the search for tasks needed gives up.
        seed: of splits, prompts and the bootstrap.
        out: folder for result.json, rows.csv and figures.
        json: print JSON instead of a table.
    """
    from icl_linear.verbs.estimation import estimate_table

    settings = {"data": data, "task": task, "target": target, "context": context, "fraction": fraction}
    settings |= {"standardize": standardize, "splits": splits, "passes": passes, "most": most, "seed": seed}
    estimate_table(data, task, target, context, fraction, standardize, splits, passes, most, seed, settings, out, json)


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print them with their verdicts.

    Args:
        scale: smoke takes seconds, laptop minutes on two cores, paper goes to larger d, T and more runs.
        claims: ids of claims, comma separated; all by default.
        out: run folder; runs/icl-linear-reproduce-SCALE by default.
        seed: seed of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from icl_linear.reproduce import claims as paper_claims

    return paper_claims.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)


def main() -> int:
    """Entry point of the console script."""
    verbs: list[Callable[..., int | None]] = [risk, curve, bound, plan, train, compare, estimate, reproduce]
    return run("icl-linear", verbs, summary="How many pretraining tasks linear attention needs, in closed form.")
