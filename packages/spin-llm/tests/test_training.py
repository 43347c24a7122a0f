"""The shared loop: what it minimises, that it resumes to the bit, and what it does when numbers go wrong."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from shared_core.errors import RunError
from spin_llm.config import Optimization
from spin_llm.models import Lora, add_lora, disable_dropout
from spin_llm.objectives import Demonstration, ScoredPair, dpo_objective, settled_loss, sft_objective, spin_objective
from spin_llm.opponent import score_pairs
from spin_llm.optimization import Step, batch_indices, rate_factor, train
from spin_llm.sequence_logprobs import NAIVE, Scoring
from torch import nn
from transformers import modeling_utils

PairsOf = Callable[..., list[ScoredPair]]


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("scoring", [Scoring(), NAIVE], ids=str)
def test_the_first_step_has_loss_log_2_and_no_rewards(
    llama: Callable[..., nn.Module], rank: int, scoring: Scoring, pairs_of: PairsOf, optimization: Optimization
) -> None:
    model = add_lora(llama(torch.float32), Lora(rank=rank))
    steps: list[Step] = []
    train(
        model, pairs_of(model), spin_objective(0.5), optimization, scoring, Accelerator(cpu=True), report=steps.append
    )
    first = steps[0].metrics
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert abs(first["rewards/real"]) < 1e-5
    assert abs(first["rewards/generated"]) < 1e-5
    assert len(steps) == 6
    assert steps[-1].metrics["loss"] < first["loss"]


def test_a_step_is_that_of_the_plain_loss_on_the_whole_batch(
    llama: Callable[..., nn.Module], pairs_of: PairsOf, optimization: Optimization
) -> None:
    model = llama(torch.float32)
    plain = copy.deepcopy(model)
    pairs = pairs_of(model)
    settings = replace(
        optimization, train_batch_size=10, per_device_train_batch_size=3, num_train_epochs=1, optim="rmsprop"
    )
    train(model, pairs, spin_objective(0.5), settings, Scoring(), Accelerator(cpu=True))
    from spin_llm.losses import spin_loss
    from spin_llm.packing import pack
    from spin_llm.sequence_logprobs import sequence_logprobs

    optimizer = torch.optim.RMSprop(plain.parameters(), lr=0.01 * rate_factor(0, 1, 0.1))
    found = sequence_logprobs(
        plain, pack([p.prompt for p in pairs], [p.responses for p in pairs], share_prompt=False)
    ).reshape(-1, 2)
    opponent = torch.tensor([[p.opponent_real, p.opponent_generated] for p in pairs])
    spin_loss(found[:, 0], found[:, 1], opponent[:, 0], opponent[:, 1], 0.5).mean().backward()
    nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    optimizer.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=2e-4
        )  # RMSProp's first step is a sign: noise is scaled up


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("optim", ["adamw", "rmsprop"])
def test_a_killed_training_ends_at_the_same_weights_bit_for_bit(
    llama: Callable[..., nn.Module],
    rank: int,
    optim: str,
    tmp_path: Path,
    pairs_of: PairsOf,
    optimization: Optimization,
) -> None:
    settings = replace(optimization, optim=optim)
    start = add_lora(llama(torch.float32), Lora(rank=rank))
    pairs = pairs_of(start)
    whole, parts = copy.deepcopy(start), copy.deepcopy(start)
    train(whole, pairs, spin_objective(0.5), settings, Scoring(), Accelerator(cpu=True), state=tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(step: Step) -> None:
        if step.number == 4:
            raise KilledError

    state = tmp_path / "state.safetensors"
    with pytest.raises(KilledError):
        train(parts, pairs, spin_objective(0.5), settings, Scoring(), Accelerator(cpu=True), state=state, report=kill)
    again = copy.deepcopy(start)
    steps: list[Step] = []
    train(
        again, pairs, spin_objective(0.5), settings, Scoring(), Accelerator(cpu=True), state=state, report=steps.append
    )
    assert [step.number for step in steps] == [4, 5, 6]
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(
    llama: Callable[..., nn.Module], tmp_path: Path, pairs_of: PairsOf, optimization: Optimization
) -> None:
    model = llama(torch.float32)
    pairs = pairs_of(model, 4)
    broken = [replace(pair, opponent_real=math.nan) if index == 0 else pair for index, pair in enumerate(pairs)]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RunError, match=r"loss nan .* at step 1: lower learning_rate"):
        train(
            model, broken, spin_objective(0.5), optimization, Scoring(), Accelerator(cpu=True), state=tmp_path / "state"
        )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("same", [(2, 5), range(10)], ids=["some", "all"])
def test_pairs_of_equal_responses_count_without_being_computed(
    llama: Callable[..., nn.Module], same: Sequence[int], pairs_of: PairsOf, optimization: Optimization
) -> None:
    start = llama(torch.float64)
    pairs = [
        replace(pair, generated=pair.real, opponent_generated=pair.opponent_real) if index in same else pair
        for index, pair in enumerate(pairs_of(start))
    ]
    found = []
    for settled in (lambda pair: None, settled_loss("logistic")):
        model, steps = copy.deepcopy(start), []
        train(
            model, pairs, spin_objective(0.5), optimization, Scoring(), Accelerator(cpu=True), report=steps.append,
            settled=settled,
        )  # fmt: skip
        found.append((model, [step.metrics["loss"] for step in steps]))
    (plain, losses), (short, same_losses) = found
    assert len(losses) == 6
    assert same_losses == pytest.approx(losses, abs=1e-6)
    for one, other in zip(plain.parameters(), short.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_the_bounded_variant_leaves_no_pair_out() -> None:
    pair = ScoredPair("0", [2], [3], [3], -1.0, -1.0)
    assert settled_loss("hinge")(pair) == 1.0
    assert settled_loss("hinge")(replace(pair, generated=[4])) is None
    assert settled_loss("nce")(pair) is None


def test_sft_lowers_the_nll_and_dpo_is_the_logistic_loss(
    llama: Callable[..., nn.Module], pairs_of: PairsOf, optimization: Optimization
) -> None:
    model = llama(torch.float32)
    pairs = pairs_of(model)
    items = [Demonstration(pair.id, pair.prompt, pair.real) for pair in pairs]
    steps: list[Step] = []
    train(model, items, sft_objective, optimization, Scoring(), Accelerator(cpu=True), report=steps.append)
    assert steps[-1].metrics["loss"] < steps[0].metrics["loss"]
    logprobs = torch.randn(10, 2)
    torch.testing.assert_close(dpo_objective(0.3)(logprobs, pairs)[0], spin_objective(0.3)(logprobs, pairs)[0])


def test_the_order_is_a_permutation_an_epoch() -> None:
    first = [index for step in range(3) for index in batch_indices(step, 10, 4, seed=0)]
    second = [index for step in range(3, 6) for index in batch_indices(step, 10, 4, seed=0)]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [rate_factor(step, 10, 0.2) for step in (0, 1, 2, 9)] == [1 / 3, 2 / 3, 1.0, 1 / 8]


@pytest.mark.parametrize("rank", [0, 4])
def test_gradient_checkpointing_changes_nothing_but_memory(
    make_model: Callable[..., nn.Module],
    rank: int,
    monkeypatch: pytest.MonkeyPatch,
    pairs_of: PairsOf,
    optimization: Optimization,
) -> None:
    start = add_lora(make_model(dtype=torch.float32), Lora(rank=rank))
    disable_dropout(start)  # GPT-2 has some, and checkpointing needs the training mode
    plain, sparing = copy.deepcopy(start), copy.deepcopy(start)
    pairs = pairs_of(start)
    train(plain, pairs, spin_objective(0.5), optimization, Scoring(), Accelerator(cpu=True))
    recomputed = 0
    real = modeling_utils.checkpoint

    def counted(*given: Any, **options: Any) -> Any:
        nonlocal recomputed
        recomputed += 1
        return real(*given, **options)

    monkeypatch.setattr(modeling_utils, "checkpoint", counted)
    settings = replace(optimization, gradient_checkpointing=True)
    train(sparing, pairs, spin_objective(0.5), settings, Scoring(), Accelerator(cpu=True))
    assert recomputed > 0
    for (name, one), other in zip(plain.named_parameters(), sparing.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("rank", [0, 4])
def test_in_bfloat16_player_and_opponent_are_rounded_alike(
    llama: Callable[..., nn.Module], rank: int, pairs_of: PairsOf, optimization: Optimization
) -> None:
    """Scored by the very computation that trains, so that the first margins are 0 although both are coarse."""
    model = add_lora(llama(torch.float32), Lora(rank=rank))
    fine = pairs_of(model)
    AcceleratorState._reset_state(reset_partial_state=True)  # one precision a process, else
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    pairs = score_pairs(model, fine, Scoring(), accelerator, 0, rows=10)
    coarse = [
        replace(pair, opponent_real=a, opponent_generated=b) for pair, (a, b) in zip(fine, pairs.tolist(), strict=True)
    ]
    distance = max(abs(a.opponent_real - b.opponent_real) for a, b in zip(fine, coarse, strict=True))
    assert 1e-4 < distance < 0.5
    steps: list[Step] = []
    settings = replace(optimization, train_batch_size=10, per_device_train_batch_size=10, precision="bfloat16")
    train(model, coarse, spin_objective(0.5), settings, Scoring(), accelerator, report=steps.append)
    assert steps[0].metrics["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert steps[-1].metrics["loss"] < steps[0].metrics["loss"]
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    AcceleratorState._reset_state(reset_partial_state=True)


class _Engine:
    """What accelerate's wrapper of DeepSpeed does with a loss: a step wherever gradients are to be synchronised."""

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.steps = 0

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()
        if self.accelerator.sync_gradients:
            self.steps += 1
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()


def test_where_the_engine_takes_the_steps_it_takes_one_a_batch(
    llama: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch, pairs_of: PairsOf, optimization: Optimization
) -> None:
    start = llama(torch.float32)
    pairs = pairs_of(start)
    plain, driven = copy.deepcopy(start), copy.deepcopy(start)
    train(plain, pairs, spin_objective(0.5), optimization, Scoring(), Accelerator(cpu=True))
    accelerator = Accelerator(cpu=True)
    engines: list[_Engine] = []

    def prepare(scorer: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        engines.append(_Engine(accelerator, scorer, optimizer))
        idle = copy.copy(optimizer)
        monkeypatch.setattr(idle, "step", lambda: None, raising=False)
        idle.param_groups = optimizer.param_groups
        return scorer, idle

    monkeypatch.setattr(accelerator, "prepare", prepare)
    monkeypatch.setattr(accelerator, "backward", lambda loss: engines[0].backward(loss))
    monkeypatch.setattr(accelerator, "clip_grad_norm_", lambda *given: None)
    train(driven, pairs, spin_objective(0.5), optimization, Scoring(), accelerator)
    assert engines[0].steps == 6
    for one, other in zip(plain.parameters(), driven.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
