"""One optimiser step of SmolLM2-135M with LoRA: ours beside TRL's DPOTrainer, its default and its best setting.

Both begin from the same weights and take the same steps (AdamW) on the same tokens, one torch thread each, so that
equal losses over all of them say that the gradients are equal too (the first is log 2). The reference is computed at
every step by TRL's default, and once before the clock starts by its best setting and by ours.
"""

import statistics

import torch
import trl
from accelerate import Accelerator
from common import adapted, adapted_by_peft, loaded, token_pairs
from peer import TRLStep
from shared_core.benchmark import Comparison, compare, seconds
from spin_llm.config import Optimization
from spin_llm.models import disable_dropout
from spin_llm.objectives import ScoredPair, spin_objective
from spin_llm.opponent import score_responses
from spin_llm.optimization import ResponseScorer, _step, make_optimizer
from spin_llm.sequence_logprobs import scoring_of

SIZES = ((48, 24, 4), (256, 64, 2), (64, 256, 2))  # prompt, response, pairs
REPEATS = 3
BETA, RATE = 0.1, 1e-4


class OurStep:
    """One step of the package's training loop."""

    def __init__(self, model, pairs):
        disable_dropout(model)
        scoring = scoring_of(model)
        # the opponent is the model as it stands, adapter included; TRL keeps a copy of the adapter for the same
        scores = score_responses(model, [row[0] for row in pairs], [row[1:] for row in pairs], scoring)
        self.pairs = [
            ScoredPair(str(i), *row, *score) for i, (row, score) in enumerate(zip(pairs, scores, strict=True))
        ]
        self.settings = Optimization(
            optim="adamw", learning_rate=[RATE], train_batch_size=len(pairs), per_device_train_batch_size=len(pairs)
        )
        self.accelerator = Accelerator(cpu=True)
        self.scorer = ResponseScorer(model, scoring)
        self.optimizer = make_optimizer(model, self.settings)

    def __call__(self):
        metrics = _step(
            self.scorer, self.optimizer, self.pairs, spin_objective(BETA), self.settings, self.accelerator, 0,
            torch.float32, 0,
        )  # fmt: skip
        return metrics["loss"]


def run() -> list[Comparison]:
    """Two rows a size; the peer's default is asked about where prompts are not short beside responses."""
    torch.set_num_threads(1)
    tokenizer = loaded()[1]
    rows = []
    for prompt, response, count in SIZES:
        pairs = token_pairs(prompt, response, count)
        sides = {
            "ours": OurStep(adapted(), pairs),
            "default": TRLStep(adapted_by_peft(), tokenizer, pairs, False, BETA, RATE),
            "best": TRLStep(adapted_by_peft(), tokenizer, pairs, True, BETA, RATE),
        }
        losses = {name: [side()] for name, side in sides.items()}
        times = {name: [] for name in sides}
        for _ in range(REPEATS):
            for name, side in sides.items():
                times[name].append(seconds(lambda side=side, kept=losses[name]: kept.append(side())))
        for name in ("default", "best"):
            same = max(abs(a - b) for a, b in zip(losses["ours"], losses[name], strict=True)) < 1e-5
            what = f"optimiser step, {len(pairs)} pairs of {prompt} + {response} tokens"
            size = f"{prompt}-{response}"
            id = f"step-{size}-default" if name == "default" and prompt < response else f"step-{name}-{size}"
            rows.append(
                compare(
                    id, what, f"trl {trl.__version__} DPOTrainer, {name}",
                    times["ours"], times[name], same_result=same,
                )
            )  # fmt: skip
        assert statistics.fmean(losses["ours"]) < 1
    return rows
