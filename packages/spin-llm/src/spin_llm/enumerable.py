"""A small causal transformer all of whose responses can be listed: self-play with a network, and nothing estimated."""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spin_llm.losses import spin_loss
from spin_llm.packing import PackedBatch, pack
from spin_llm.sequence_logprobs import Scoring, sequence_logprobs
from spin_llm.tabular import Table, divergence, population_loss


@dataclass(frozen=True)
class World:
    """Prompts of one token, responses of fixed length over few symbols.

    Args:
        prompts: how many.
        symbols: of a response.
        length: tokens of a response; there are symbols^length.
    """

    prompts: int = 4
    symbols: int = 4
    length: int = 4

    def batch(self) -> PackedBatch:
        """Every response to every prompt, one row each."""
        every = [list(tokens) for tokens in itertools.product(range(self.symbols), repeat=self.length)]
        asked = [[self.symbols + prompt] for prompt in range(self.prompts)]
        return pack(asked, [every] * self.prompts, share_prompt=False)


def make_player(world: World, seed: int, width: int = 32, layers: int = 2) -> nn.Module:
    """A Llama of two layers; its law over symbols of a response is renormalised by `law`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=world.symbols + world.prompts, hidden_size=width, intermediate_size=2 * width,
            num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=16,
            initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()


def law(model: nn.Module, world: World, batch: PackedBatch, sharpness: float = 1.0) -> Table:
    """log p(y|x) of every response, in float64; prompts' tokens, which no response holds, are conditioned away."""
    scores = sequence_logprobs(model, batch, Scoring(share_prompt=False)).double()
    return (sharpness * scores.reshape(world.prompts, -1)).log_softmax(-1)


@dataclass(frozen=True)
class Problem:
    """Data, and the player that SFT stopped early makes.

    Args:
        world: prompts and responses.
        data: log p_data.
        start: the weak player theta_0.
        batch: every response to every prompt.
    """

    world: World
    data: Table
    start: nn.Module
    batch: PackedBatch


def weak_player(world: World, seed: int, steps: int = 60, rate: float = 3e-3) -> Problem:
    """p_data is another network's law, sharpened; the player takes so many Adam steps on its exact likelihood."""
    batch = world.batch()
    with torch.no_grad():
        data = law(make_player(world, 1000 + seed), world, batch, sharpness=1.5)
    player = make_player(world, seed)
    optimizer = torch.optim.Adam(player.parameters(), lr=rate)
    for _ in range(steps):
        _descend(optimizer, -(data.exp() * law(player, world, batch)).sum(-1).mean())
    return Problem(world, data, player, batch)


def play_population(problem: Problem, beta: float, iterations: int, steps: int, rate: float = 3e-3) -> Iterator[float]:
    """KL(p_data || p_t) after each iteration of self-play on the population loss (Adam, its rate falling to 0)."""
    player, batch = copy.deepcopy(problem.start), problem.batch
    for _ in range(iterations):
        with torch.no_grad():
            opponent = law(player, problem.world, batch)
        optimizer = torch.optim.Adam(player.parameters(), lr=rate)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            loss = population_loss(law(player, problem.world, batch), opponent, problem.data, beta)
            _descend(optimizer, loss)
        yield distance(problem, player)


def play_sampled(
    problem: Problem, beta: float, iterations: int, steps: int, pairs: int, seed: int, rate: float = 1e-3
) -> Iterator[float]:
    """KL after each iteration of Algorithm 1 on a finite sample: real responses fixed, the opponent's drawn anew."""
    draw = torch.Generator().manual_seed(seed)
    real = sample(problem.data, pairs, draw)
    player, batch = copy.deepcopy(problem.start), problem.batch
    for _ in range(iterations):
        with torch.no_grad():
            opponent = law(player, problem.world, batch)
        generated = sample(opponent, pairs, draw)
        optimizer = torch.optim.Adam(player.parameters(), lr=rate)
        for _ in range(steps):
            policy = law(player, problem.world, batch)
            scores = [table.gather(1, index) for table in (policy, opponent) for index in (real, generated)]
            _descend(optimizer, spin_loss(*scores, beta).mean())
        yield distance(problem, player)


def continue_sft(
    problem: Problem, iterations: int, steps: int, pairs: int, seed: int, rate: float = 1e-3
) -> Iterator[float]:
    """KL after as many steps of SFT on the same real responses."""
    real = sample(problem.data, pairs, torch.Generator().manual_seed(seed))
    player, batch = copy.deepcopy(problem.start), problem.batch
    for _ in range(iterations):
        optimizer = torch.optim.Adam(player.parameters(), lr=rate)
        for _ in range(steps):
            _descend(optimizer, -law(player, problem.world, batch).gather(1, real).mean())
        yield distance(problem, player)


@torch.no_grad()
def distance(problem: Problem, player: nn.Module) -> float:
    """KL(p_data || p), the mean over prompts, in nats."""
    return float(divergence(problem.data, law(player, problem.world, problem.batch)))


def sample(table: Table, pairs: int, generator: torch.Generator) -> Tensor:
    """Indices of responses, pairs / prompts for each prompt."""
    return torch.multinomial(table.exp(), pairs // len(table), replacement=True, generator=generator)


def _descend(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""]) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
