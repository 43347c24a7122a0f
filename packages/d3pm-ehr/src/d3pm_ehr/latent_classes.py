"""A mixture of independent columns (latent classes): prevalences and associations of codes in a small table of figures.

p(record) = sum_k w_k prod_n p_kn(x_n). It samples the embedded cohort, whose exact likelihood is therefore known.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.vocabulary import Vocabulary


@dataclass(frozen=True)
class LatentClasses:
    """The figures.

    Args:
        vocabulary: codes and columns.
        weights: [classes].
        codes: [classes, codes] probability of presence.
        columns: for each categorical column [classes, levels].
    """

    vocabulary: Vocabulary
    weights: NDArray[np.float64]
    codes: NDArray[np.float64]
    columns: tuple[NDArray[np.float64], ...]

    def sample(self, rows: int, seed: int) -> Cohort:
        """Draw records."""
        from scipy import sparse

        rng = np.random.default_rng(seed)
        classes = rng.choice(len(self.weights), size=rows, p=self.weights)
        parts, levels = [], np.zeros((rows, len(self.columns)), np.uint8)
        for start in range(0, rows, 20_000):  # bounded memory
            own = classes[start : start + 20_000]
            parts.append(sparse.csr_matrix(rng.random((len(own), self.codes.shape[1])) < self.codes[own]))
        for index, law in enumerate(self.columns):
            cumulative = law.cumsum(1)[:, :-1]
            levels[:, index] = (rng.random(rows)[:, None] >= cumulative[classes]).sum(1)
        codes = sparse.csr_matrix(sparse.vstack(parts)).astype(np.uint8)
        return Cohort(self.vocabulary, codes, levels, None, {"source": "embedded"})

    def log_likelihood(self, cohort: Cohort) -> NDArray[np.float64]:
        """Exact log p of each record in nats (codes and columns)."""
        return np.asarray(np.logaddexp.reduce(self._joint(cohort), axis=1))

    def _joint(self, cohort: Cohort) -> NDArray[np.float64]:
        present, absent = np.log(self.codes), np.log1p(-self.codes)
        joint = cohort.codes @ (present - absent).T + absent.sum(1) + np.log(self.weights)
        for index, law in enumerate(self.columns):
            joint = joint + np.log(law).T[cohort.columns[:, index]]
        return joint

    @classmethod
    def fit(cls, cohort: Cohort, classes: int, seed: int = 0, steps: int = 20, prior: float = 20.0) -> "LatentClasses":
        """Expectation-maximisation, shrunk to the marginals by `prior` records a class: no cell rests on a few.

        Args:
            cohort: records.
            classes: number of latent classes.
            seed: of the start.
            steps: of EM.
            prior: records of the marginal law added to each class.
        """
        rng = np.random.default_rng(seed)
        rows = len(cohort)
        mean = np.asarray(cohort.codes.mean(0)).ravel()
        levels = [
            np.eye(len(column.levels))[cohort.columns[:, i]] for i, column in enumerate(cohort.vocabulary.columns)
        ]
        shares = np.zeros((rows, classes))
        shares[np.arange(rows), rng.integers(classes, size=rows)] = 1
        shares = 0.5 * shares + 0.5 / classes
        model = None
        for _ in range(steps + 1):
            size = shares.sum(0)
            codes = ((cohort.codes.T @ shares).T + prior * mean) / (size + prior)[:, None]
            laws = tuple((shares.T @ own + prior * own.mean(0)) / (size + prior)[:, None] for own in levels)
            model = cls(cohort.vocabulary, size / rows, codes, laws)
            joint = model._joint(cohort)
            shares = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
        assert model is not None
        return model
