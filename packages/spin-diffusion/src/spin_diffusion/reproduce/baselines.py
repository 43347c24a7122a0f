"""What self-play is compared with, and where it fails: preference tuning, unshared noise, a small beta."""

from dataclasses import replace

from shared_core.claims import Context, Measurement
from shared_core.errors import RunError
from torch import nn

from spin_diffusion.reproduce.digits import (
    RECIPE,
    curve,
    decided,
    features,
    for_seeds,
    iterations,
    note,
    player,
    ratios,
    recipe,
    self_play,
    start,
    study,
    total,
)
from spin_diffusion.reproduce.registry import claims, listed, new_figure, spread
from spin_diffusion.reproduce.study import Recipe, Scores, Study


def preferred(context: Context) -> list[list[Scores]]:
    """Diffusion-DPO with as many updates: guided scores, then unguided ones."""
    used = recipe(context)

    def run(each: Study) -> list[Scores]:
        net = each.preferred(used, total(context))
        return [each.score(net, used.guidance), each.score(net, 1.0)]

    return for_seeds(context, "preferred", run)


@claims.add(
    "past-dpo",
    statement="Self-play is closer to the data than preference tuning (Diffusion-DPO), by its second iteration.",
    where="abstract; tables of the main comparison (there by PickScore, HPSv2, ImageReward and aesthetic score)",
    quantity="Fréchet distance after iteration 2 / after Diffusion-DPO with all updates",
    expected="< 1 for every seed",
)
def past_dpo(context: Context) -> Measurement:
    """Two guided samples a training label; a classifier's log-probability of the label decides which is preferred."""
    theirs = [scores[0] for scores in preferred(context)]
    ours = [scores[min(1, len(scores) - 1)] for scores in self_play(context)]
    value, interval = spread(ratios(ours, theirs))
    text = (
        f"start {features(start(context))}; self-play, iteration 2 {features(ours)}; DPO {features(theirs)}. They use "
        "different information: self-play the real images, this DPO only a score of its own samples"
    )
    return Measurement(value, decided(context, interval[1] < 1), interval, note(context, text))


@claims.add(
    "dpo-own-reward",
    statement="Self-play is better than preference tuning on all metrics, the preference score itself included.",
    where="abstract (by iteration 2 on all metrics)",
    quantity="mean log-probability of the class, unguided samples: self-play minus Diffusion-DPO",
    expected="> 0 for every seed",
)
def dpo_own_reward(context: Context) -> Measurement:
    """The score that DPO was trained on; guided samples saturate it."""
    theirs = [scores[1] for scores in preferred(context)]
    ours = [
        scores[0]
        for scores in for_seeds(
            context, "unguided score", lambda each: [each.score(_last(context, each), 1.0), each.score(each.start, 1.0)]
        )
    ]
    before = [scores[1] for scores in for_seeds(context, "unguided score", lambda each: [])]
    value, interval = spread([a.log_probability - b.log_probability for a, b in zip(ours, theirs, strict=True)])
    text = (
        f"start {listed([s.log_probability for s in before], 4)}; "
        f"self-play {listed([s.log_probability for s in ours], 4)}"
        f"; DPO {listed([s.log_probability for s in theirs], 4)}"
    )
    return Measurement(value, decided(context, interval[0] > 0), interval, note(context, text))


def _last(context: Context, each: Study) -> nn.Module:
    return player(context, each.seed - 10 * context.seed)


@claims.add(
    "shared-noise",
    statement="Ours, not the paper's: one timestep and one noise for both members of a pair lower the variance of the "
    "difference, and learn faster than a noise for each.",
    where="derived (2.4)",
    quantity="Fréchet distance with noise shared / not shared, after the same updates",
    expected="< 1 for every seed",
)
def shared_noise(context: Context) -> Measurement:
    """Everything else is equal."""
    runs = for_seeds(
        context, "unshared", lambda each: each.self_play(recipe(context), iterations(context), share_noise=False)
    )
    theirs, ours = [scores[-1] for scores in runs], [scores[-1] for scores in self_play(context)]
    value, interval = spread(ratios(ours, theirs))
    text = f"shared {features(ours)}; not shared {features(theirs)}"
    return Measurement(value, decided(context, interval[1] < 1), interval, note(context, text))


@claims.add(
    "small-beta",
    statement="Ours, not the paper's: with a beta too small the player runs away although its loss falls, and the "
    "guard stops the run.",
    where="derived (divergence; reports of users of Diffusion-DPO)",
    quantity="Fréchet distance after three iterations at a tenth of beta and five times the rate / at the start",
    expected="> 1 for every seed, and the guard stops the first iteration",
)
def small_beta(context: Context) -> Measurement:
    """The same run with the guard off, and with it in mode `stop`."""
    used = replace(recipe(context), beta=RECIPE.beta / 10, rate=5 * RECIPE.rate)
    runs = for_seeds(context, "small beta", lambda each: each.self_play(used, context.at(1, 3, 3)))
    value, interval = spread(ratios([scores[-1] for scores in runs], start(context)))
    stopped = [_stopped(study(context, index), used) for index in range(len(runs))]
    figure, axes = new_figure("8x8 digits: a beta too small", "iteration", "Fréchet distance (features)")
    for name, found in (("beta 200, rate 5e-4", runs), ("beta 2000, rate 1e-4", self_play(context))):
        for index, (before, scores) in enumerate(zip(start(context), found, strict=True)):
            colour = "C3" if found is runs else "C0"
            values = [before.features, *(score.features for score in scores)]
            axes.semilogy(values, "o-", color=colour, label=name if not index else None)
    axes.legend()
    text = f"start {features(start(context))}; mean by iteration {curve(runs)}"
    text += f"; the guard stopped {sum(stopped)} of {len(runs)}"
    return Measurement(
        value,
        decided(context, interval[0] > 1 and all(stopped)),
        interval,
        note(context, text),
        figures=(context.save_figure("digits-small-beta", figure),),
    )


def _stopped(each: Study, used: Recipe) -> bool:
    try:
        each.self_play(used, 1, guard="stop")
    except RunError:
        return True
    return False
