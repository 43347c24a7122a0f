"""Algorithm 1 end to end on a small model: books, references, and a kill in every phase."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from shared_core.errors import InputError
from spin_llm import self_play
from spin_llm.config import Optimization, SPINConfig
from spin_llm.generation import check_opponent, read_pairs
from spin_llm.models import Lora, add_lora, fingerprint
from spin_llm.records import Example
from spin_llm.rendering import Renderer, TokenLimits, Tokens, tokenize
from spin_llm.sampling import Sampler
from spin_llm.self_play import Iteration, SelfPlay
from torch import nn

CONFIG = SPINConfig(
    iterations=3,
    beta=[1.0],
    optimization=Optimization(
        optim="adamw", learning_rate=[0.005], num_train_epochs=1, train_batch_size=8, per_device_train_batch_size=4,
        save_steps=1,
    ),
    sampler=Sampler(max_new_tokens=6, batch_size=7),
    limits=TokenLimits(24, 12),
    lora=Lora(rank=4),
)  # fmt: skip


@pytest.fixture
def tokens(tokenizer: Any, examples: list[Example]) -> list[Tokens]:
    return tokenize(examples, Renderer(tokenizer), CONFIG.limits)


@pytest.fixture
def play(llama: Callable[..., nn.Module], tokenizer: Any, tokens: list[Tokens]) -> Callable[..., SelfPlay]:
    """Make a self-play over the toy data; the model starts the same each time."""

    def make(out: Path, config: SPINConfig = CONFIG, **options: Any) -> SelfPlay:
        model = add_lora(llama(torch.float32, vocabulary=len(tokenizer)), config.lora)
        accelerator = Accelerator(cpu=True)
        return SelfPlay(
            model, tokenizer, tokens[8:], config, out, held_out=tokens[:8], accelerator=accelerator, **options
        )

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("loss_type", ["logistic", "nce"])
def test_every_iteration_starts_from_its_own_opponent(
    play: Callable[..., SelfPlay], tmp_path: Path, rank: int, loss_type: str
) -> None:
    """The wrong reference (the adapter switched off is theta_0, not theta_t) would show in the first loss."""
    optimization = replace(CONFIG.optimization, learning_rate=[0.005 if rank else 0.001])
    config = replace(CONFIG, lora=Lora(rank=rank), loss_type=loss_type, optimization=optimization)
    results = play(tmp_path / "run", config).run()
    level = math.log(2) * (2 if loss_type == "nce" else 1)
    assert [result.first["loss"] for result in results] == pytest.approx([level] * 3, abs=1e-5)
    assert all(abs(result.first["rewards/real"]) < 1e-4 for result in results)
    assert [result.pairs for result in results] == [32, 64, 64]


def test_mixed_pairs_are_scored_by_this_iterations_opponent(play: Callable[..., SelfPlay], tmp_path: Path) -> None:
    game = play(tmp_path / "run")
    game.run()
    first = load_file(tmp_path / "run/iter_0/opponent.safetensors")["opponent"]
    mixed = load_file(tmp_path / "run/iter_1/opponent.safetensors")["opponent"]
    old = read_pairs(tmp_path / "run/iter_0/generated.jsonl")
    assert len(mixed) == 2 * len(first)
    game._become(tmp_path / "run/iter_0/model")
    torch.testing.assert_close(mixed[len(first) :], game._scores(old), rtol=0, atol=1e-5)
    assert (mixed[len(first) :] - first).abs().max() > 1e-3


def test_without_mixing_an_iteration_has_its_own_pairs_only(play: Callable[..., SelfPlay], tmp_path: Path) -> None:
    results = play(tmp_path / "run", replace(CONFIG, mix_previous=False)).run()
    assert [result.pairs for result in results] == [32, 32, 32]


def test_the_opponents_responses_are_samples_of_the_model_that_training_starts_from(
    play: Callable[..., SelfPlay], tmp_path: Path
) -> None:
    """Recorded log-probabilities (while sampling) equal those of scoring: same template, same tokens, same weights."""
    play(tmp_path / "run").run()
    for number in range(3):
        folder = tmp_path / f"run/iter_{number}"
        rows = read_pairs(folder / "generated.jsonl")
        scored = load_file(folder / "opponent.safetensors")["opponent"][: len(rows), 1]
        torch.testing.assert_close(
            scored, torch.tensor([row.logprob for row in rows], dtype=scored.dtype), rtol=0, atol=1e-4
        )


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", ["sample_batch", "_scores", "save_state", "save_model", "discrimination"])
def test_killed_in_any_phase_the_run_ends_at_the_same_weights(
    play: Callable[..., SelfPlay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    play(tmp_path / "whole").run()
    out = tmp_path / "parts"
    homes: dict[str, Any] = {
        "sample_batch": __import__("spin_llm.generation", fromlist=["x"]),
        "_scores": SelfPlay,
        "save_state": __import__("spin_llm.optimization", fromlist=["x"]),
        "save_model": self_play,
        "discrimination": self_play,
    }
    real = getattr(homes[name], name)
    left = 0

    def dying(*given: Any, **options: Any) -> Any:
        nonlocal left
        if left == 0:
            raise KilledError
        left -= 1
        return real(*given, **options)

    monkeypatch.setattr(homes[name], name, dying)
    deaths = 0
    for attempt in range(60):
        left = attempt % 5 + (attempt > 2) * 4
        try:
            play(out).run()
            break
        except KilledError:
            deaths += 1
    assert deaths > 0
    monkeypatch.undo()
    for number in range(3):
        one, other = (weights(folder / f"iter_{number}/model") for folder in (tmp_path / "whole", out))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), number
        assert (tmp_path / f"whole/iter_{number}/metrics.jsonl").read_text() == (
            out / f"iter_{number}/metrics.jsonl"
        ).read_text()
    assert not list(out.rglob("*.part"))


def test_responses_of_another_opponent_are_refused(play: Callable[..., SelfPlay], tmp_path: Path) -> None:
    game = play(tmp_path / "run", replace(CONFIG, iterations=1))
    game.run()
    check_opponent(
        tmp_path / "run/iter_0", json.loads((tmp_path / "run/iter_0/generated.json").read_text())["opponent"]
    )
    with pytest.raises(InputError, match="was sampled from the model"):
        check_opponent(tmp_path / "run/iter_0", fingerprint(game.model))


def test_the_mixture_opponent_starts_at_log_2_too(play: Callable[..., SelfPlay], tmp_path: Path) -> None:
    """In iteration 0 the base model is the opponent; later the mixture's margin is a constant of the pair, not 0."""
    results = play(tmp_path / "run", replace(CONFIG, base_weight=0.3, iterations=2)).run()
    assert results[0].first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert abs(results[1].first["loss"] - math.log(2)) > 1e-5


def test_a_callback_sees_every_iteration(play: Callable[..., SelfPlay], tmp_path: Path) -> None:
    seen: list[Iteration] = []
    play(tmp_path / "run", after=seen.append).run()
    assert [result.number for result in seen] == [0, 1, 2]


def test_saved_adapters_load_in_peft(
    play: Callable[..., SelfPlay], tmp_path: Path, llama: Callable[..., nn.Module]
) -> None:
    from peft import PeftModel

    game = play(tmp_path / "run", replace(CONFIG, iterations=1))
    game.run()
    fresh = PeftModel.from_pretrained(
        copy.deepcopy(llama(torch.float32, vocabulary=len(game.tokenizer))), str(tmp_path / "run/iter_0/model")
    )
    ids = torch.arange(5)[None]
    torch.testing.assert_close(fresh(ids).logits, game.model(ids).logits)
