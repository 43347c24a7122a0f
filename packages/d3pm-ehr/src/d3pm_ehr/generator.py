"""A generator of records: settings, vocabulary and weights; fit, sample, save, load. It holds no record."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy import sparse
from shared_core.device import resolve_device
from shared_core.errors import InputError, RunError
from shared_core.files import atomic_path, write_json
from shared_core.run_folder import read_json
from torch import Tensor

from d3pm_ehr.cohort import Cohort, empirical_laws
from d3pm_ehr.condition import Condition
from d3pm_ehr.config import GeneratorConfig, Guidance
from d3pm_ehr.denoiser import make_denoiser
from d3pm_ehr.guidance import LangevinGuide, NoisyClassifier, train_classifier
from d3pm_ehr.objective import bound
from d3pm_ehr.process import DiscreteDiffusion
from d3pm_ehr.sampling import sample_by_transition_times, sample_tokens
from d3pm_ehr.schedule import noise_schedule, subsequence
from d3pm_ehr.training import TrainingState, train_denoiser
from d3pm_ehr.vocabulary import Vocabulary

log = logging.getLogger(__name__)
REJECT_LIMIT = 2000  # draws for each wanted record after which rejection gives up


class EHRD3PM:
    """Guided discrete diffusion for record codes.

    Example:
        >>> model = EHRD3PM().fit(cohort.part("train"), val=cohort.part("tuning"))
        >>> synthetic = model.sample(1000, condition="250", seed=1)
        >>> model.save("model")

    Args:
        config: settings.
        device: auto, cpu, cuda, cuda:N or mps.

    Attributes:
        vocabulary: of the records it was fitted on.
        denoiser: the network, after `fit`.
        classifiers: trained for conditions, by their text.
    """

    def __init__(self, config: GeneratorConfig | None = None, device: str = "auto") -> None:
        self.config = config or GeneratorConfig()
        self.device = resolve_device(device)
        self.classifiers: dict[str, NoisyClassifier] = {}

    # -- fitting ---------------------------------------------------------------------------------------------------

    def build(self, vocabulary: Vocabulary, marginals: Float[Tensor, "laws"]) -> Self:
        """The untrained network for a vocabulary, started from the training seed."""
        diffusion = self.config.diffusion
        abar = noise_schedule(diffusion.schedule_name, diffusion.num_steps)
        process = DiscreteDiffusion(vocabulary.layout, abar, diffusion.kernel, marginals, diffusion.posterior)
        self.vocabulary, self.marginals = vocabulary, marginals.double().cpu()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.denoiser = make_denoiser(process, self.config.network, self.marginals, diffusion.evidence)
        process.to(self.device)
        self.denoiser.to(self.device).eval()
        return self

    def fit(
        self,
        data: Cohort | np.ndarray | sparse.spmatrix | sparse.sparray,
        val: Cohort | None = None,
        *,
        state: TrainingState | None = None,
        after: Any = None,
    ) -> Self:
        """Train; with `val` the weights of the best evaluation are kept.

        Args:
            data: a cohort, or a 0/1 matrix (dense, data frame or sparse).
            val: held-out records of the same vocabulary.
            state: of an interrupted training (see `TrainingState`).
            after: called every `training.checkpoint_every` steps with the state and metrics.

        Raises:
            InputError: for records that cannot be used, or another vocabulary in `val`.
            RunError: if the loss diverges.
        """
        cohort = data if isinstance(data, Cohort) else Cohort.from_arrays(data, names=_names_of(data))
        if val is not None and val.vocabulary.names != cohort.vocabulary.names:
            raise InputError("val has another vocabulary than the training records")
        if not len(cohort):
            raise InputError("there are no training records")
        _warn_constant(cohort)
        if state is None or not state.step:
            self.build(cohort.vocabulary, empirical_laws(cohort))
        self.denoiser.train()
        self.state = train_denoiser(
            self.denoiser,
            cohort,
            self.config.training,
            self.device,
            seed=self.config.seed,
            validation=val,
            state=state,
            after=after,
        )
        return self

    # -- sampling --------------------------------------------------------------------------------------------------

    def sample(self, n: int, **options: Any) -> Cohort:
        """Draw n records; the options are those of `stream`."""
        return Cohort.from_tokens(self.vocabulary, torch.cat(list(self.stream(n, **options))))

    def stream(
        self,
        n: int,
        *,
        seed: int = 0,
        condition: str | Condition | None = None,
        guidance: Guidance | None = None,
        given: Mapping[str, int | str] | None = None,
        num_steps: int | None = None,
        transition_times: bool = False,
        batch_size: int = 1024,
    ) -> Iterator[UInt8[Tensor, "rows columns"]]:
        """Draw n records in batches of tokens, so that a cohort need not fit in memory.

        Args:
            n: records.
            seed: of every draw.
            condition: see `condition`; how it steers is `guidance.method`.
            guidance: `own_head` with its defaults if None.
            given: codes that are fixed, e.g. {"250": 1, "585": 0, "sex": "female"} (inpainting).
            num_steps: reverse steps, evenly spread over T; T by default.
            transition_times: the shortcut for the absorbing kernel (no guidance).
            batch_size: records at once.

        Raises:
            InputError: for n < 1, an unknown code, options that exclude each other, or a missing classifier.
            RunError: if rejection finds too few records.
        """
        times = subsequence(
            self.config.diffusion.num_steps, self.config.diffusion.num_steps if num_steps is None else num_steps
        )
        fixed = self.vocabulary.fixed(given or {})
        wanted = Condition.parse(condition, self.vocabulary) if isinstance(condition, str) else condition
        method = (guidance or Guidance()).method if wanted is not None else None
        if wanted is not None:
            wanted.refuse_given(fixed, self.vocabulary)
        if wanted is not None and method == "replace":
            fixed |= wanted.fixed(self.vocabulary.layout)
        if method == "reject":
            assert wanted is not None
            return self._rejecting(n, wanted, times, seed, batch_size, fixed)
        if transition_times:
            if method not in (None, "replace") or num_steps is not None:
                raise InputError("transition times go with neither guided sampling nor fewer steps")
            return sample_by_transition_times(self.denoiser, n, seed, batch_size=batch_size, given=fixed)
        guide = None
        if wanted is not None and method in ("own_head", "classifier"):
            guide = self._guide(wanted, guidance or Guidance())
        return sample_tokens(self.denoiser, n, times, seed, batch_size=batch_size, guide=guide, given=fixed)

    def _guide(self, condition: Condition, guidance: Guidance) -> LangevinGuide:
        if guidance.method == "own_head":
            return LangevinGuide(self.denoiser, guidance, condition=condition)
        if condition.text not in self.classifiers:
            there = ", ".join(self.classifiers) or "none"
            raise InputError(f"no classifier was trained for condition {condition.text!r} (trained: {there}); "
                             "train one, or use own_head guidance")  # fmt: skip
        return LangevinGuide(self.denoiser, guidance, classifier=self.classifiers[condition.text])

    def _rejecting(
        self, n: int, condition: Condition, times: list[int], seed: int, batch_size: int, fixed: dict[int, int]
    ) -> Iterator[Tensor]:
        """Unconditional draws that fulfil the condition: the referee, at 1 / P(condition) draws a record."""
        if n < 1:
            raise InputError(f"n must be at least 1, got {n}")
        found = tried = 0
        for rows in sample_tokens(self.denoiser, n * REJECT_LIMIT, times, seed, batch_size=batch_size, given=fixed):
            tried += len(rows)
            kept = rows[condition.holds(rows)][: n - found]
            found += len(kept)
            if len(kept):
                yield kept
            if found == n:
                return
            if tried >= 200 * batch_size and found == 0:
                break
        raise RunError(f"condition {condition.text!r} held for {found} of {tried} draws: too rare for rejection")

    # -- judging, conditions ---------------------------------------------------------------------------------------

    def elbo(self, cohort: Cohort, *, draws: int = 1, seed: int = 0) -> Float[Tensor, "rows"]:
        """An unbiased estimate of a lower bound of log p(record), in nats, for each record."""
        generator = torch.Generator(self.device).manual_seed(seed)
        self._check_vocabulary(cohort)
        return -bound(
            self.denoiser.process, self.denoiser, cohort.tokens().to(self.device), generator, draws=draws
        ).cpu()

    def fit_classifier(self, condition: str | Condition, cohort: Cohort, **options: Any) -> NoisyClassifier:
        """Train a classifier for `Guidance(method="classifier")`; options as `train_classifier`.

        Raises:
            InputError: for an unknown code, or a condition that no record (or every record) fulfils.
        """
        self._check_vocabulary(cohort)
        parsed = Condition.parse(condition, self.vocabulary) if isinstance(condition, str) else condition
        labels = parsed.holds(cohort.tokens())
        self.classifiers[parsed.text] = train_classifier(self.denoiser, cohort, labels, **options)
        return self.classifiers[parsed.text]

    def fit_label_classifier(self, name: str, labels: Tensor, cohort: Cohort, **options: Any) -> NoisyClassifier:
        """Train a classifier for any label of the training records that is not among their tokens.

        Raises:
            InputError: if there is not one label for each record.
        """
        self._check_vocabulary(cohort)
        if len(labels) != len(cohort):
            raise InputError(f"{len(labels)} labels for {len(cohort)} records")
        self.classifiers[name] = train_classifier(self.denoiser, cohort, labels.bool(), **options)
        return self.classifiers[name]

    def _check_vocabulary(self, cohort: Cohort) -> None:
        if cohort.vocabulary.names != self.vocabulary.names:
            raise InputError("the records have another vocabulary than the model; align them first")

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`: weights, laws of the columns, vocabulary, settings."""
        folder = Path(folder)
        tensors = {name: value.contiguous().cpu() for name, value in self.denoiser.state_dict().items()}
        for text, classifier in self.classifiers.items():
            tensors |= {
                f"classifier/{text}/{name}": v.contiguous().cpu() for name, v in classifier.state_dict().items()
            }
        description = {
            "package": "d3pm-ehr",
            "config": self.config.to_json(),
            "vocabulary": self.vocabulary.to_json(),
            "classifiers": list(self.classifiers),
        }
        with atomic_path(folder / "model.safetensors") as aside:
            save_file(tensors | {"marginals": self.marginals}, aside)
        write_json(folder / "model.json", description)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "auto") -> "EHRD3PM":
        """Load what `save` wrote; nothing in it is executed.

        Raises:
            InputError: if the folder holds no trained model, or its files are damaged or do not fit each other.
        """
        description, weights = Path(folder) / "model.json", Path(folder) / "model.safetensors"
        if not description.exists() or not weights.exists():
            raise InputError(f"{folder} holds no trained model (model.json and model.safetensors); train one first")
        value = read_json(description)
        try:
            tensors = load_file(weights)
            model = cls(GeneratorConfig.from_json(value["config"], str(description)), device)
            vocabulary = Vocabulary.from_json(value["vocabulary"], str(description))
            model.build(vocabulary, tensors.pop("marginals"))
            for text in value["classifiers"]:
                prefix = f"classifier/{text}/"
                own = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
                classifier = NoisyClassifier(model.config.network.width, model.config.diffusion.num_steps)
                classifier.load_state_dict(own)
                model.classifiers[text] = classifier.to(model.device).eval()
            # a kill between the two files may leave a classifier that the description does not name yet
            model.denoiser.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("classifier/")})
        except InputError:
            raise
        except (SafetensorError, KeyError, TypeError, RuntimeError, OSError) as error:
            raise InputError(f"{folder} holds a damaged model: {str(error).splitlines()[0]}") from error
        return model


def _names_of(data: Any) -> list[str] | None:
    """Column names where `data` is a data frame."""
    columns = getattr(data, "columns", None)
    return None if columns is None else [str(name) for name in columns]


def _warn_constant(cohort: Cohort) -> None:
    """Codes that tell nothing are kept: the vocabulary is the user's choice."""
    counts = np.bincount(cohort.codes.indices, minlength=len(cohort.vocabulary.codes))
    constant = [cohort.vocabulary.codes[i] for i in np.flatnonzero((counts == 0) | (counts == len(cohort)))]
    if constant and len(cohort) > 1:
        log.warning("%d codes are in none or in all of the %d training records: %s",
                    len(constant), len(cohort), ", ".join(constant[:5]))  # fmt: skip
