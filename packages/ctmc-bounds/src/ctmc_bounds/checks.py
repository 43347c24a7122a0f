"""What is refused, and in which words: the quantity, its value, and the remedy."""

import math
from typing import Any

import torch
from shared_core.errors import InputError
from torch import Tensor

TOLERANCE = 1e-9  # by how much probabilities may miss 1: rounding of a file, not a mistake
ENUMERATION_CAP = 2**20  # states of an enumerated law
KERNEL_CAP = 2**12  # states of a dense transition matrix
TRIPLE_CAP = 2**27  # state triples of a two-call step
SCORE_CAP = 10**7  # values of one score, d S
ARRAY_CAP = 2**27  # entries of one array, a GiB
LATEST = 700.0  # noise level: e^t still fits into a float64
MOST_INTERVALS = 2**20
MOST_JUMPS = 10**5  # of a token in one interval
MOST_TERMS = 10**6  # of a Poisson series


class EnvelopeError(InputError):
    """A rate exceeded the envelope that bounds it, so that thinning or uniformization would sample another law."""


def check_space(S: int, d: int) -> None:
    """Refuse an alphabet or a dimension in which there is nothing to diffuse.

    Raises:
        InputError: if S < 2 or d < 1.
    """
    if S < 2:
        raise InputError(f"S = {S}: a token needs at least 2 values, give S >= 2")
    if d < 1:
        raise InputError(f"d = {d}: there must be at least one token, give d >= 1")
    if d * S > SCORE_CAP:
        raise InputError(
            f"d = {d}, S = {S}: one score has d S values, here more than the cap of {SCORE_CAP}; give less"
        )


def check_array(entries: int, what: str) -> None:
    """Refuse an array that would not fit into memory, before it is asked for.

    Raises:
        InputError: saying how large it would be.
    """
    if entries > ARRAY_CAP:
        raise InputError(f"{what} would take {8 * entries / 2**30:.3g} GiB, above the cap of 1; take a smaller d or S")


def check_jumps(rate: float, t: float, h: float, d: int) -> None:
    """Refuse rates with which simulating one interval would not end.

    Raises:
        InputError: naming the exit rate.
    """
    if not rate * h <= MOST_JUMPS * d:
        raise InputError(
            f"the exit rate {rate:.4g} at t = {t:.4g} makes {rate * h:.3g} jumps on an interval of length {h:.3g}; the"
            " score is too large: clip it (ctmc_bounds.Clipped, --clip), or take more steps"
        )


def check_probabilities(p: Tensor, name: str, dim: int | None = None) -> Tensor:
    """Return `p` as it is, if it is a probability vector along `dim` (over everything where None).

    Raises:
        InputError: for a negative or non-finite entry, or a sum off 1 by more than `TOLERANCE`; never renormalised.
    """
    if not bool(torch.isfinite(p).all()):
        raise InputError(f"{name} holds a value that is not finite; probabilities lie in [0, 1]")
    if float(p.min()) < 0:
        raise InputError(f"{name} holds {float(p.min()):.6g} < 0; probabilities lie in [0, 1]")
    total = p.sum() if dim is None else p.sum(dim)
    worst = float((total - 1).abs().max())
    if worst > TOLERANCE:
        shown = float(total.reshape(-1)[int((total - 1).abs().reshape(-1).argmax())])
        raise InputError(
            f"{name} sums to {shown:.12g}, off 1 by {worst:.3g} (allowed {TOLERANCE:g}); divide by the sum first if"
            " that is meant, nothing is renormalised here"
        )
    return p


def check_tokens(x: Tensor, S: int, d: int) -> Tensor:
    """Return tokens as int64 of shape (batch, d).

    Raises:
        InputError: for another shape, for values that are not integers, or outside 0..S-1.
    """
    if x.ndim != 2 or x.shape[1] != d:
        raise InputError(f"tokens have shape {tuple(x.shape)}; expected (batch, d) with d = {d}")
    if x.dtype.is_floating_point or x.dtype == torch.bool:
        raise InputError(f"tokens have dtype {x.dtype}; give integers 0..{S - 1}")
    x = x.long()
    if x.numel() and (int(x.min()) < 0 or int(x.max()) >= S):
        bad = int(x.min()) if int(x.min()) < 0 else int(x.max())
        raise InputError(f"token {bad} is out of range; tokens are integers 0..{S - 1}")
    return x


def check_times(T: float, delta: float) -> None:
    """Refuse a horizon or an early stop outside 0 <= delta < T.

    Raises:
        InputError: naming T or delta.
    """
    if not (math.isfinite(T) and T > 0):
        raise InputError(f"T = {T}: the noise level at which sampling starts must be finite and above 0")
    if T > LATEST:
        raise InputError(f"T = {T}: beyond {LATEST:g} e^T overflows, and T = 40 is pure noise already; give less")
    if not 0 <= delta < T:
        raise InputError(f"delta = {delta}: the noise level at which sampling stops must satisfy 0 <= delta < T = {T}")


def check_score(score: Any, shape: tuple[int, ...], t: Any) -> Tensor:
    """Return a score as float64, if it is one: s[x, i, c] >= 0, finite, 1 where c = x_i.

    Raises:
        InputError: for another shape, negative or non-finite values.
    """
    if not isinstance(score, Tensor):
        score = torch.as_tensor(score)
    if tuple(score.shape) != shape:
        raise InputError(f"the score has shape {tuple(score.shape)}; expected (batch, d, S) = {shape}")
    score = score.to(torch.float64)
    if not bool(torch.isfinite(score).all()):
        raise InputError(f"the score at t = {_shown(t)} is not finite; stop earlier (delta > 0) or clip the estimate")
    if score.numel() and float(score.min()) < 0:
        raise InputError(f"the score at t = {_shown(t)} holds {float(score.min()):.4g} < 0; ratios q(y)/q(x) are >= 0")
    return score


def _shown(t: Any) -> str:
    values = torch.as_tensor(t, dtype=torch.float64)
    return f"{float(values.min()):.4g}" if values.numel() else "none"


def check_enumerable(S: int, d: int, cap: int = ENUMERATION_CAP, what: str = "an enumerated law") -> int:
    """Return n = S^d.

    Raises:
        InputError: if it is above `cap`; says how much memory one vector would need and what to use instead.
    """
    check_space(S, d)
    n = S**d
    if n > cap:
        size = f"{8 * n / 2**30:.3g} GiB" if n < 2**60 else f"2^{d * math.log2(S) + 3:.0f} bytes"
        raise InputError(
            f"S^d = {S}^{d} = {n if n < 10**15 else f'{float(n):.3g}'} states is above the cap of {cap} for {what}"
            f" (one float64 vector would take {size}); use product or exchangeable data, a smaller d, or .sample"
        )
    return n
