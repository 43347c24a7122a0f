"""SmolLM2-135M on Python's documentation: an hour or more of CPU, so at scale paper only."""

from shared_core.claims import Context, Measurement
from shared_core.errors import InputError

from spin_llm.reproduce.registry import claims


@claims.add(
    "real-model",
    statement="From an SFT start, self-play improves a real chat model without new data, iteration by iteration.",
    where="Table 2 (zephyr-7b: averages 58.14, 60.80, 62.12, 62.97, 63.16), here on another model and measure",
    quantity="held-out NLL per token of the human response, last iteration - start (paired by prompt)",
    expected="< 0 by more than two standard errors in every seed",
)
def real_model(context: Context) -> Measurement:
    """Three iterations of preset `small`, beside continued SFT of as many steps."""
    if context.scale != "paper":
        return Measurement(
            "not run", None, None, "takes about an hour a seed on a CPU: --scale paper --claims real-model"
        )
    from spin_llm.docstring_study import study

    try:
        rows = [study(context.folder.path / f"seed_{seed}", seed, context.device) for seed in range(3)]
    except InputError as error:
        return Measurement("not run", None, None, str(error))
    gains = [row.last_minus_start["mean"] for row in rows]
    holds = all(row.last_minus_start["mean"] + 2 * row.last_minus_start["error"] < 0 for row in rows)
    against = ", ".join(f"{row.last_minus_sft['mean']:+.3f} +- {row.last_minus_sft['error']:.3f}" for row in rows)
    note = f"3 seeds, one configuration; NLL of SPIN minus that of continued SFT after as many steps: {against}"
    return Measurement(max(gains), holds, (min(gains), max(gains)), note)
