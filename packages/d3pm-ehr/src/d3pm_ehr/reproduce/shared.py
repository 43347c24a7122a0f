"""The set of claims, the data, and the generators that several claims share."""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from shared_core.claims import ClaimSet, Context, Measurement

from d3pm_ehr.baselines import Bernoulli
from d3pm_ehr.cohort import Cohort
from d3pm_ehr.config import Diffusion, GeneratorConfig, Network, Training
from d3pm_ehr.embedded import embedded_cohort
from d3pm_ehr.formats.assemble import Rules
from d3pm_ehr.formats.nhds import read_nhds
from d3pm_ehr.gan import MedGAN
from d3pm_ehr.gaussian import GaussianDiffusion
from d3pm_ehr.generator import EHRD3PM

# below the paper's scale the networks are small, and threads that wait for a busy core cost more
claims = ClaimSet("d3pm-ehr", one_thread=("smoke", "laptop"))
Source = Literal["embedded", "survey"]
SURVEY_FILE = "NHDS10.PU.txt.bz2"
OURS, REAL = "D3PM", "held-out real"
RIVALS = ("Gaussian", "MedGAN", "independent")


@dataclass(frozen=True)
class Data:
    """Records of one seed."""

    train: Cohort
    tuning: Cohort
    reference: Cohort
    other: Cohort


def survey_path() -> Path | None:
    """The public-use file: in the folder that D3PM_EHR_DATA names, or in ../shared/data/ehr of the repository."""
    named = os.environ.get("D3PM_EHR_DATA")
    above = (Path.cwd(), *Path.cwd().parents)
    places = [Path(named)] if named else [place.parent / "shared" / "data" / "ehr" for place in above]
    return next((place / SURVEY_FILE for place in places if (place / SURVEY_FILE).exists()), None)


def absent(context: Context, source: Source) -> Measurement | None:
    """Why a claim about the survey cannot be measured here, or None where it can."""
    if source == "embedded":
        return None
    if context.scale == "smoke":
        return Measurement("-", None, note="The survey is measured at laptop scale.")
    if survey_path() is None:
        return Measurement("-", None, note=f"{SURVEY_FILE} is not here: D3PM_EHR_DATA names the folder that holds it.")
    return None


def data_of(context: Context, source: Source, seed: int) -> Data:
    """Fresh records of the embedded law, or another permutation of the survey, for each seed."""
    codes = context.at(32, 96, 1116)
    sizes = context.at((2000, 100, 600), (20_000, 500, 4000), (100_000, 4000, 20_000))
    number = context.seed * 1000 + seed

    def make() -> Data:
        if source == "embedded":
            rows = embedded_cohort(sum(sizes) + sizes[2], number, codes, columns=False)
        else:
            whole = context.memo("survey", _survey)
            order = np.random.default_rng(number).permutation(len(whole))[: sum(sizes) + sizes[2]]
            rows = whole.top(codes).take(order)
        ends = np.cumsum([0, *sizes, sizes[2]])
        return Data(*(rows.take(np.arange(a, b)) for a, b in itertools.pairwise(ends)))

    return context.memo(("data", source, seed), make)


def _survey() -> Cohort:
    path = survey_path()
    assert path is not None
    cohort, _ = read_nhds(path, Rules(min_records=0, empty="keep"))
    from dataclasses import replace

    bare = replace(cohort.vocabulary, columns=())
    return Cohort(bare, cohort.codes, np.zeros((len(cohort), 0), np.uint8))


def config_of(context: Context, seed: int) -> GeneratorConfig:
    """Settings chosen on seed 100, which is not reported."""
    steps = context.at(40, 800, 20_000)
    return GeneratorConfig(
        Diffusion(num_steps=context.at(6, 30, 50)),
        Network(width=context.at(32, 128, 512)),
        Training(steps=steps, checkpoint_every=steps, learning_rate=context.at(4e-3, 4e-3, 1e-3)),
        context.seed * 1000 + seed,
    )


def model_of(context: Context, source: Source, seed: int) -> EHRD3PM:
    """The trained generator of a seed."""

    def make() -> EHRD3PM:
        model = EHRD3PM(config_of(context, seed), str(context.device))
        return model.fit(data_of(context, source, seed).train)

    return context.memo(("model", source, seed), make)


def records_of(context: Context, source: Source, seed: int) -> dict[str, Cohort]:
    """As many records of every generator, by its name, and held-out real ones."""

    def make() -> dict[str, Cohort]:
        data, number = data_of(context, source, seed), context.seed * 1000 + seed
        count, steps = len(data.reference), config_of(context, seed).training.steps
        width = config_of(context, seed).network.width
        gaussian = GaussianDiffusion(width=width, steps=steps, learning_rate=1e-3, seed=number).fit(data.train)
        gan = MedGAN(pretrain=steps // 4, steps=3 * steps // 4, seed=number).fit(data.train)
        return {
            REAL: data.other,
            OURS: model_of(context, source, seed).sample(count, seed=number),
            "Gaussian": gaussian.sample(count, number),
            "MedGAN": gan.sample(count, number),
            "independent": Bernoulli().fit(data.train).sample(count, number),
        }

    return context.memo(("records", source, seed), make)


def seeds(context: Context) -> range:
    """Three, and one for smoke."""
    return range(context.at(1, 3, 3))


def mean_and_ends(values: list[float]) -> tuple[float, float, float]:
    """Mean, smallest and largest."""
    return sum(values) / len(values), min(values), max(values)


def undecided(
    context: Context, measured: Any, interval: tuple[float, float], figures: tuple[str, ...] = ()
) -> Measurement:
    """At smoke scale the numbers are shown and decide nothing."""
    return Measurement(measured, None, interval, "One seed and a few steps: shown, not decided.", figures)


def paired_gain(ours: list[float], theirs: list[float]) -> NDArray[np.float64]:
    """Ours minus theirs, seed by seed."""
    return np.array(ours) - np.array(theirs)


def _on(source: Source) -> str:
    return "the embedded cohort" if source == "embedded" else "the NHDS 2010 survey"


def register(id: str, measure: Callable[[Context, Source], Measurement], **claim: str) -> None:
    """The same claim on both sources."""
    sources: tuple[Source, Source] = ("embedded", "survey")
    for source in sources:

        def bound(context: Context, source: Source = source) -> Measurement:
            return absent(context, source) or measure(context, source)

        suffix = "" if source == "embedded" else "-survey"
        statement = f"On {_on(source)}: {claim['statement']}"
        claims.add(id + suffix, **(claim | {"statement": statement}))(bound)


def means(found: dict[str, list[float]]) -> dict[str, float]:
    """Over the seeds."""
    return {name: sum(values) / len(values) for name, values in found.items()}
