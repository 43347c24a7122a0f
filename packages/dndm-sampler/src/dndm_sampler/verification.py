"""`dndm-sampler verify`: exact laws side by side, and the checks that must hold to the last digits."""

import json
import sys
from typing import Any

import torch
from rich.console import Console
from shared_core.errors import InputError
from shared_core.run_folder import read_json

from dndm_sampler.commands import print_rows
from dndm_sampler.enumeration import ExactProblem, exact_problem, markov_chain_law, total_variation
from dndm_sampler.nfe import expected_nfe, nfe_distribution
from dndm_sampler.reproduce.exact import reference_problem
from dndm_sampler.sampler import DNDMSampler
from dndm_sampler.schedule import TransitionSchedule

TOLERANCE = 1e-12


def verify(schedule: str, num_steps: list[int], data: str | None, as_json: bool) -> int:
    """Print the table of total variations and the checks; 1 if a check fails.

    Raises:
        InputError: for a schedule, a T below 1, or a data file that cannot be used.
    """
    if any(T < 1 for T in num_steps):
        raise InputError(f"--num-steps must be at least 1, got {min(num_steps)}")
    law = TransitionSchedule.parse(schedule)
    absorbing, uniform = problems(data)
    rows = [_row(absorbing, uniform, law, T) for T in num_steps]
    checks = run_checks(absorbing, law, num_steps)
    failed = [name for name, (value, bound) in checks.items() if not value <= bound]
    if as_json:
        found = {
            name: {"value": value, "bound": bound, "holds": value <= bound} for name, (value, bound) in checks.items()
        }
        print(json.dumps({"table": rows, "checks": found}))
    else:
        print_rows(rows, False)
        console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
        for name, (value, bound) in checks.items():
            console.print(f"{'FAILS' if name in failed else 'holds'}  {name}: {value:.3g} (at most {bound:.3g})")
    return int(bool(failed))


def problems(data: str | None) -> tuple[ExactProblem, ExactProblem]:
    """The absorbing and the multinomial problem of a chain read from a file, or of the built-in one."""
    if data is None:
        return reference_problem("absorbing"), reference_problem("multinomial")
    values = read_json(data)
    try:
        table = markov_chain_law(values["initial"], values["transition"], int(values["length"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{data}: expected an object with initial [V], transition [V][V] and length N "
            f"({type(error).__name__}: {error})"
        ) from error
    return exact_problem(table, "absorbing"), exact_problem(table, "multinomial")


def _row(absorbing: ExactProblem, uniform: ExactProblem, schedule: TransitionSchedule, T: int) -> dict[str, Any]:
    """Calls, and the total variation of each sampler's law to the data."""

    def tv(law: torch.Tensor) -> float:
        return total_variation(absorbing.data, law)

    return {
        "T": T,
        "expected calls": expected_nfe(schedule, T, absorbing.length),
        "absorbing DNDM": tv(absorbing.dndm(schedule, T)),
        "absorbing D3PM": tv(absorbing.ancestral(schedule, T)),
        "uniform D3PM": tv(uniform.ancestral(schedule, T)),
        "uniform DNDM": tv(uniform.dndm(schedule, T)),
        "uniform + LOO": tv(uniform.dndm(schedule, T, loo=True)),
        "uniform v2": tv(uniform.dndm(schedule, T, refresh=True)),
    }


def run_checks(
    problem: ExactProblem, schedule: TransitionSchedule, num_steps: list[int]
) -> dict[str, tuple[float, float]]:
    """Each check as (value, largest value allowed)."""
    by_times = min(4, max(num_steps))
    checks = {
        "absorbing DNDM and D3PM have one law": (
            max(total_variation(problem.dndm(schedule, T), problem.ancestral(schedule, T)) for T in num_steps),
            TOLERANCE,
        ),
        f"Algorithm 1 with all vectors of times listed, T = {by_times}": (
            total_variation(problem.dndm_by_times(schedule, by_times), problem.ancestral(schedule, by_times)),
            TOLERANCE,
        ),
        "DNDM-C reproduces the data law": (total_variation(problem.data, problem.continuous()), TOLERANCE),
        "law of the number of calls has the expected mean": (
            max(abs(nfe_distribution(schedule, T, problem.length).mean - expected_nfe(schedule, T, problem.length))
                for T in num_steps),
            1e-9,
        ),
    }  # fmt: skip
    checks["the sampler itself draws that law (standard deviations of 20000 rows)"] = (_sampled(problem, schedule), 5.0)
    return checks


def _sampled(problem: ExactProblem, schedule: TransitionSchedule, rows: int = 20_000) -> float:
    """Largest deviation of `DNDMSampler`'s frequencies from the enumerated law, in standard deviations."""
    T, mask = 4, problem.vocab
    table = problem.table(0.5, 0.5).log()
    code = torch.tensor([(mask + 1) ** n for n in range(problem.length - 1, -1, -1)])

    def denoiser(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return table[(x * code).sum(1)]

    sampler = DNDMSampler(denoiser, mask_token_id=mask, schedule=schedule, num_steps=T)
    out = sampler.sample(rows, problem.length, generator=torch.Generator().manual_seed(0)).sequences
    place = (out * torch.tensor([mask**n for n in range(problem.length - 1, -1, -1)])).sum(1)
    law = problem.dndm(schedule, T)
    frequency = torch.bincount(place, minlength=len(law)).double() / rows
    return float(((frequency - law).abs() / (law * (1 - law) / rows).sqrt().clamp(min=1 / rows)).max())
