"""`compare`: attention beside ridge over N and M, and trained models at any length."""

from pathlib import Path
from typing import Any

from shared_core.device import resolve_device
from shared_core.errors import InputError
from shared_core.run_folder import read_config

from icl_linear import figures
from icl_linear.attention_risk import risk
from icl_linear.checks import check_count, check_length
from icl_linear.expected_run import expected_sgd
from icl_linear.output import emit
from icl_linear.problem import Problem
from icl_linear.ridge import bayes_risk
from icl_linear.schedule import make_schedule
from icl_linear.spectra import make_problem
from icl_linear.stable_step import max_stable_step
from icl_linear.training import Training, load_checkpoint, make_model, read_tensors
from icl_linear.verbs.judging import check_training, gamma_rows, module_rows


def compare_lengths(
    problem: Problem,
    trained: list[int],
    tested: list[int],
    tasks: list[int],
    draws: int,
    seed: int,
    settings: dict[str, Any],
    out: str | None,
    as_json: bool,
) -> None:
    """Attention over ridge for every N and M, and SGD-pretrained models with T tasks at every M, all exact."""
    trained = [int(check_length("--context", n)) for n in trained]
    tested = [int(check_length("--test", m)) for m in tested]
    noise = problem.sigma**2
    ridge = [bayes_risk(problem, m, draws, seed).mean - noise for m in tested]
    if min(ridge) <= 0:
        raise InputError("without noise (sigma = 0) ridge is exact from M = d on and there is no ratio; give --sigma")
    rows, ratios, notes = [], [], []
    for n in trained:
        values = [float(risk(problem, problem.gamma_star(n), m)) - noise for m in tested]
        ratios.append([value / base for value, base in zip(values, ridge, strict=True)])
        for m, value, base in zip(tested, values, ridge, strict=True):
            worse = value > problem.zero_risk - noise
            rows.append({"context_N": n, "test_M": m, "tasks": "optimum", "attention": value, "ridge": base,
                         "ratio": value / base, "worse_than_zero": worse})  # fmt: skip
            if worse:
                notes.append(f"N = {n} at M = {m} is worse than predicting 0")
    shown = {"ratio": figures.heat_map_figure(trained, tested, ratios, title="risk over the noise: attention / ridge")}
    if tasks:
        n = trained[0]
        gamma0 = max_stable_step(problem, n) / 2
        curves = {}
        for count in tasks:
            run = expected_sgd(problem, n, make_schedule("geometric", gamma0, check_count("--tasks", count, 2)))
            values = [float(run.excess_at(m)[-1]) for m in tested]
            curves[f"T = {count} tasks"] = values
            rows += [{"context_N": n, "test_M": m, "tasks": str(count), "attention": value, "ridge": base,
                      "ratio": value / base, "worse_than_zero": value > problem.zero_risk - noise}
                     for m, value, base in zip(tested, values, ridge, strict=True)]  # fmt: skip
        curves["optimum of N"] = [float(risk(problem, problem.gamma_star(n), m)) - noise for m in tested]
        curves["ridge (Bayes)"] = ridge
        shown["tasks"] = figures.curves_figure(
            tested, curves, dashed=["ridge (Bayes)"], x="examples at test, M", y="risk over the noise", title=f"N = {n}"
        )
    result = {"d": problem.d, "risk_of_zero_over_noise": problem.zero_risk - noise, "rows": rows, "notes": notes}
    emit("compare", result, settings=settings, figures=shown, out=out, as_json=as_json)


def compare_run(
    path: str,
    tested: list[int] | None,
    prompts: int,
    device: str,
    settings: dict[str, Any],
    out: str | None,
    as_json: bool,
) -> None:
    """A trained run at other test lengths, beside the optimum of its length, the best attention and ridge.

    Raises:
        InputError: if the folder holds no finished training.
    """
    config = read_config(Path(path) / "config.yaml")
    stored = config.get("settings", {})
    if stored.get("verb") != "train" or not (Path(path) / "model.safetensors").exists():
        raise InputError(f"--run {path} holds no finished training")
    problem, training = make_problem(**stored["problem"]), Training(**stored["training"])
    lengths = [int(check_length("--test", m)) for m in tested] if tested else stored["test"]
    resolved = resolve_device(device)
    check_training(training, stored["runs"], lengths)
    if training.model == "gamma":
        gamma = read_tensors(Path(path) / "model.safetensors")["gamma"]
        rows = gamma_rows(problem, gamma, training.context, lengths)
    else:
        model = make_model(problem.d, training)
        load_checkpoint(Path(path) / "model.safetensors", model)
        rows = module_rows(model, problem, training, lengths, prompts, resolved)
    noise = problem.sigma**2
    rows = [row | {"ratio": (row["model"] - noise) / max(row["ridge"] - noise, 1e-300)} for row in rows]
    names = {"model": training.model, "optimum_of_N": "optimum of N", "best_attention": "best attention, N = M"}
    names |= {"ridge": "ridge (Bayes)"}
    curves = {shown: [row[key] - noise for row in rows] for key, shown in names.items()}
    figure = figures.curves_figure(
        lengths, curves, dashed=["ridge (Bayes)"], x="examples at test, M", y="risk over the noise"
    )
    result = {"model": training.model, "context_N": training.context, "rows": rows}
    emit("compare", result, settings=settings, figures={"lengths": figure}, out=out, as_json=as_json)
