"""Claims on translation with a trained network: the task of `numbers`, where the sampler sees a network's mistakes too.

Ten thousand updates a seed are what `paper` is for; the other scales train for seconds and decide nothing.
"""

from typing import Any

import torch
from shared_core.claims import Context, Measurement

from dndm_sampler.config import TrainConfig
from dndm_sampler.metrics import bleu
from dndm_sampler.reproduce.registry import NUM_SEEDS, claims, paired, spread
from dndm_sampler.sampler import DNDMSampler
from dndm_sampler.translation import LENGTH, MASK_ID, Translator, digits, references, share_valid, to_text

NUM_STEPS = 50
NOTE = (
    "{seeds} seed(s), each with its own training of {updates} updates (absorbing noise) and samples, on numbers held "
    "out of training; interval: smallest and largest; 2 training settings were tried, at another seed"
)


def _seeds(context: Context) -> int:
    return context.at(1, 1, NUM_SEEDS)


def _updates(context: Context) -> int:
    return context.at(3, 100, 10_000)


def _translator(context: Context, seed: int) -> Translator:
    def make() -> Translator:
        from dndm_sampler.training import train_translation

        config = TrainConfig(steps=_updates(context), batch_size=64, width=context.at(16, 64, 64), learning_rate=1e-3)
        out = context.folder.path / "training" / f"translation-{seed}"
        model = train_translation(out, config, 10 * context.seed + seed + 1, context.device)
        assert isinstance(model, Translator)
        return model

    return context.memo(("translator", seed), make)


def _run(context: Context, **options: Any) -> dict[str, list[float]]:
    """BLEU, share of right answers and calls for each seed."""

    def make() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"bleu": [], "valid": [], "calls": []}
        # multiples of ten are never trained on
        numbers = 10 * torch.randint(
            10**5, (context.at(16, 128, 1024),), generator=torch.Generator().manual_seed(context.seed)
        )
        refs = references(numbers)
        for seed in range(_seeds(context)):
            model = _translator(context, seed)
            with torch.no_grad():
                memory = model.encode(digits(numbers).to(context.device))
            sampler = DNDMSampler(model, mask_token_id=MASK_ID, num_steps=NUM_STEPS, **options)
            out = sampler.sample(
                len(numbers), LENGTH, generator=torch.Generator().manual_seed(seed), device=context.device,
                model_kwargs={"memory": memory},
            )  # fmt: skip
            found["bleu"].append(bleu(to_text(out.sequences), [to_text(row) for row in refs]))
            found["valid"].append(share_valid(out.sequences, refs))
            found["calls"].append(float(out.nfe))
        return found

    return context.memo(("translator", tuple(sorted(options.items(), key=str))), make)


def _claim(context: Context, above: float, ours: tuple[str, Any], theirs: tuple[str, Any], more: Any) -> Measurement:
    """BLEU of `ours` minus BLEU of `theirs`, each a label with its options, and a line about every setting."""
    runs = {label: _run(context, **options) for label, options in (ours, theirs, *more)}
    gap, interval = spread(paired(runs[ours[0]]["bleu"], runs[theirs[0]]["bleu"], lambda a, b: a - b))
    lines = [
        f"{label} BLEU {spread(run['bleu'])[0]:.2f}, right {spread(run['valid'])[0]:.3f}, "
        f"{spread(run['calls'])[0]:.1f} calls"
        for label, run in runs.items()
    ]
    note = "; ".join([NOTE.format(seeds=_seeds(context), updates=_updates(context)), *lines])
    if context.scale != "paper":
        note += f"; {_updates(context)} updates teach the network nothing yet: --scale paper trains for 10000"
    holds = interval[0] > above if context.scale == "paper" else None
    return Measurement(gap, holds=holds, uncertainty=interval, note=note)


@claims.add(
    "trained-translation",
    statement="With a trained network, too, translation with DNDM is as good as step by step at a fraction of the "
    "calls (T = 50).",
    where="tables of BLEU and time",
    quantity="BLEU of DNDM minus BLEU of D3PM, trained network",
    expected="> -0.5 for every seed",
)
def trained_translation(context: Context) -> Measurement:
    """The two samplers around the same trained networks, tokens sampled; most likely tokens in the note."""
    argmax = {"temperature": 0.0}
    more = (("DNDM argmax", argmax), ("D3PM argmax", {"method": "ancestral", **argmax}))
    return _claim(context, -0.5, ("DNDM", {}), ("D3PM", {"method": "ancestral"}), more)


@claims.add(
    "trained-top-k",
    statement="With a trained network, choosing the positions by score (DNDM-k) improves translation.",
    where="tables of BLEU with and without top-k",
    quantity="BLEU of DNDM-k minus BLEU of DNDM at T = 50, trained network",
    expected="> 0 for every seed",
)
def trained_top_k(context: Context) -> Measurement:
    """The same transition times, tokens sampled; most likely tokens in the note."""
    more = (
        ("DNDM-k argmax", {"top_k": True, "temperature": 0.0}),
        ("RDM-k argmax", {"method": "rdm", "temperature": 0.0}),
    )
    return _claim(context, 0.0, ("DNDM-k", {"top_k": True}), ("DNDM", {}), more)


@claims.add(
    "trained-order",
    statement="With a trained network, restoring words from left to right is better than from right to left.",
    where="appendix ablation of the order of transition times",
    quantity="BLEU left to right minus BLEU right to left at T = 50, trained network",
    expected="> 0 for every seed",
)
def trained_order(context: Context) -> Measurement:
    """The two directions, and random order."""
    left, right = (("left to right", {"order": "left_to_right"}), ("right to left", {"order": "right_to_left"}))
    return _claim(context, 0.0, left, right, (("random", {}),))
