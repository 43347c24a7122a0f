"""RaR inside a conversation: the last user message is the question, what stands before it is kept for every call."""

from collections.abc import Sequence

from shared_core.errors import InputError

from rar_prompt.caller import Called, Caller
from rar_prompt.chat import Backend, Message, Request, Sampling
from rar_prompt.items import Item, check_item
from rar_prompt.methods import Plan, Role, Solution
from rar_prompt.templates import TemplateSet


async def solve_conversation(
    messages: Sequence[Message],
    chosen: Plan,
    responder: Backend,
    rephraser: Backend | None,
    templates: TemplateSet,
    caller: Caller,
    sampling: Sampling,
) -> Solution:
    """The method's reply to a conversation.

    Args:
        messages: the last one is the user's question.
        chosen: the method; one vote.
        responder: answers.
        rephraser: rephrases; the responder where None.
        templates: the prompts.
        caller: the way to the models.
        sampling: of every call.

    Raises:
        InputError: if the last message is not a user's, or is empty.
        ProviderError: if a model gives no usable reply.
    """
    if not messages or messages[-1].role != "user":
        raise InputError("the last message must be the user's")
    before = tuple(messages[:-1])
    item = check_item(Item("request", messages[-1].content), "message")

    async def ask(role: Role, stage: str, text: str) -> Called:
        backend = (rephraser or responder) if role == "rephraser" else responder
        return await caller.call(backend, Request((*before, Message("user", text)), sampling), stage=stage)

    return await chosen.method.solve(item, templates, ask)
