"""lm-evaluation-harness: a model whose `generate_until` restates each request first.

`simple_evaluate(model=RaRLM("http://localhost:8000/v1#my-model"), tasks=["gsm8k"])`
"""

from typing import Any

from lm_eval.api.instance import Instance  # type: ignore[import-not-found, import-untyped, unused-ignore]
from lm_eval.api.model import LM  # type: ignore[import-not-found, import-untyped, unused-ignore]

from rar_prompt.adapters.bridge import RaR
from rar_prompt.chat import Message, Sampling


class RaRLM(LM):
    """An LM of the harness; generation only, for a rephrased prompt has no likelihood of its own.

    Args:
        model: see `RaR`.
        rephraser: see `RaR`.
        **options: of `RaR`.
    """

    def __init__(self, model: Any, rephraser: Any = None, **options: Any) -> None:
        super().__init__()
        self.rar = RaR(model, rephraser, **options)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Replies, cut before the first stop string, in the order of the requests."""
        wanted = []
        for request in requests:
            context, settings = request.args
            temperature = float(settings.get("temperature") or 0.0) if settings.get("do_sample") is not False else 0.0
            limit = int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or 256)
            wanted.append(([Message("user", context)], Sampling(temperature, settings.get("top_p"), limit)))
        texts = []
        for request, solution in zip(requests, self.rar.solve_all(wanted), strict=True):
            until = request.args[1].get("until") or []
            texts.append(_cut(solution.text, [until] if isinstance(until, str) else until))
            self.cache_hook.add_partial("generate_until", request.args, texts[-1])
        return texts

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not available."""
        raise NotImplementedError("RaR generates text: use tasks with output_type generate_until")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Not available."""
        raise NotImplementedError("RaR generates text: use tasks with output_type generate_until")


def _cut(text: str, stops: list[str]) -> str:
    # a blank line ends the restated question, not the answer; cutting there would remove every answer
    for stop in stops:
        if stop.strip():
            text = text.split(stop)[0]
    return text
