"""Data laws from what a user types or keeps in a file: `mix:d=6`, `law.npy`, `law.npz`, `law.json`, `tokens.csv`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shared_core.device import check_seed
from shared_core.errors import InputError

from ctmc_bounds.chains import HMMData, IsingRing, MarkovChainData
from ctmc_bounds.checks import check_enumerable, check_space
from ctmc_bounds.data_laws import DataLaw, MixtureData, ProductData, TableData
from ctmc_bounds.exchangeable import curie_weiss, two_point
from ctmc_bounds.law_files import SUFFIXES, make_law, read_law_file
from ctmc_bounds.real_data import digit_patches, empirical


def mix(d: int = 6) -> MixtureData:
    """0.4 Bernoulli(0.8)^d + 0.6 Bernoulli(0.3)^d."""
    return MixtureData.bernoulli(d, [0.4, 0.6], [0.8, 0.3])


def cat4() -> MixtureData:
    """Half (.7, .2, .1)^4, half (.1, .3, .6)^4."""
    rows = [[[0.7, 0.2, 0.1]] * 4, [[0.1, 0.3, 0.6]] * 4]
    return MixtureData([0.5, 0.5], rows)


def ramps(d: int = 3, S: int = 4) -> MixtureData:
    """Half tokens of law proportional to 1..S, half to S..1."""
    check_space(S, d)
    up = torch.arange(1, S + 1, dtype=torch.float64)
    up = up / up.sum()
    return MixtureData([0.5, 0.5], torch.stack([up.expand(d, S), up.flip(0).expand(d, S)]))


def product(d: int = 6, S: int = 2, p: float = 0.8) -> ProductData:
    """Independent tokens, 0 with probability 1 - p and the others sharing p."""
    check_space(S, d)
    row = torch.full((S,), p / (S - 1), dtype=torch.float64)
    row[0] = 1 - p
    return ProductData(row.expand(d, S))


def markov(d: int = 6, S: int = 2, stay: float = 0.8) -> MarkovChainData:
    """Uniform first token; each keeps the one before with probability `stay`, else is uniform over the others."""
    check_space(S, d)
    chain = torch.full((S, S), (1 - stay) / (S - 1), dtype=torch.float64).fill_diagonal_(stay)
    return MarkovChainData(d, torch.full((S,), 1 / S, dtype=torch.float64), chain)


def hmm(d: int = 6, S: int = 3, stay: float = 0.9, sharp: float = 0.7) -> HMMData:
    """Two hidden states that last (`stay`), showing tokens of law proportional to sharp^c and its reverse."""
    check_space(S, d)
    row = sharp ** torch.arange(S, dtype=torch.float64)
    row = row / row.sum()
    chain = torch.tensor([[stay, 1 - stay], [1 - stay, stay]], dtype=torch.float64)
    return HMMData(d, [0.5, 0.5], chain, torch.stack([row, row.flip(0)]))


def random(d: int = 4, S: int = 3, seed: int = 0) -> TableData:
    """A table drawn uniformly from the simplex (Dirichlet of ones)."""
    check_enumerable(S, d)
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    weights = -torch.log(torch.rand(S**d, dtype=torch.float64, generator=generator))
    return TableData(weights / weights.sum(), S, d)


def digits(rows: int = 3, cols: int = 3, levels: int = 2, smoothing: float = 0.0) -> TableData:
    """Empirical law of a patch of scikit-learn's digits."""
    return empirical(digit_patches(rows, cols, levels), levels, smoothing)


KINDS: dict[str, Callable[..., DataLaw]] = {
    "mix": mix, "ising": IsingRing, "two-point": two_point, "cat4": cat4, "ramps": ramps, "curie-weiss": curie_weiss,
    "product": product, "markov": markov, "hmm": hmm, "random": random, "digits": digits,
}  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {"ising": {"d": 6}, "two-point": {"d": 6}, "curie-weiss": {"d": 16}}
TYPES: dict[str, type] = {"d": int, "S": int, "seed": int, "rows": int, "cols": int, "levels": int}


def read_data(spec: str, device: torch.device | str = "cpu", **changes: Any) -> DataLaw:
    """The data law that `spec` names.

    Args:
        spec: `KIND:key=value,...` (kinds: see `KINDS`), or a file: `.npy` table of shape (S,)*d, `.npz` with S, d,
            probs, `.json` {"kind": ..., its arguments}, or samples `.csv` / `.npy` of integers (n, d) written as
            `FILE:S=3` (their empirical law).
        device: where its tensors go.
        changes: keys to replace, for scans.

    Raises:
        InputError: for an unknown kind, key or file, or values that are no law.
    """
    head, _, tail = spec.partition(":")
    typed = dict(_pairs(spec, tail))
    twice = sorted(set(typed) & set(changes))
    if twice:
        raise InputError(f"--data {spec!r}: {twice[0]!r} is what is scanned over; leave it out")
    given: dict[str, Any] = typed | changes
    if head in KINDS:
        return make_law(f"--data {spec!r}", KINDS[head], DEFAULTS.get(head, {}) | given).to(device)
    path = Path(head)
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"--data {spec!r}: {head!r} is no kind ({', '.join(KINDS)}) and no .npy, .npz, .json, .csv file"
        )
    if not path.exists():
        raise InputError(f"--data: {path}: No such file or directory")
    return read_law_file(path, given).to(device)


def _pairs(spec: str, text: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        try:
            if not equals or key.strip() in dict(found):
                raise ValueError
            found.append((key.strip(), TYPES.get(key.strip(), float)(value)))
        except ValueError:
            raise InputError(f"--data {spec!r}: {part!r} is not key=number, each once") from None
    return found
