"""The paper's claims."""

from matplotlib.figure import Figure
from shared_core.claims import ClaimSet, Context, Measurement

claims = ClaimSet("dndm-sampler")


@claims.add("calls", statement="calls", where="Theorem", quantity="ratio", expected="1")
def calls(context: Context) -> Measurement:
    """Doc."""
    figure = Figure()
    figure.subplots().plot([1, 2])
    return Measurement(1.0, holds=True, uncertainty=(0.9, 1.1), figures=(context.save_figure("calls", figure),))
