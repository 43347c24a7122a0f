"""The set of claims and the settings that several of them use."""

from shared_core.claims import ClaimSet, Context

from icl_linear.problem import Problem
from icl_linear.ridge import Estimate, bayes_risk
from icl_linear.spectra import make_problem

# below the paper's scale the kernels are small, and threads that wait for a busy core cost more
claims = ClaimSet("icl-linear", one_thread=("smoke", "laptop"))

# psi = sigma = tr H = 1 and N = 50 throughout; the context length of the paper's own experiments is not known to us.
CONTEXT = 50
UNSPECIFIED = "The theorem leaves its constant open; the range was fixed before measuring."


def length_problems() -> dict[str, Problem]:
    """One problem of each kind for the claims about context length."""
    return {"iso, d = 32": make_problem("iso", 32), "1/i^2, d = 100": make_problem("power:2", 100),
            "2^-i, d = 30": make_problem("exp", 30)}  # fmt: skip


def bayes(context: Context, name: str, length: int) -> Estimate:
    """Bayes risk of one of `length_problems`, computed once a run."""

    def make() -> Estimate:
        return bayes_risk(length_problems()[name], length, draws=context.at(100, 2000, 5000), seed=context.seed)

    return context.memo(("bayes", name, length), make)
