"""Exact laws of the samplers on a vocabulary and length small enough to list every sequence.

Nothing here samples: the law that a sampler generates is propagated as a vector over all sequences, so that two
samplers can be compared to the last digit, and a bias can be told from noise. Everything is float64.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations, product
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from shared_core.errors import InputError
from torch import Tensor

from dndm_sampler.baselines import posterior
from dndm_sampler.denoising import Denoiser, leave_one_out
from dndm_sampler.noise import MultinomialNoise
from dndm_sampler.schedule import TransitionSchedule

MAX_STATES = 2500
NoiseName = Literal["absorbing", "multinomial"]
# p(x0_n = a | x, t) for every state x: [states, length, vocab]
Table = Float[Tensor, "states length vocab"]


class ExactProblem(NamedTuple):
    """A data law on `vocab`^`length` with one of the two noises, and what the denoiser says in every state.

    Args:
        data: probability of each clean sequence, in the order of `sequences`.
        noise: name of the noise.
        vocab: V clean tokens; with absorbing noise V itself is the mask.
        length: N.
        states: all sequences the sampler can visit [states, length].
        table: `table(alpha, t)` gives p(x0_n = a | x) at noise level alpha (and time t in (0, 1]).
        time_free: the table is the same at all times (an exact denoiser with absorbing noise).
    """

    data: Float[Tensor, "sequences"]
    noise: NoiseName
    vocab: int
    length: int
    states: Int[Tensor, "states length"]
    table: Callable[[float, float], Table]
    time_free: bool = False

    def start(self) -> Float[Tensor, "states"]:
        """Law of the initial noise."""
        if self.noise == "multinomial":
            return torch.full((len(self.states),), 1 / len(self.states), dtype=torch.float64)
        return (self.states == self.vocab).all(1).double()

    def clean(self, law: Float[Tensor, "states"]) -> Float[Tensor, "sequences"]:
        """The part of a law on the clean sequences, in the order of `data`."""
        return law[(self.states < self.vocab).all(1)]

    def dndm(
        self,
        schedule: TransitionSchedule,
        num_steps: int,
        *,
        refresh: bool = False,
        loo: bool = False,
        train_schedule: TransitionSchedule | None = None,
    ) -> Float[Tensor, "sequences"]:
        """Law of DNDM on T steps (Algorithm 1, or version 2 with `refresh`), optionally with the LOO correction.

        Going down in t, each position not yet restored moves with the hazard h_t = p_t / P(tau <= t), independently;
        the vector over states is kept apart for every set of restored positions. With `train_schedule` the denoiser is
        told the time t/T of that schedule (time_map="index"); by default it is told the true noise level.
        """
        pmf = schedule.pmf(num_steps)
        alphas = (train_schedule or schedule).alphas(num_steps)
        full = 2**self.length - 1
        weights = {0: self.start()}
        for step in range(num_steps, 0, -1):
            hazard = float((pmf[step - 1] / pmf[:step].sum()).clamp(max=1)) if pmf[step - 1] > 0 else 0.0
            if step == num_steps or not self.time_free:
                kernels = self._kernels(self._table(float(alphas[step]), step / num_steps, loo))
            moved: dict[int, Tensor] = {}
            for restored, weight in weights.items():
                for newly in _subsets(full & ~restored):
                    stay = (full & ~restored & ~newly).bit_count()
                    chance = hazard ** newly.bit_count() * (1 - hazard) ** stay
                    if chance == 0:
                        continue
                    written = (restored | newly) if refresh and newly else newly
                    after = chance * (weight @ kernels(written) if written else weight)
                    moved[restored | newly] = moved.get(restored | newly, 0) + after
            weights = moved
        return self.clean(weights[full])

    def dndm_by_times(self, schedule: TransitionSchedule, num_steps: int) -> Float[Tensor, "sequences"]:
        """The same law by listing all T^N vectors of transition times: Algorithm 1 taken literally."""
        alphas, pmf = schedule.alphas(num_steps), schedule.pmf(num_steps).tolist()
        kernels = [self._kernels(self._table(float(a), t / num_steps, False)) for t, a in enumerate(alphas) if t > 0]
        law = torch.zeros(len(self.states), dtype=torch.float64)
        for times in product(range(1, num_steps + 1), repeat=self.length):
            weight = self.start()
            for t in sorted(set(times), reverse=True):
                weight = weight @ kernels[t - 1](_bits(n for n, tau in enumerate(times) if tau == t))
            law += weight * torch.tensor([pmf[tau - 1] for tau in times], dtype=torch.float64).prod()
        return self.clean(law)

    def ancestral(self, schedule: TransitionSchedule, num_steps: int) -> Float[Tensor, "sequences"]:
        """Law of T-step ancestral sampling (D3PM) by powers of its transition matrices."""
        alphas = schedule.alphas(num_steps)
        law = self.start()
        for step in range(num_steps, 0, -1):
            before, now = alphas[step - 1], alphas[step]
            if before == now:
                continue
            table = self._table(float(now), step / num_steps, False)
            law = law @ self._product_kernel(self._ancestral_step(table, before, now))
        return self.clean(law)

    def continuous(self) -> Float[Tensor, "sequences"]:
        """Law of DNDM-C with absorbing noise and a denoiser that needs no time: random-order, one token a call."""
        kernels = self._kernels(self._table(0.5, 0.5, False))
        orders = list(permutations(range(self.length)))
        law = torch.zeros(len(self.states), dtype=torch.float64)
        for order in orders:
            weight = self.start()
            for position in order:
                weight = weight @ kernels(1 << position)
            law += weight / len(orders)
        return self.clean(law)

    def balanced(self, num_calls: int) -> Float[Tensor, "sequences"]:
        """Law of the call budget with absorbing noise: `num_calls` random groups, sizes differing by at most one."""
        kernels = self._kernels(self._table(0.5, 0.5, False))
        ways = list(product(permutations(range(self.length)), range(num_calls)))
        law = torch.zeros(len(self.states), dtype=torch.float64)
        for rank, turn in ways:
            weight = self.start()
            for group in range(num_calls - 1, -1, -1):
                members = _bits(n for n in range(self.length) if (rank[n] + turn) % num_calls == group)
                weight = weight @ kernels(members)
            law += weight / len(ways)
        return self.clean(law)

    def _table(self, alpha: float, t: float, loo: bool) -> Table:
        table = self.table(alpha, t)
        if not loo:
            return table
        current = self.states.flatten()
        noise = MultinomialNoise(self.vocab)
        level = torch.full((len(current),), alpha, dtype=torch.float64)
        logits = leave_one_out(table.clamp(min=1e-300).log().flatten(0, 1), current, level, noise)
        return logits.softmax(-1).view_as(table)

    def _ancestral_step(self, table: Table, before: Tensor, now: Tensor) -> Float[Tensor, "states length symbols"]:
        if self.noise == "absorbing":
            hazard = (before - now) / (1 - now)
            masked = (self.states == self.vocab)[..., None]
            moved = torch.cat([hazard * table, (1 - hazard).expand(*table.shape[:2], 1)], dim=-1)
            return torch.where(masked, moved, self._identity())
        law = torch.zeros(*table.shape, dtype=torch.float64)
        q = torch.full((self.vocab,), 1 / self.vocab, dtype=torch.float64)
        current = self.states.flatten()
        for x0 in range(self.vocab):
            clean = torch.full_like(current, x0)
            step = posterior(current, clean, before.expand(len(current)), now.expand(len(current)), q)
            law += table[..., x0 : x0 + 1] * step.view(*table.shape)
        return law

    def _kernels(self, table: Table) -> Callable[[int], Float[Tensor, "states states"]]:
        """kernel(bits): draw the positions in the set independently from the table, keep the others."""
        cache: dict[int, Tensor] = {}
        identity = self._identity()
        drawn = torch.cat([table, torch.zeros(*table.shape[:2], identity.shape[-1] - self.vocab)], dim=-1)

        def kernel(bits: int) -> Tensor:
            if bits not in cache:
                inside = torch.tensor([bool(bits >> n & 1) for n in range(self.length)])[None, :, None]
                cache[bits] = self._product_kernel(torch.where(inside, drawn, identity))
            return cache[bits]

        return kernel

    def _identity(self) -> Float[Tensor, "states length symbols"]:
        return torch.nn.functional.one_hot(self.states, int(self.states.max()) + 1).double()

    def _product_kernel(self, law: Float[Tensor, "states length symbols"]) -> Float[Tensor, "states states"]:
        kernel = torch.ones(len(self.states), len(self.states), dtype=torch.float64)
        for n in range(self.length):
            kernel *= law[:, n, :][:, self.states[:, n]]
        return kernel


def exact_problem(data: Float[Tensor, "*vocab"], noise: NoiseName, denoiser: Denoiser | None = None) -> ExactProblem:
    """Set up an enumeration for a data law given as a table with one axis a position.

    Args:
        data: P(x_1, .., x_N), shape [V] * N, non-negative, summing to 1.
        noise: `absorbing` (mask id V) or `multinomial` (uniform).
        denoiser: `(x, t) -> logits`; by default the exact posterior of the data law.

    Raises:
        InputError: if `data` is not such a table or has too many sequences to list.
    """
    if noise not in ("absorbing", "multinomial"):
        raise InputError(f"noise must be absorbing or multinomial, got {noise!r}")
    if data.ndim < 1 or len(set(data.shape)) != 1 or data.shape[0] < 2:
        raise InputError(f"data must have one axis of the same length V >= 2 for each position, got {list(data.shape)}")
    if float(data.min()) < 0 or abs(float(data.sum()) - 1) > 1e-9:
        raise InputError(f"data must be probabilities that sum to 1, got a sum of {float(data.sum()):g}")
    vocab, length = data.shape[0], data.ndim
    symbols = vocab + (noise == "absorbing")
    if symbols**length > MAX_STATES:
        raise InputError(f"{symbols}^{length} sequences are too many to list (at most {MAX_STATES})")
    states = torch.tensor(list(product(range(symbols), repeat=length)))
    law = data.double().flatten()
    sequences = torch.tensor(list(product(range(vocab), repeat=length)))

    def exact_table(alpha: float, t: float) -> Table:
        same = states[:, None, :] == sequences[None]
        if noise == "absorbing":
            emission = (same | (states == vocab)[:, None, :]).double()
        else:
            emission = alpha * same + (1 - alpha) / vocab
        joint = emission.prod(-1) * law  # [states, sequences]
        joint = joint / joint.sum(1, keepdim=True).clamp(min=1e-300)
        one_hot = torch.nn.functional.one_hot(sequences, vocab).double()
        table = torch.einsum("xs,sna->xna", joint, one_hot)
        # a state of probability 0 is never visited; any law will do there
        return torch.where(table.sum(-1, keepdim=True) > 0, table, 1 / vocab)

    def asked_table(alpha: float, t: float) -> Table:
        assert denoiser is not None
        logits = denoiser(states, torch.full((len(states),), t))[..., :vocab]
        return logits.double().softmax(-1)

    if denoiser is not None:
        return ExactProblem(law, noise, vocab, length, states, asked_table)
    return ExactProblem(law, noise, vocab, length, states, exact_table, time_free=noise == "absorbing")


def markov_chain_law(
    initial: Sequence[float], transition: Sequence[Sequence[float]], length: int
) -> Float[Tensor, "*vocab"]:
    """P(x_1, .., x_N) of a first-order chain, as a table with one axis a position."""
    step = torch.as_tensor(transition, dtype=torch.float64)
    law = torch.as_tensor(initial, dtype=torch.float64)
    for _ in range(length - 1):
        law = law[..., None] * step
    return law


def total_variation(p: Float[Tensor, "*n"], q: Float[Tensor, "*n"]) -> float:
    """Half the sum of |p - q|."""
    return float((p - q).abs().sum() / 2)


def _bits(positions: Iterable[int]) -> int:
    return sum(1 << n for n in positions)


def _subsets(bits: int) -> Iterable[int]:
    """All subsets of a bit set, the empty one included."""
    subset = bits
    while True:
        yield subset
        if subset == 0:
            return
        subset = (subset - 1) & bits
