"""Claims that sampled pretraining runs and trained modules decide."""

import math

import torch
from shared_core.claims import Context, Measurement
from torch import nn

from icl_linear import figures
from icl_linear.attention import LinearAttention
from icl_linear.attention_risk import excess_risk
from icl_linear.bound import task_bound, theorem_step
from icl_linear.expected_run import expected_sgd
from icl_linear.one_pass_sgd import sgd
from icl_linear.problem import Problem
from icl_linear.reproduce.shared import claims
from icl_linear.schedule import geometric
from icl_linear.spectra import make_problem
from icl_linear.training import Evaluation, Training, evaluate_module, make_model, make_optimizer, train_module


@claims.add(
    "runs-on-the-curve",
    statement="Sampled pretraining runs follow the exact expected learning curve.",
    where="Task-complexity theorem: the left-hand side, which the paper only bounds",
    quantity="(mean of sampled runs - exact) in standard errors, largest |z| over spectra, T and three seeds",
    expected="<= 3.5 (18 comparisons at laptop scale)",
)
def runs_on_the_curve(context: Context) -> Measurement:
    """Independent runs, three seeds, N = 40; the excess of one run is heavy tailed, hence many runs."""
    d, length = 16, 40
    tasks = context.at([50, 100], [100, 300, 1000], [100, 1000, 10_000])
    runs = context.at(200, 300, 2000)
    scores, names = [], []
    for kind in context.at(["power:2"], ["power:2", "iso"], ["power:2", "exp", "iso"]):
        problem = make_problem(kind, d).to(context.device)
        exact, bounds, means, errors = [], [], [], []
        for count in tasks:
            schedule = geometric(theorem_step(problem, length), count)
            exact.append(float(expected_sgd(problem, length, schedule).excess[-1]))
            bounds.append(task_bound(problem, length, schedule).total)
            pooled = []
            for seed in range(3):
                generator = torch.Generator(context.device).manual_seed(context.seed * 1000 + seed)
                gammas = sgd(problem, length, schedule, generator, runs=runs).double()
                values = excess_risk(problem, gammas, length)
                scores.append(float((values.mean() - exact[-1]) / (values.std() / math.sqrt(runs))))
                pooled.append(values)
            every = torch.cat(pooled)
            means.append(float(every.mean()))
            errors.append(1.96 * float(every.std()) / math.sqrt(len(every)))
        figure = figures.curves_figure(
            tasks,
            {"exact expectation": exact, "bound, constant 1": bounds},
            dashed=["bound, constant 1"],
            points={f"{3 * runs} runs, 95 %": (tasks, means, errors)},
            title=f"{kind}, d = {d}, N = {length}",
        )
        names.append(context.save_figure(f"runs-{kind.replace(':', '-')}", figure))
    worst = max(map(abs, scores))
    note = f"{runs} runs for each of 3 seeds; z from {min(scores):.2f} to {max(scores):.2f}; one configuration."
    return Measurement(worst, worst <= 3.5, (min(scores), max(scores)), note, tuple(names))


def _trained(problem: Problem, training: Training, context: Context) -> nn.Module:
    model = make_model(problem.d, training).to(context.device)
    optimizer = make_optimizer(model, training)
    return train_module(model, optimizer, problem, training, context.device, checkpoint_every=training.steps)


def _optimum(problem: Problem, length: int, context: Context) -> LinearAttention:
    model = LinearAttention(problem.d).double()
    with torch.no_grad():
        model.gamma.copy_(torch.diag(problem.gamma_star(length)))
    return model.to(context.device)


@claims.add(
    "full-weights",
    statement="Linear attention with full query, key and value matrices, trained by Adam, reaches the optimum that the"
    " theory has for Gamma, and inherits its loss at other context lengths.",
    where="Beyond the paper's parameterisation",
    quantity="risk over the noise / that of Gamma*_N on the same prompts at M = N (mean of 3 seeds); and"
    " / ridge at M = 5 N",
    expected="<= 1.05 at M = N; > 2 of ridge at M = 5 N",
)
def full_weights(context: Context) -> Measurement:
    """d = 8, N = 20, spectrum 1/i, sigma = 0.5."""
    problem, length = make_problem("power:1", 8, sigma=0.5), 20
    prompts = context.at(500, 4000, 20_000)
    lengths = [length, 5 * length]
    star = evaluate_module(
        _optimum(problem, length, context), problem, lengths, prompts=prompts, seed=7, device=context.device
    )
    at_n, beyond = [], []
    for seed in range(context.at(1, 3, 3)):
        training = Training(
            model="full", context=length, steps=context.at(30, 1000, 5000), batch_size=128, learning_rate=0.03,
            schedule="poly:0.25", seed=context.seed * 1000 + seed,
        )  # fmt: skip
        model = _trained(problem, training, context)
        found = evaluate_module(model, problem, lengths, prompts=prompts, seed=7, device=context.device)
        at_n.append(found[0].model / star[0].model)
        beyond.append(found[1].model / found[1].ridge)
    measured = {"M = N": sum(at_n) / len(at_n), "M = 5 N, of ridge": sum(beyond) / len(beyond)}
    if context.scale == "smoke":
        note = "Trained for a few seconds only."
        return Measurement(measured, None, (min(at_n), max(at_n)), note)
    holds = measured["M = N"] <= 1.05 and measured["M = 5 N, of ridge"] > 2
    note = f"3 seeds, {prompts} prompts, interval over seeds at M = N. {FULL_TRIED}"
    return Measurement(measured, holds, (min(at_n), max(at_n)), note)


FULL_TRIED = "Learning rate, schedule and steps from 6 configurations on seed 100, which is not reported."
GPT2_TRIED = (
    "Size, learning rate, batch and steps from 8 configurations on seed 100 and other prompts, not reported; the harder"
    " d = 2, N = 8 was still more than 7 times above ridge after 1500 steps and is left to the paper's scale."
)


@claims.add(
    "gpt2-near-bayes",
    statement="A small GPT-2 style transformer pretrained on the same tasks is near Bayes at the lengths it has seen,"
    " and not at lengths beyond.",
    where="Beyond the paper's model; the picture of the abstract",
    quantity="risk over the noise / ridge on the same prompts, mean of 3 seeds",
    expected="<= 2 at M = N; > 2 at M = 4 N",
)
def gpt2_near_bayes(context: Context) -> Measurement:
    """Isotropic, psi = 1, sigma = 0.5, trained on every prefix: d = 1, N = 4; at the paper's scale d = 2, N = 8."""
    d, length = context.at(1, 1, 2), context.at(4, 4, 8)
    problem = make_problem("iso", d, sigma=0.5, trace=float(d))
    lengths = [max(length // 4, 1), length // 2, length, 2 * length, 4 * length]
    prompts = context.at(300, 4000, 20_000)
    rows: list[list[Evaluation]] = []
    for seed in range(context.at(1, 3, 3)):
        training = Training(
            model="gpt2", context=length, steps=context.at(10, 2000, 20_000), batch_size=context.at(64, 256, 256),
            learning_rate=0.005,
            schedule="linear", loss="all", layers=2, width=context.at(32, 32, 128), heads=2, max_context=4 * length,
            seed=context.seed * 1000 + seed,
        )  # fmt: skip
        model = _trained(problem, training, context)
        rows.append(evaluate_module(model, problem, lengths, prompts=prompts, seed=11, device=context.device))
    star = evaluate_module(
        _optimum(problem, length, context), problem, lengths, prompts=prompts, seed=11, device=context.device
    )
    mean = [sum(row[i].model for row in rows) / len(rows) for i in range(len(lengths))]
    ridge = [item.ridge for item in rows[0]]
    curves = {"GPT-2": mean, "linear attention, optimum of N": [item.model for item in star], "ridge (Bayes)": ridge}
    figure = figures.curves_figure(
        lengths, curves, dashed=["ridge (Bayes)"], x="examples at test, M", y="risk over the noise",
        title=f"d = {d}, N = {length}, mean of {len(rows)} seeds",
    )  # fmt: skip
    name = context.save_figure("gpt2-lengths", figure)
    over = [row[2].model / row[2].ridge for row in rows]
    measured = {"M = N": mean[2] / ridge[2], "M = 4 N": mean[4] / ridge[4]}
    if context.scale == "smoke":
        return Measurement(measured, None, note="Trained for a few steps only.", figures=(name,))
    holds = measured["M = N"] <= 2 and measured["M = 4 N"] > 2
    note = (
        f"d = {d}, N = {length}: {len(rows)} seeds, {prompts} prompts, interval over seeds at M = N. Linear"
        f" attention's optimum has {star[2].model / ridge[2]:.3g} there, predicting 0 {d / ridge[2]:.3g}. {GPT2_TRIED}"
    )
    return Measurement(measured, holds, (min(over), max(over)), note, (name,))
