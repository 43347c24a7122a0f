"""inspect_ai: a solver that restates the question with the model of the role `rephraser`, then answers.

`inspect eval task.py --solver rar_prompt/adapters/inspect_ai.py@rephrase_and_respond --model-role rephraser=...`
"""

from inspect_ai.model import get_model  # type: ignore[import-not-found, import-untyped, unused-ignore]
from inspect_ai.solver import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    Generate,
    Solver,
    TaskState,
    solver,
)

from rar_prompt.items import Item
from rar_prompt.templates import clean_rephrasing, load_templates


@solver
def rephrase_and_respond(
    method: str = "two-step", templates: str = "paper", wording: str | None = None, cot: bool = False
) -> Solver:
    """One-step or two-step RaR.

    Args:
        method: `one-step` or `two-step`.
        templates: template set.
        wording: of the one-step instruction.
        cot: ask for steps as well.

    Raises:
        ValueError: for another method.
    """
    if method not in ("one-step", "two-step"):
        raise ValueError(f"method must be one-step or two-step, got {method!r}")
    texts = load_templates(templates)
    sentence = texts.sentence(wording)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        item = Item(
            str(state.sample_id), state.user_prompt.text, choices=tuple(choice.value for choice in state.choices)
        )
        if method == "one-step":
            text = texts.render("one_step_cot" if cot else "one_step", item, sentence=sentence)
        else:
            # the role falls back to the model under test where no rephraser is named
            model = get_model(role="rephraser")
            output = await model.generate(texts.render("rephrase", item))
            rephrased = clean_rephrasing(output.completion)
            state.metadata["rephrased"] = rephrased
            text = texts.render("respond_cot" if cot else "respond", item, x=rephrased)
        state.user_prompt.text = text
        return await generate(state)

    return solve
