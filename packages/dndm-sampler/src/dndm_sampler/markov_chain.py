"""A denoiser that is exactly right: the posterior of a first-order Markov chain by forward-backward.

It separates what a sampler does from what a network fails to learn: with it every difference from the data's law is
the sampler's own.
"""

import torch
from jaxtyping import Float, Int
from shared_core.errors import InputError
from torch import Tensor

from dndm_sampler.enumeration import NoiseName
from dndm_sampler.schedule import TransitionSchedule


class MarkovChainDenoiser(torch.nn.Module):
    """p(x0_n | x_t) of a chain whose tokens were masked, or replaced by uniform noise with probability 1 - alpha(t).

    Args:
        initial: law of the first token [V].
        transition: rows sum to 1 [V, V], from-state first.
        noise: `absorbing` (mask id V) or `multinomial`.
        schedule: alpha(t), used with multinomial noise.

    Raises:
        InputError: if the laws do not fit or do not sum to 1.

    Called with (x [rows, length], t [rows]) it returns logits [rows, length, V] in float64.
    """

    initial: Tensor
    transition: Tensor

    def __init__(
        self,
        initial: Float[Tensor, "vocab"],
        transition: Float[Tensor, "vocab vocab"],
        noise: NoiseName = "absorbing",
        schedule: TransitionSchedule | None = None,
    ) -> None:
        super().__init__()
        if transition.shape != (len(initial), len(initial)):
            raise InputError(f"transition must be [{len(initial)}, {len(initial)}], got {list(transition.shape)}")
        sums = torch.cat([initial.sum()[None], transition.sum(1)])
        if bool(((sums - 1).abs() > 1e-6).any()):
            raise InputError("initial and every row of transition must sum to 1")
        self.register_buffer("initial", initial.double())
        self.register_buffer("transition", transition.double())
        self.noise = noise
        self.schedule = schedule or TransitionSchedule("linear")

    @classmethod
    def fit(
        cls, ids: Int[Tensor, "characters"], vocab: int, noise: NoiseName, schedule: TransitionSchedule | None = None
    ) -> "MarkovChainDenoiser":
        """The chain of a text's letter pairs, each count raised by 0.01; started from its stationary law."""
        counts = torch.bincount(ids[:-1] * vocab + ids[1:], minlength=vocab**2).double().view(vocab, vocab) + 0.01
        transition = counts / counts.sum(1, keepdim=True)
        stationary = torch.linalg.matrix_power(transition, 256)[0]
        return cls(stationary / stationary.sum(), transition, noise, schedule)

    def forward(self, x: Int[Tensor, "rows length"], t: Float[Tensor, "rows"]) -> Float[Tensor, "rows length vocab"]:
        """Log-posterior of every position, up to a constant."""
        return self.head(self.hidden(x, t))

    def head(self, hidden: Float[Tensor, "*positions vocab"]) -> Float[Tensor, "*positions vocab"]:
        """Logarithm of posterior weights."""
        return hidden.clamp(min=1e-300).log()

    def hidden(self, x: Int[Tensor, "rows length"], t: Float[Tensor, "rows"]) -> Float[Tensor, "rows length vocab"]:
        """Posterior weights by the forward-backward recursion, O(length V^2) a row."""
        emission = self._emission(x.T, t)
        length = len(emission)
        # both recursions at once, the second from the last position to the first: half as many small operations
        steps = torch.stack([self.transition, self.transition.mT])
        messages = emission.new_ones(length, 2, *emission.shape[1:])
        messages[0, 0] = self.initial
        for n in range(1, length):
            seen = messages[n - 1] * torch.stack([emission[n - 1], emission[length - n]])
            if n % 8 == 0:  # keeps float64 far from underflow
                seen = seen / seen.sum(-1, keepdim=True)
            torch.matmul(seen, steps, out=messages[n])
        return emission.mul_(messages[:, 0]).mul_(messages[:, 1].flip(0)).transpose(0, 1)

    def _emission(self, x: Int[Tensor, "length rows"], t: Float[Tensor, "rows"]) -> Float[Tensor, "length rows vocab"]:
        vocab = len(self.initial)
        same = torch.eye(vocab, dtype=self.initial.dtype, device=x.device)
        if self.noise == "absorbing":  # a mask agrees with every token
            return torch.cat([same, torch.ones_like(same[:1])])[x]
        alpha = self.schedule.alpha(t)[:, None].to(self.initial)
        return alpha * same[x] + (1 - alpha) / vocab

    def nll(self, x: Int[Tensor, "rows length"]) -> Float[Tensor, "rows"]:
        """Exact negative log-likelihood of clean sequences, nats a token."""
        steps = self.transition.log()[x[:, :-1], x[:, 1:]].sum(1)
        return -(self.initial.log()[x[:, 0]] + steps) / x.shape[1]

    def entropy_rate(self) -> float:
        """Nats a token of the stationary chain: what the NLL of perfect samples tends to."""
        return float(-(self.initial[:, None] * self.transition * self.transition.log()).sum())

    def draw(self, batch: int, length: int, generator: torch.Generator | None = None) -> Int[Tensor, "batch length"]:
        """True samples of the chain, token by token."""
        tokens = [torch.multinomial(self.initial, batch, replacement=True, generator=generator)]
        for _ in range(length - 1):
            tokens.append(torch.multinomial(self.transition[tokens[-1]], 1, generator=generator)[:, 0])
        return torch.stack(tokens, 1)
