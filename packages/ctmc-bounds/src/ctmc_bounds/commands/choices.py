"""Values that options may take."""

from typing import Literal

Sampler = Literal[
    "paper", "uniformization", "midpoint", "thinning", "euler", "reject", "ordinal", "first_jump", "tweedie",
    "theta_trapezoidal", "theta_rk2",
]  # fmt: skip
Grid = Literal["constant", "exp_const", "optimal"]
Init = Literal["uniform", "exact"]
Representation = Literal["auto", "enumerated", "product", "counts"]
Inner = Literal["first_jump", "euler", "reject"]
Envelope = Literal["analytic", "max", "adaptive"]
COMPARED = [
    "paper", "midpoint", "thinning", "euler", "reject", "first_jump", "tweedie", "theta_trapezoidal", "theta_rk2",
]  # fmt: skip
PLANNED = ["paper", "midpoint", "thinning", "euler", "tweedie", "first_jump", "theta_trapezoidal"]
Basis = Literal["exact", "certified", "worst_case"]
Over = Literal["d", "S", "N", "T", "delta", "eps", "sigma", "h"]
Scale = Literal["smoke", "laptop", "paper"]
