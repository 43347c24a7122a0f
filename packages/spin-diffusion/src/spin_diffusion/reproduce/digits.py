"""Claims on real 8x8 digits: a class-conditional denoiser, guided sampling in ten steps, three seeds.

Every seed has its own split, classifier, supervised start and noise; all claims of a run share them. A distance is
Fréchet's between 2,000 samples and the held-out images, in the features of the seed's classifier.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from shared_core.claims import Context, Measurement

from spin_diffusion.reproduce.networks import CLASSES, MLPDenoiser, digits, train_classifier
from spin_diffusion.reproduce.registry import NUM_SEEDS, SPREAD_NOTE, claims, listed, new_figure, spread
from spin_diffusion.reproduce.study import Recipe, Scores, Study, held_out_error, pixel_scheduler, pretrain
from spin_diffusion.schedules import schedule_of

log = logging.getLogger(__name__)
RECIPE = Recipe(updates=80, pairs=64, rate=1e-4, beta=2000.0, guidance=2.0)
TRIED = (
    "settings: rate and beta are the better of 2 pairs on another seed and split, v-prediction was preferred to "
    "epsilon with clipping there, and the length of SFT was set there"
)
# updates and peak rate of each stage of SFT
STAGES = ((3000, 2e-3), (2000, 1e-3), (2000, 5e-4))


def iterations(context: Context) -> int:
    """K."""
    return context.at(1, 5, 12)


def recipe(context: Context) -> Recipe:
    """Of every run that is compared."""
    return RECIPE if context.scale != "smoke" else replace(RECIPE, updates=4, pairs=16)


def total(context: Context) -> int:
    """Updates of all iterations together, which every rival is given too."""
    return iterations(context) * recipe(context).updates


def study(context: Context, index: int) -> Study:
    """The shared start of a seed."""

    def make() -> Study:
        seed = 10 * context.seed + index
        data = digits(seed)
        classifier = train_classifier(data, seed, context.at(50, 1000, 1500))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = MLPDenoiser()
        for number, (updates, rate) in enumerate(STAGES):
            pretrain(
                net, data, schedule_of(pixel_scheduler()), context.at(20, updates, updates), rate, 1000 * seed + number
            )
        net.eval().requires_grad_(False)
        log.info("digits, seed %d: supervised start is trained", seed)
        table = torch.arange(CLASSES + 1)
        return Study(data, classifier, net, table, "class_labels", seed, context.at(100, 2000, 2000), 10)

    return context.memo(("digits", index), make)


def for_seeds(context: Context, key: str, run: Callable[[Study], list[Scores]]) -> list[list[Scores]]:
    """`run` for every seed, once per run of the claims."""
    count = context.at(1, NUM_SEEDS, NUM_SEEDS)
    return [context.memo((key, index), partial(run, study(context, index))) for index in range(count)]


def self_play(context: Context) -> list[list[Scores]]:
    """Scores after each iteration, for each seed."""
    used = recipe(context)

    def run(each: Study) -> list[Scores]:
        found = each.self_play(used, iterations(context))
        context.memo(("player", each.seed), lambda: each.last)
        return found

    return for_seeds(context, "self-play", run)


def start(context: Context) -> list[Scores]:
    """Of theta_0."""
    return [scores[0] for scores in for_seeds(context, "start", lambda each: [each.before])]


def continued(context: Context) -> list[list[Scores]]:
    """SFT continued for as many updates as the first iteration, and as all of them, at self-play's rate."""
    used, updates = recipe(context), (recipe(context).updates, total(context))
    return for_seeds(
        context, "continued", lambda each: [each.score(each.continued(used, n), used.guidance) for n in updates]
    )


def prolonged(context: Context) -> list[list[Scores]]:
    """One iteration with the updates of all of them."""
    used = replace(recipe(context), updates=total(context))
    return for_seeds(context, "prolonged", lambda each: each.self_play(used, 1))


def player(context: Context, index: int) -> torch.nn.Module:
    """The last player of self-play."""
    self_play(context)
    each = study(context, index)
    return context.memo(("player", each.seed), lambda: copy.deepcopy(each.last))


def decided(context: Context, holds: bool) -> bool | None:
    """Smoke is too short to decide."""
    return holds if context.scale != "smoke" else None


def note(context: Context, text: str) -> str:
    """With what all claims here share."""
    if context.scale == "smoke":
        return f"a few updates of one seed decide nothing; {text}"
    return f"{SPREAD_NOTE}; {text}; {TRIED}"


def ratios(ours: Sequence[Scores], theirs: Sequence[Scores]) -> list[float]:
    """Of the feature distance, seed by seed."""
    return [a.features / b.features for a, b in zip(ours, theirs, strict=True)]


def features(scores: Sequence[Scores]) -> str:
    """Feature distances of all seeds."""
    return listed([score.features for score in scores], 2)


def curve(runs: Sequence[Sequence[Scores]]) -> str:
    """Mean feature distance after each iteration."""
    return listed([spread([s.features for s in scores])[0] for scores in zip(*runs, strict=True)], 2)


@claims.add(
    "sft-plateau",
    statement="Supervised fine-tuning has reached a plateau: more of it does not bring samples closer to the data.",
    where="abstract",
    quantity="Fréchet distance after SFT continued / before (as many updates as self-play gets)",
    expected="> 0.95 for every seed, at self-play's rate and at SFT's own",
)
def sft_plateau(context: Context) -> Measurement:
    """Continued on the same data; the held-out denoising error says how much is left to learn."""
    before, small = start(context), [scores[1] for scores in continued(context)]
    rate, updates = STAGES[-1][1], 2 * total(context)

    def long(each: Study) -> list[Scores]:
        net = each.continued(recipe(context), updates, rate)
        errors = held_out_error(each.start, each, 5), held_out_error(net, each, 5)
        context.memo(("errors", each.seed), lambda: errors)
        return [each.score(net, RECIPE.guidance)]

    large = [scores[0] for scores in for_seeds(context, "continued long", long)]
    found = ratios(small, before) + ratios(large, before)
    errors = [context.memo(("errors", each.seed), lambda: (0.0, 0.0)) for each in _studies(context)]
    value, interval = spread(found)
    change = listed([100 * (b / a - 1) for a, b in errors], 2)
    text = (
        f"distance {features(before)}; continued {total(context)} updates at rate {RECIPE.rate:g} {features(small)}, "
        f"{updates} updates at {rate:g} {features(large)}; there the held-out denoising error changes by {change} %"
    )
    return Measurement(value, decided(context, interval[0] > 0.95), interval, note(context, text))


@claims.add(
    "first-iteration",
    statement="Self-play is better than SFT from its first iteration.",
    where="abstract; tables of the main comparison",
    quantity="Fréchet distance after iteration 1 / after SFT continued for as many updates",
    expected="< 1 for every seed, and below the start too",
)
def first_iteration(context: Context) -> Measurement:
    """80 updates each."""
    ours, theirs = [scores[0] for scores in self_play(context)], [scores[0] for scores in continued(context)]
    value, interval = spread(ratios(ours, theirs))
    below = max(ratios(ours, start(context))) < 1
    text = f"start {features(start(context))}; iteration 1 {features(ours)}; SFT continued {features(theirs)}"
    return Measurement(value, decided(context, interval[1] < 1 and below), interval, note(context, text))


@claims.add(
    "past-sft",
    statement="Further iterations go on: self-play ends well past SFT of the same images and number of updates.",
    where="abstract; tables of the main comparison",
    quantity="Fréchet distance after all iterations / after SFT continued for as many updates",
    expected="< 1 for every seed, in features and in pixels, and every iteration's mean is better than the last one's",
)
def past_sft(context: Context) -> Measurement:
    """With the other distances in the note, the figure of all curves, and a sample grid."""
    runs, theirs = self_play(context), [scores[1] for scores in continued(context)]
    ours = [scores[-1] for scores in runs]
    value, interval = spread(ratios(ours, theirs))
    pixels = max(a.pixels / b.pixels for a, b in zip(ours, theirs, strict=True))
    means = [spread([s.features for s in scores])[0] for scores in (start(context), *zip(*runs, strict=True))]
    falling = all(later < earlier for earlier, later in pairwise(means))
    each = study(context, 0)
    more = {
        name: each.more(net, RECIPE.guidance) for name, net in (("SFT", each.start), ("self-play", player(context, 0)))
    }
    others = "; ".join(
        f"{name}: kernel {m['kernel']:.3f}, precision {m['precision']:.2f}, recall {m['recall']:.2f}"
        for name, m in more.items()
    )
    text = (
        f"distance by iteration {listed(means, 2)} (real training images: {features([each.floor])}); SFT continued "
        f"{features(theirs)}; pixels: worst ratio {pixels:.2f}; class accuracy {listed([s.accuracy for s in ours])} "
        f"(start {listed([s.accuracy for s in start(context)])}); first seed, {others}"
    )
    holds = interval[1] < 1 and pixels < 1 and falling
    return Measurement(value, decided(context, holds), interval, note(context, text), figures=(_grid(context),))


@claims.add(
    "new-opponent",
    statement="Prolonging one iteration saturates; with the same number of updates, new opponents go further.",
    where="Figure 5",
    quantity="Fréchet distance after all iterations / after one iteration with all their updates",
    expected="< 1 for every seed",
)
def new_opponent(context: Context) -> Measurement:
    """The opponent is renewed every 80 updates, or never."""
    ours, theirs = [scores[-1] for scores in self_play(context)], [scores[-1] for scores in prolonged(context)]
    value, interval = spread(ratios(ours, theirs))
    text = f"renewed {features(ours)}; never {features(theirs)}"
    return Measurement(
        value, decided(context, interval[1] < 1), interval, note(context, text), figures=(_curves(context),)
    )


@claims.add(
    "finer-sampler",
    statement="Ours, not the paper's: what is gained with the sampler that was played with carries to a finer one.",
    where="derived",
    quantity="Fréchet distance with 50 DDIM steps after self-play / before (trained with 10 steps)",
    expected="< 1 for every seed",
)
def finer_sampler(context: Context) -> Measurement:
    """The same players, another number of steps."""
    steps = context.at(12, 50, 50)
    pairs = [
        (each.score(player(context, i), RECIPE.guidance, steps), each.score(each.start, RECIPE.guidance, steps))
        for i, each in enumerate(_studies(context))
    ]
    ours, theirs = zip(*pairs, strict=True)
    value, interval = spread(ratios(ours, theirs))
    text = f"before {features(theirs)}; after {features(ours)}"
    return Measurement(value, decided(context, interval[1] < 1), interval, note(context, text))


@claims.add(
    "unguided",
    statement="Ours, not the paper's: self-play also improves a player that is sampled without guidance.",
    where="derived (S6)",
    quantity="Fréchet distance after self-play / before, guidance 1",
    expected="< 1 for every seed",
)
def unguided(context: Context) -> Measurement:
    """Without guidance only the coarse sampler and the network's limits are left to mend."""
    used = replace(recipe(context), guidance=1.0)
    runs = for_seeds(
        context, "unguided", lambda each: [each.score(each.start, 1.0), *each.self_play(used, context.at(1, 3, 8))]
    )
    value, interval = spread(ratios([scores[-1] for scores in runs], [scores[0] for scores in runs]))
    accuracy = listed([scores[-1].accuracy for scores in runs]), listed([scores[0].accuracy for scores in runs])
    text = f"mean distance by iteration {curve(runs)}; class accuracy {accuracy[1]} -> {accuracy[0]}"
    return Measurement(value, decided(context, interval[1] < 1), interval, note(context, text))


def _studies(context: Context) -> list[Study]:
    return [study(context, index) for index in range(context.at(1, NUM_SEEDS, NUM_SEEDS))]


def _curves(context: Context) -> str:
    figure, axes = new_figure("8x8 digits: distance to held-out images", "updates", "Fréchet distance (features)")
    updates = [recipe(context).updates * number for number in range(iterations(context) + 1)]
    rivals = {"SFT continued": (continued(context), [updates[1], updates[-1]]),
              "iteration 1 prolonged": (prolonged(context), [updates[-1]])}  # fmt: skip
    for index, (before, scores) in enumerate(zip(start(context), self_play(context), strict=True)):
        values = [before.features, *(score.features for score in scores)]
        axes.plot(updates, values, "o-", color="C0", label="self-play" if not index else None)
        for number, (name, (runs, places)) in enumerate(rivals.items(), start=1):
            line = [before.features, *(score.features for score in runs[index])]
            axes.plot([0, *places], line, "s--", color=f"C{number}", label=name if not index else None, markersize=4)
    axes.set_ylim(bottom=0)
    axes.legend()
    return context.save_figure("digits-curves", figure)


def _grid(context: Context) -> str:
    each = study(context, 0)
    figure, panels = new_figure("8x8 digits: the same noise before and after", "", "", panels=3)
    count = min(40, each.count)
    shown = {
        "held-out images": each.data.test[:count],
        "after SFT": each.samples(each.start, RECIPE.guidance)[:count],
        "after self-play": each.samples(player(context, 0), RECIPE.guidance)[:count],
    }
    for panel, (label, images) in zip(panels, shown.items(), strict=True):
        framed = torch.nn.functional.pad(images.view(5, 8, 8, 8), (1, 1, 1, 1))
        panel.imshow(framed.permute(0, 2, 1, 3).reshape(50, 80), cmap="gray", vmin=-1, vmax=1)
        panel.set_title(label)
        panel.set_axis_off()
    return context.save_figure("digits-samples", figure)
