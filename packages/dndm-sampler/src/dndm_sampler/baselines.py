"""What DNDM is compared with: step-by-step ancestral sampling (D3PM), RDM, and the exact thinned chain."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from shared_core.errors import InputError
from torch import Tensor

from dndm_sampler.algorithms import OnCall, Predict, Sample, best, ignore, no_scores, spread
from dndm_sampler.noise import MultinomialNoise, Noise, inverse_cdf
from dndm_sampler.randomness import draw
from dndm_sampler.transition_times import event_turns


def ancestral_absorbing(
    predict: Predict,
    x: Int[Tensor, "batch length"],
    free: Bool[Tensor, "batch length"],
    alphas: Float[Tensor, "steps_plus_1"],
    keys: Int[Tensor, "batch length"],
    on_call: OnCall = ignore,
) -> Sample:
    """D3PM with absorbing noise: at each of T steps a masked position is restored with h_t = p_t / (1 - alpha_t).

    The tokens of positions that stay masked are thrown away by the algorithm, so they are not drawn; the network is
    called at every step.
    """
    x, scores, waiting = x.clone(), no_scores(x), free.clone()
    for step in range(len(alphas) - 1, 0, -1):
        hazard = float((alphas[step - 1] - alphas[step]) / (1 - alphas[step]).clamp(min=1e-300))
        t = torch.full((len(x),), step, device=x.device)
        row, position = (waiting & (draw(keys, step) < hazard)).nonzero(as_tuple=True)
        drawn = predict(x, t, row, position)
        x[row, position] = drawn.tokens
        scores[row, position] = drawn.scores
        waiting[row, position] = False
        on_call(len(x), t, x)
    return x, scores


def ancestral_multinomial(
    predict: Predict,
    x: Int[Tensor, "batch length"],
    free: Bool[Tensor, "batch length"],
    alphas: Float[Tensor, "steps_plus_1"],
    noise: MultinomialNoise,
    keys: Int[Tensor, "batch length"],
    on_call: OnCall = ignore,
) -> Sample:
    """D3PM with multinomial noise: draw x0 from the network, then x_{t-1} from q(x_{t-1} | x_t, x0), T times."""
    x, scores = x.clone(), no_scores(x)
    alphas, q = alphas.to(scores), noise.probabilities.to(scores)
    row, position = free.nonzero(as_tuple=True)
    for step in range(len(alphas) - 1, 0, -1):
        t = torch.full((len(x),), step, device=x.device)
        drawn = predict(x, t, row, position)
        before, now = alphas[step - 1].expand(len(row)), alphas[step].expand(len(row))
        law = posterior(x[row, position], drawn.tokens, before, now, q)
        x[row, position] = inverse_cdf(law, draw(keys[row, position], step))
        scores[row, position] = drawn.scores
        on_call(len(x), t, x)
    return x, scores


def posterior(
    x_t: Int[Tensor, "n"],
    x0: Int[Tensor, "n"],
    before: Float[Tensor, "n"],
    now: Float[Tensor, "n"],
    q: Float[Tensor, "vocab"],
) -> Float[Tensor, "n vocab"]:
    """q(x_{t-1} | x_t, x0) of the multinomial chain, rows summing to 1.

    It is proportional to [beta 1(k = x_t) + (1 - beta) q(x_t)] [alpha_{t-1} 1(k = x0) + (1 - alpha_{t-1}) q(k)].

    Args:
        x_t: current tokens.
        x0: predicted clean tokens.
        before: alpha_{t-1}.
        now: alpha_t.
        q: the noise law.

    Where the formula leaves no token, x_t stays: without noise yet (alpha_t = 1), and where x_t is a token that noise
    never makes (q = 0) but another was predicted.
    """
    beta = step_survival(before, now)
    from_here = ((1 - beta) * q[x_t])[:, None].repeat(1, len(q)).scatter_add_(1, x_t[:, None], beta[:, None])
    from_data = ((1 - before)[:, None] * q).scatter_add_(1, x0[:, None], before[:, None])
    law = from_here * from_data
    total = law.sum(1, keepdim=True)
    impossible = (total[:, 0] <= 0) | (now >= 1)
    law = law / total
    law[impossible] = torch.nn.functional.one_hot(x_t[impossible], len(q)).to(law)
    return law


def change_bounds(alphas: Float[Tensor, "steps_plus_1"], vocab_size: int) -> Float[Tensor, "steps"]:
    """c_t: the largest probability, over x_t and x0, that a token changes at step t (uniform noise; derived).

    c_t = (1 - beta_t) [alpha_{t-1} + (1 - alpha_{t-1})(V - 1)/V] / (1 - alpha_t), which is reached where x0 != x_t.
    """
    before, now = alphas[:-1], alphas[1:]
    change = (1 - step_survival(before, now)) * (before + (1 - before) * (vocab_size - 1) / vocab_size)
    return torch.where(now < 1, change / (1 - now).clamp(min=1e-300), 0.0).clamp(max=1)


def step_survival(before: Float[Tensor, "n"], now: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """beta_t = alpha_t / alpha_{t-1}; 1 where both are 0, since pure noise stays as it is."""
    return torch.where(before > 0, now / before.clamp(min=1e-300), 1.0)


def candidate_steps(
    free: Bool[Tensor, "batch length"],
    alphas: Float[Tensor, "steps_plus_1"],
    noise: MultinomialNoise,
    keys: Int[Tensor, "batch length"],
) -> Bool[Tensor, "batch steps length"]:
    """Where a token may change: at step t with probability c_t, independently, drawn before any call.

    Raises:
        InputError: if the noise law is not uniform.
    """
    if not noise.is_uniform:
        raise InputError("thinned_ancestral needs uniform noise over the whole vocabulary")
    bounds = change_bounds(alphas, noise.vocab_size).tolist()
    return torch.stack([free & (draw(keys, step) < bound) for step, bound in enumerate(bounds)], dim=1)


def thinned_ancestral(
    predict: Predict,
    x: Int[Tensor, "batch length"],
    candidates: Bool[Tensor, "batch steps length"],
    alphas: Float[Tensor, "steps_plus_1"],
    noise: MultinomialNoise,
    keys: Int[Tensor, "batch length"],
    on_call: OnCall = ignore,
) -> Sample:
    """The multinomial chain in law, with calls only where a token may change (derived, not in the paper).

    A token changes at step t with probability at most c_t whatever the network says. At its candidate steps x0 is
    drawn, the change is accepted with probability P(change | x_t, x0) / c_t, and the new token comes from the
    posterior on k != x_t. Rows are in the order of `busiest_first` of their candidate steps.
    """
    x, scores = x.clone(), no_scores(x)
    alphas, q = alphas.to(scores), noise.probabilities.to(scores)
    bounds = change_bounds(alphas, noise.vocab_size)
    steps = len(alphas) - 1
    for turn, (rows, t) in enumerate(event_turns(candidates.any(2))):
        due = candidates[torch.arange(rows, device=x.device), t - 1]
        row, position = due.nonzero(as_tuple=True)
        drawn = predict(x[:rows], t, row, position)
        step, current = t[row], x[row, position]
        law = posterior(current, drawn.tokens, alphas[step - 1], alphas[step], q)
        law.scatter_(1, current[:, None], 0.0)  # leaves P(change to k), whose sum is P(change)
        chance, choice = (draw(keys[row, position], steps + 2 * turn + offset) for offset in (0, 1))
        accept = chance * bounds[step - 1] < law.sum(1)
        x[row, position] = torch.where(accept, inverse_cdf(law, choice), current)
        scores[row, position] = drawn.scores
        on_call(rows, t, x)
    return x, scores


def rdm(
    predict: Predict,
    x: Int[Tensor, "batch length"],
    free: Bool[Tensor, "batch length"],
    keys: Int[Tensor, "batch length"],
    alphas: Float[Tensor, "steps_plus_1"],
    noise: Noise,
    *,
    shape: Literal["linear", "cosine"] = "cosine",
    conditional: bool = False,
    stochastic: float = 0.0,
    on_call: OnCall = ignore,
) -> Sample:
    """Reparameterised discrete diffusion, the paper's comparison: S calls, the lowest scores stay noise.

    At call i = 0..S-1 the floor(L r_i) lowest-scoring free positions are noise, r_i = 1 - (i+1)/S (linear) or
    cos(pi (i+1) / 2S) (cosine). A noise position outside this set is written; a restored one inside it returns to
    noise, which for multinomial noise is q(x_t | x_{t-1} = the present token): kept with probability beta_t, else new.

    Args:
        predict: one network call.
        x: initial noise.
        free: positions to be sampled.
        keys: of the random numbers.
        alphas: alpha_0..alpha_S.
        noise: what positions return to.
        shape: of r_i.
        conditional: return a restored position to noise only if its token was predicted again with a lower score
            (`cond`); else whenever it is among the lowest (`uncond`).
        stochastic: strength of Gumbel noise on the scores, scaled by r_i; 0 is deterministic.
        on_call: called after every call.
    """
    x, scores = x.clone(), no_scores(x)
    row, position = free.nonzero(as_tuple=True)
    key, waiting = keys[row, position], torch.ones_like(row, dtype=torch.bool)
    count, num_steps = free.sum(1), len(alphas) - 1
    stays = [0.0] * num_steps
    if isinstance(noise, MultinomialNoise):
        stays = step_survival(alphas[:-1], alphas[1:]).flip(0).tolist()
    for i in range(num_steps):
        t = torch.full((len(x),), num_steps - i, device=x.device)
        drawn, now = predict(x, t, row, position), x[row, position]
        ratio = _noise_ratio(shape, i, num_steps)
        ranking = drawn.scores
        if stochastic > 0:
            u = draw(key, 3 * i).clamp(min=1e-12)
            ranking = ranking - stochastic * ratio * torch.log(-torch.log(u))
        number = count - (count * ratio).floor().long()
        lowest = ~best(spread(ranking, row, position, x), number)[row, position]
        falls = lowest
        if conditional:
            falls = lowest & (waiting | ((drawn.tokens == now) & (drawn.scores < scores[row, position])))
        write = waiting & ~lowest
        fresh = torch.where(draw(key, 3 * i + 1) < stays[i], now, noise.sample(draw(key, 3 * i + 2)))
        x[row, position] = torch.where(write, drawn.tokens, torch.where(falls, fresh, now))
        kept = torch.where(write, drawn.scores, scores[row, position])
        scores[row, position] = torch.where(falls, 0.0, kept)
        waiting = falls
        on_call(len(x), t, x)
    return x, scores


def _noise_ratio(shape: str, i: int, num_steps: int) -> float:
    if shape not in ("linear", "cosine"):
        raise InputError(f"rdm shape must be linear or cosine, got {shape!r}")
    if i + 1 == num_steps:
        return 0.0
    return 1 - (i + 1) / num_steps if shape == "linear" else math.cos(math.pi * (i + 1) / (2 * num_steps))
