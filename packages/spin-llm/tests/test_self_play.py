"""Algorithm 1 end to end on a small model: books, references, and a kill in every phase."""

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
from spin_llm.iteration import Iteration
from spin_llm.models import Lora, add_lora, fingerprint
from spin_llm.opponent import score_pairs
from spin_llm.records import Example
from spin_llm.rendering import Renderer, TokenLimits, Tokens, tokenize
from spin_llm.sampling import Sampler
from spin_llm.self_play import SelfPlay
from torch import nn

CONFIG = SPINConfig(
    iterations=2,
    beta=[1.0],
    optimization=Optimization(
        optim="adamw", learning_rate=[0.005], num_train_epochs=1, train_batch_size=8, per_device_train_batch_size=4,
        save_steps=1,
    ),
    sampler=Sampler(max_new_tokens=6, batch_size=7),
    limits=TokenLimits(24, 12),
    lora=Lora(rank=4),
)  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tokenizer: Any, examples: list[Example]) -> list[Tokens]:
    return tokenize(examples, Renderer(tokenizer), CONFIG.limits)


@pytest.fixture(scope="module")
def play(llama: Callable[..., nn.Module], tokenizer: Any, tokens: list[Tokens]) -> Callable[..., SelfPlay]:
    """Make a self-play over the toy data; the model starts the same each time."""

    def make(out: Path, config: SPINConfig = CONFIG, **options: Any) -> SelfPlay:
        model = add_lora(llama(torch.float32, vocabulary=len(tokenizer)), config.lora)
        accelerator = Accelerator(cpu=True)
        return SelfPlay(
            model, tokenizer, tokens[8:], config, out, held_out=tokens[:8], accelerator=accelerator, **options
        )

    return make


@pytest.fixture(scope="module")
def whole(play: Callable[..., SelfPlay], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SelfPlay]:
    """A run that nothing disturbed: its folder, and the game at its end."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    game = play(folder)
    game.run()
    return folder, game


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize(("rank", "loss_type"), [(0, "logistic"), (4, "logistic"), (4, "nce")])
def test_every_iteration_starts_from_its_own_opponent(
    play: Callable[..., SelfPlay], tmp_path: Path, rank: int, loss_type: str
) -> None:
    """The wrong reference (the adapter switched off is theta_0, not theta_t) would show in the first loss."""
    optimization = replace(CONFIG.optimization, learning_rate=[0.005 if rank else 0.001])
    config = replace(CONFIG, iterations=3, lora=Lora(rank=rank), loss_type=loss_type, optimization=optimization)
    results = play(tmp_path / "run", config).run()
    level = math.log(2) * (2 if loss_type == "nce" else 1)
    assert [result.first["loss"] for result in results] == pytest.approx([level] * 3, abs=1e-5)
    assert all(abs(result.first["rewards/real"]) < 1e-4 for result in results)
    assert [result.pairs for result in results] == [32, 64, 64]


def test_mixed_pairs_are_scored_by_this_iterations_opponent(whole: tuple[Path, SelfPlay]) -> None:
    out, game = whole
    first = load_file(out / "iter_0/opponent.safetensors")["opponent"]
    mixed = load_file(out / "iter_1/opponent.safetensors")["opponent"]
    old = read_pairs(out / "iter_0/generated.jsonl")
    assert len(mixed) == 2 * len(first)
    game.become(out / "iter_0/model")
    again = score_pairs(game.model, old, game.scoring, game.accelerator, 0, rows=3)
    torch.testing.assert_close(mixed[len(first) :], again, rtol=0, atol=1e-5)
    assert (mixed[len(first) :] - first).abs().max() > 1e-3


def test_the_opponents_responses_are_samples_of_the_model_that_training_starts_from(
    whole: tuple[Path, SelfPlay],
) -> None:
    """Recorded log-probabilities (while sampling) equal those of scoring: same template, same tokens, same weights."""
    for number in range(2):
        folder = whole[0] / f"iter_{number}"
        rows = read_pairs(folder / "generated.jsonl")
        scored = load_file(folder / "opponent.safetensors")["opponent"][: len(rows), 1]
        torch.testing.assert_close(
            scored, torch.tensor([row.logprob for row in rows], dtype=scored.dtype), rtol=0, atol=1e-4
        )


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", ["sample_batch", "score_pairs", "save_state", "save_model", "discrimination"])
def test_killed_in_any_phase_the_run_ends_at_the_same_weights(
    play: Callable[..., SelfPlay],
    whole: tuple[Path, SelfPlay],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    out = tmp_path / "parts"
    homes: dict[str, Any] = {
        "sample_batch": __import__("spin_llm.generation", fromlist=["x"]),
        "score_pairs": self_play,
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
    for attempt in range(20):
        left = 3 * attempt  # at the first call, then ever later
        try:
            play(out).run()
            break
        except KilledError:
            deaths += 1
    assert deaths > 0
    monkeypatch.undo()
    for number in range(2):
        one, other = (weights(folder / f"iter_{number}/model") for folder in (whole[0], out))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), number
        one_log, other_log = (folder / f"iter_{number}/metrics.jsonl" for folder in (whole[0], out))
        assert one_log.read_text() == other_log.read_text()
    assert not list(out.rglob("*.part"))


def test_responses_of_another_opponent_are_refused(whole: tuple[Path, SelfPlay]) -> None:
    out, game = whole
    check_opponent(out / "iter_0", json.loads((out / "iter_0/generated.json").read_text())["opponent"])
    game.become(out / "iter_1/model")
    with pytest.raises(InputError, match="was sampled from the model"):
        check_opponent(out / "iter_0", fingerprint(game.model))


def test_a_folder_keeps_to_one_configuration_and_one_data_set(
    play: Callable[..., SelfPlay], whole: tuple[Path, SelfPlay], tokens: list[Tokens]
) -> None:
    folder, _ = whole
    with pytest.raises(InputError, match=r"another run: beta was \[1.0\], is \[2.0\]"):
        play(folder, replace(CONFIG, beta=[2.0])).run()
    with pytest.raises(InputError, match=r"optimization.learning_rate was \[0.005\], is \[0.1\]"):
        play(folder, replace(CONFIG, optimization=replace(CONFIG.optimization, learning_rate=[0.1]))).run()
    other = play(folder)
    other.examples = [replace(tokens[8], real=tokens[9].real), *tokens[9:]]
    with pytest.raises(InputError, match="the train examples are not the same"):
        other.run()


def test_a_finished_run_with_one_held_out_prompt_is_read_again(
    play: Callable[..., SelfPlay], tmp_path: Path, tokens: list[Tokens]
) -> None:
    for _ in range(2):
        game = play(tmp_path / "run", replace(CONFIG, iterations=1))
        game.held_out = tokens[:1]
        (result,) = game.run()
        assert math.isnan(result.evaluation["nll_per_token"]["error"])
        assert math.isnan(result.accuracy["error"])


def test_the_mixture_opponent_starts_at_log_2_too(play: Callable[..., SelfPlay], tmp_path: Path) -> None:
    """In iteration 0 the base model is the opponent; later the mixture's margin is a constant of the pair, not 0."""
    results = play(tmp_path / "run", replace(CONFIG, base_weight=0.3, iterations=2)).run()
    assert results[0].first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert abs(results[1].first["loss"] - math.log(2)) > 1e-5


def test_a_run_that_gets_worse_stops_and_names_the_best_player(
    play: Callable[..., SelfPlay], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from spin_llm.report import best_player

    # lambda 0.01 with a large rate overshoots at once
    spoilt = replace(CONFIG.optimization, learning_rate=[0.1], num_train_epochs=6)
    config = replace(CONFIG, iterations=3, beta=[0.01], optimization=spoilt, stop_when_worse=True)
    results = play(tmp_path / "run", config).run()
    assert len(results) == 1
    assert "became less likely in iteration 0" in caplog.text
    assert best_player(tmp_path / "run", results) == "start"


def test_a_callback_sees_every_iteration_and_without_mixing_each_has_its_own_pairs_only(
    play: Callable[..., SelfPlay], tmp_path: Path
) -> None:
    seen: list[Iteration] = []
    play(tmp_path / "run", replace(CONFIG, mix_previous=False), after=seen.append).run()
    assert [result.number for result in seen] == [0, 1]
    assert [result.pairs for result in seen] == [32, 32]


def test_saved_adapters_load_in_peft(whole: tuple[Path, SelfPlay], llama: Callable[..., nn.Module]) -> None:
    from peft import PeftModel

    out, game = whole
    game.become(out / "iter_1/model")
    fresh = PeftModel.from_pretrained(llama(torch.float32, vocabulary=len(game.tokenizer)), str(out / "iter_1/model"))
    ids = torch.arange(5)[None]
    torch.testing.assert_close(fresh(ids).logits, game.model(ids).logits)
