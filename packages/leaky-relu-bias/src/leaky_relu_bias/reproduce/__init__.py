"""The paper's claims, each measured by a small function; importing the modules registers them."""

from collections.abc import Sequence

from shared_core.claims import Scale
from shared_core.errors import InputError

from leaky_relu_bias.reproduce import horizons, leaky, real_data, relu, settings
from leaky_relu_bias.reproduce.registry import claims

# E1, E2, ... whatever order the modules are imported in
claims.claims = dict(sorted(claims.claims.items(), key=lambda item: item[0].partition("-")[0]))


def reproduce(
    scale: Scale = "laptop",
    claims_: Sequence[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the claims; `auto` is the CPU, where problems of ten points are fastest.

    Raises:
        InputError: for an unknown claim, a device that is not there, or a folder that holds another run.
    """
    if device == "mps":
        raise InputError("device mps has no float64, without which the asymptotics stall; use cpu or cuda")
    where = "cpu" if device == "auto" else device
    return claims.reproduce(scale=scale, claims=claims_, out=out, seed=seed, device=where)


__all__ = ["claims", "horizons", "leaky", "real_data", "relu", "reproduce", "settings"]
