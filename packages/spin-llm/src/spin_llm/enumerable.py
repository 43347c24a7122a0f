"""A small causal transformer all of whose responses can be listed: self-play with a network, and nothing estimated."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spin_llm.losses import spin_loss
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


@dataclass(frozen=True)
class PrefixTree:
    """Every prefix of every response once: a row of tokens for each prompt, each of which sees its ancestors only.

    The prompt's token is the root, and its children are the first symbols. A level after the other, so that the n-th
    node of a level is the n-th prefix of that length in the order of the responses.

    Args:
        input_ids: [prompt, node].
        position_ids: the depth of each node.
        attention_mask: additive, [prompt, 1, node, node].
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor

    @classmethod
    def of(cls, world: World) -> "PrefixTree":
        """The tree of a world, without its leaves: the last symbols are predicted and never read."""
        tokens, depths, parents = [0], [0], [-1]
        level = [0]
        for depth in range(1, world.length):
            children = []
            for parent in level:
                for symbol in range(world.symbols):
                    children.append(len(tokens))
                    tokens, depths, parents = [*tokens, symbol], [*depths, depth], [*parents, parent]
            level = children
        seen = torch.eye(len(tokens), dtype=torch.bool)
        for node, parent in enumerate(parents[1:], start=1):
            seen[node] |= seen[parent]
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        ids = torch.tensor(tokens).repeat(world.prompts, 1)
        ids[:, 0] = world.symbols + torch.arange(world.prompts)
        return cls(ids, torch.tensor(depths).expand_as(ids), mask.expand(world.prompts, 1, -1, -1))


def make_player(world: World, seed: int, width: int = 32, layers: int = 2) -> nn.Module:
    """A Llama of two layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=world.symbols + world.prompts, hidden_size=width, intermediate_size=2 * width,
            num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=16,
            initializer_range=0.1, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()


def law(model: nn.Module, world: World, tree: PrefixTree, sharpness: float = 1.0) -> Table:
    """log p(y|x) of every response, in float64; the softmax runs over symbols, which are all that a response holds."""
    logits = model(**vars(tree), use_cache=False).logits[..., : world.symbols].double()
    steps = (sharpness * logits).log_softmax(-1)
    table, start = steps.new_zeros(world.prompts, 1), 0
    for depth in range(world.length):
        count = world.symbols**depth
        table = (table[..., None] + steps[:, start : start + count]).flatten(1)
        start += count
    return table


@dataclass(frozen=True)
class Problem:
    """Data, and the player that SFT stopped early makes.

    Args:
        world: prompts and responses.
        data: log p_data.
        start: the weak player theta_0.
        tree: every prefix of every response.
    """

    world: World
    data: Table
    start: nn.Module
    tree: PrefixTree

    def law(self, player: nn.Module) -> Table:
        """log p(y|x) of a player."""
        return law(player, self.world, self.tree)


def weak_player(world: World, seed: int, steps: int = 60, rate: float = 1e-3) -> Problem:
    """p_data is another network's law, sharpened; the player takes so many Adam steps on its exact likelihood."""
    tree = PrefixTree.of(world)
    with torch.no_grad():
        data = law(make_player(world, 1000 + seed), world, tree, sharpness=5.0)
    problem = Problem(world, data, make_player(world, seed), tree)
    optimizer = torch.optim.Adam(problem.start.parameters(), lr=rate)
    for _ in range(steps):
        _descend(optimizer, -(data.exp() * problem.law(problem.start)).sum(-1).mean())
    return problem


def play_population(problem: Problem, beta: float, iterations: int, steps: int, rate: float = 3e-3) -> Iterator[float]:
    """KL(p_data || p_t) after each iteration of self-play on the population loss (Adam, its rate falling to 0)."""
    player = copy.deepcopy(problem.start)
    for _ in range(iterations):
        opponent = problem.law(player).detach()
        optimizer = torch.optim.Adam(player.parameters(), lr=rate)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            _descend(optimizer, population_loss(problem.law(player), opponent, problem.data, beta))
        yield distance(problem, player)


def play_sampled(
    problem: Problem, beta: float, iterations: int, steps: int, pairs: int, seed: int, rate: float = 1e-3
) -> Iterator[float]:
    """KL after each iteration of Algorithm 1 on a finite sample: real responses fixed, the opponent's drawn anew."""
    draw = torch.Generator().manual_seed(seed)
    real = sample(problem.data, pairs, draw)
    player = copy.deepcopy(problem.start)
    for _ in range(iterations):
        opponent = problem.law(player).detach()
        generated = sample(opponent, pairs, draw)
        optimizer = torch.optim.Adam(player.parameters(), lr=rate)
        for _ in range(steps):
            policy = problem.law(player)
            loss = spin_loss(
                policy.gather(1, real), policy.gather(1, generated), opponent.gather(1, real),
                opponent.gather(1, generated), beta,
            )  # fmt: skip
            _descend(optimizer, loss.mean())
        yield distance(problem, player)


def continue_sft(
    problem: Problem, iterations: int, steps: int, pairs: int, seed: int, rate: float = 1e-3
) -> Iterator[float]:
    """KL after as many steps of SFT on the same real responses."""
    real = sample(problem.data, pairs, torch.Generator().manual_seed(seed))
    player = copy.deepcopy(problem.start)
    for _ in range(iterations):
        optimizer = torch.optim.Adam(player.parameters(), lr=rate)
        for _ in range(steps):
            _descend(optimizer, -problem.law(player).gather(1, real).mean())
        yield distance(problem, player)


@torch.no_grad()
def distance(problem: Problem, player: nn.Module) -> float:
    """KL(p_data || p), the mean over prompts, in nats."""
    return float(divergence(problem.data, problem.law(player)))


def sample(table: Table, pairs: int, generator: torch.Generator) -> Tensor:
    """Indices of responses, pairs / prompts for each prompt."""
    return torch.multinomial(table.exp(), pairs // len(table), replacement=True, generator=generator)


def _descend(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""]) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
