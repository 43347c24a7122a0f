"""What determines a run, and what a run may spend: plain data, so that the command line imports nothing heavy."""

from dataclasses import asdict, dataclass, field, replace

from rar_prompt.chat import Sampling
from rar_prompt.generators import GenOptions


@dataclass(frozen=True)
class SamplingChange:
    """Sampling of rephrasing calls where it differs from that of the others; None is the same.

    Args:
        temperature: 0 is greedy.
        top_p: nucleus mass.
        max_tokens: cap on the rephrasing.
        seed: of the draws.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def of(self, sampling: Sampling) -> Sampling | None:
        """The changed settings, None where nothing differs."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(sampling, **given) if given else None


@dataclass(frozen=True)
class Spending:
    """What a run may spend and how it is counted.

    Args:
        prices: YAML file `model: {input: 2.5, output: 10, cached: 1.25}`, per million tokens.
        max_cost: in the money of the price file; the run stops cleanly before it would spend more.
        max_total_tokens: the same in tokens.
    """

    prices: str | None = None
    max_cost: float | None = None
    max_total_tokens: int | None = None


@dataclass(frozen=True)
class RunSettings:
    """Everything that determines the answers.

    Args:
        tasks: generators or files.
        methods: see `methods.plan`.
        models: responders.
        rephrasers: of two-step methods; each responder by itself where empty.
        templates: template set.
        sampling: of every call.
        rephrase_sampling: of rephrasing calls; as `sampling` where None.
        n: the first n questions of each task; None is all of a file and 100 of a generator.
        seed: of the generators.
        samples: independent answers per question.
        gen: options of the generators.
        exemplars: jsonl file of worked examples.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    models: tuple[str, ...]
    rephrasers: tuple[str, ...] = ()
    templates: str = "paper"
    sampling: Sampling = field(default_factory=Sampling)
    rephrase_sampling: Sampling | None = None
    n: int | None = None
    seed: int = 0
    samples: int = 1
    gen: GenOptions = field(default_factory=GenOptions)
    exemplars: str | None = None
