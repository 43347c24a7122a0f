"""The claim that needs no training: which form of the posterior converges."""

import itertools

import torch
from shared_core.claims import Context, Measurement

from d3pm_ehr.figures import curves_figure
from d3pm_ehr.layout import TokenLayout
from d3pm_ehr.process import DiscreteDiffusion
from d3pm_ehr.reproduce.shared import claims
from d3pm_ehr.schedule import noise_schedule

LAW = torch.tensor([0.40, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.30], dtype=torch.float64)
STATES = torch.tensor(list(itertools.product((0, 1), repeat=3)), dtype=torch.uint8)


def chain_error(steps: int, form: str) -> float:
    """Total variation between the data law of three tokens and the chain's, with the exact p(x_0 | x_t)."""
    process = DiscreteDiffusion(TokenLayout([2, 2, 2]), noise_schedule("cosine", steps), "uniform", None, form)  # type: ignore[arg-type] # a literal
    process.to("cpu", torch.float64)
    law = torch.full((8,), 1 / 8, dtype=torch.float64)
    same = (STATES[:, None] == STATES[None]).double()
    for t in range(steps, 0, -1):
        signal = float(process.abar[t])
        weight = LAW * (signal * same + (1 - signal) / 2).prod(-1)
        p = (weight @ STATES.double()) / weight.sum(1, keepdim=True)
        logits = torch.logit(p.clamp(1e-15, 1 - 1e-15))
        (r,) = process.reverse(STATES, logits, torch.tensor(t - 1), torch.tensor(t))
        law = law @ torch.where(STATES[None].bool(), r[:, None], 1 - r[:, None]).prod(-1)
    return float((law - LAW).abs().sum() / 2)


@claims.add(
    "posterior-form",
    statement="With p(x_0 | x_t) known, the reverse chain that averages the posterior over it reaches the data law as "
    "T grows; the product form with the same head does not.",
    where="Reverse process (sum over x_0)",
    quantity="total variation after T = 100 steps on 3 binary tokens, by enumeration",
    expected="mixture <= 0.005 and falling like 1 / T, joint >= 0.25",
)
def posterior_form(context: Context) -> Measurement:
    """Exact."""
    counts = [1, 2, 5, 10, 20, 50, 100]
    errors = {form: [chain_error(steps, form) for steps in counts] for form in ("mixture", "joint")}
    figure = curves_figure("T", "total variation", {k: (counts, v) for k, v in errors.items()}, logy=True)
    name = context.save_figure("posterior-form", figure)
    mixture, joint = errors["mixture"][-1], errors["joint"][-1]
    falls = errors["mixture"][-1] * 100 <= 1.1 * errors["mixture"][3] * 10
    note = "Exact enumeration; no seed."
    return Measurement(
        {"mixture": mixture, "joint": joint}, mixture <= 0.005 and falls and joint >= 0.25, None, note, (name,)
    )
