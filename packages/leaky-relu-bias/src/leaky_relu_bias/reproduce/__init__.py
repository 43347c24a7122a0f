"""The paper's claims, each measured by a small function; importing the modules registers them."""

from leaky_relu_bias.reproduce import horizons, leaky, real_data, relu, settings
from leaky_relu_bias.reproduce.registry import claims

# E1, E2, ... whatever order the modules are imported in
claims.claims = dict(sorted(claims.claims.items()))

__all__ = ["claims", "horizons", "leaky", "real_data", "relu", "settings"]
