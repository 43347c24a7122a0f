"""Options that would do nothing beside others are refused: who types one expects it to count."""

from collections.abc import Iterator, Mapping
from typing import Any

from shared_core.errors import InputError

Options = Mapping[str, Any]
#: values that say nothing was asked for; what is not here is off at None, 0 or False
NEUTRAL = {
    "T": 6.0, "delta": 0.01, "N": 64, "grid": "exp_const", "init": "uniform", "representation": "auto", "theta": 0.5,
    "inner": "first_jump", "envelope": "analytic",
}  # fmt: skip
ON_EPS = ("T", "N", "c", "init", "representation", "score_noise", "score_bias", "network", "clip", "theta", "inner")


def refuse_idle(options: Options) -> None:
    """Refuse an option (as typed) that has no effect beside the others.

    Raises:
        InputError: naming the option, its value, and why.
    """
    for name, why in _idle(options):
        if name in options and options[name] not in (None, False, 0, NEUTRAL.get(name)):
            value = "" if options[name] is True else f" {options[name]}"
            raise InputError(f"--{name.replace('_', '-')}{value} has no effect {why}; leave it out")


def _idle(options: Options) -> Iterator[tuple[str, str]]:
    """(option, why) for what the others leave without effect."""
    samplers = set(options.get("samplers") or [options.get("sampler", "paper")])
    if options.get("optimal"):
        yield "grid", "beside --optimal"
        yield "c", "beside --optimal, which has N intervals"
    yield from _idle_in_scan(options.get("over"), options.get("h"))
    if options.get("c"):
        yield "N", "beside --c, which decides how many intervals there are"
    if samplers == {"thinning"}:
        for name in ("N", "c", "grid"):
            yield name, "on thinning, which has no intervals"
    if not any(name.startswith("theta") for name in samplers):
        for name in ("theta", "inner"):
            yield name, "on samplers other than theta_trapezoidal and theta_rk2"
    if "uniformization" not in samplers:
        yield "envelope", "on samplers other than uniformization"
    estimated = any(options.get(name) for name in ("score_noise", "score_bias", "network"))
    noisy = options.get("over") == "sigma"
    if not estimated and not noisy and not samplers & {"euler", "tweedie"}:
        yield "clip", "on the exact score, which is within its bounds"


def _idle_in_scan(over: str | None, h: float | None) -> Iterator[tuple[str, str]]:
    if over is None:
        return
    varied = {"N": ("N", "c"), "T": ("T",), "delta": ("delta",), "sigma": ("score_noise",), "eps": ON_EPS}
    for name in varied.get(over, ()):
        yield name, f"beside --over {over}"
    if over == "h" or h is not None:
        for name in ("N", "c", "grid"):
            yield name, f"beside {'--over h' if h is None else '--h'}: equal steps"
