"""The study of the real model, here with a small one in its place."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_core.files import jsonable
from spin_llm import docstring_study
from spin_llm.config import preset
from spin_llm.docstring_study import Study, docstring_split, ends_with_period, first_word_distance, study
from spin_llm.docstrings import module_of
from spin_llm.evaluation import Evaluation
from spin_llm.models import Lora
from torch import nn


def test_no_module_is_in_both_parts_and_seeds_split_differently() -> None:
    train, test = docstring_split(50, 20, seed=0)
    assert (len(train), len(test)) == (50, 20)
    assert not {module_of(item) for item in train} & {module_of(item) for item in test}
    assert [item.id for item in test] == [item.id for item in docstring_split(50, 20, seed=0)[1]]
    assert [item.id for item in test] != [item.id for item in docstring_split(50, 20, seed=1)[1]]


def test_what_samples_share_with_the_real_responses() -> None:
    assert ends_with_period([["Is it. ", "It is"], ["Yes."]]) == [0.5, 1.0]
    assert first_word_distance([["Return a.", "return b."]], ["Return c."]) == 0
    assert first_word_distance([["Return a.", "Test b."]], ["Return c.", "Make d."]) == pytest.approx(0.5)


def test_every_player_of_a_seed_is_evaluated_once_on_the_same_prompts(
    llama: Callable[..., nn.Module], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> tuple[nn.Module, Any]:
        return llama(torch.float32, vocabulary=len(tokenizer), max_position_embeddings=128), tokenizer

    monkeypatch.setattr(docstring_study, "load_model", load)
    settings = replace(preset("small").optimization, learning_rate=[2e-3])
    small = replace(preset("small"), iterations=2, lora=Lora(rank=2), optimization=settings)

    def play() -> Study:
        return study(tmp_path, 0, torch.device("cpu"), train=12, held_out=6, config=small)

    one = play()
    assert list(one.players) == [
        "theta_0", "SPIN iteration 0", "SPIN iteration 1", "SFT, steps of iteration 0", "SFT, steps of iterations 0..1",
    ]  # fmt: skip
    assert len({tuple(player.prompts) for player in one.players.values()}) == 1
    assert len({tuple(player.values["nll_per_token"]) for player in one.players.values()}) == 5
    written = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    assert play() == one
    assert written == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}


def test_the_table_has_a_row_a_player_and_paired_differences_by_seed() -> None:
    def player(nll: float) -> Evaluation:
        values = {"nll_per_token": [nll, nll + 2], "rouge_l": [0.5, 0.5], "finished": [1.0, 0.0], "tokens": [3.0, 5.0]}
        return Evaluation(["a", "b"], values, [-1.0, -1.0], [[1], [1]], [-1.0, -1.0], [["Is a."], ["Is"]])

    names = ["theta_0", "SPIN iteration 0", "SFT, steps of iteration 0"]
    studies = [Study(dict(zip(names, map(player, nlls), strict=True)), ["Is c.", "Has d."], 1)
               for nlls in ([3.0, 2.0, 1.5], [3.0, 2.5, 2.75])]  # fmt: skip
    table = "\n".join(docstring_study.study_table(studies))
    assert "mean over 2 seeds" in table
    assert "| SPIN iteration 0 | 3.250 (3.000 .. 3.500) | 0.500 (0.500 .. 0.500) |" in table
    assert "| SPIN iteration 0 - theta_0 | -1.0000 +- 0.0000 | -0.5000 +- 0.0000 |" in table
    assert "| SPIN iteration 0 - SFT, steps of iteration 0 | +0.5000 +- 0.0000 | -0.2500 +- 0.0000 |" in table
    summary = jsonable(docstring_study.study_summary(dict(enumerate(studies))))
    assert [row["seed"] for row in summary["seeds"]] == [0, 1]
    assert summary["seeds"][0]["differences"][1]["nll_per_token"] == {"mean": 0.5, "error": 0.0}
    assert summary["seeds"][0]["players"]["theta_0"]["ends_with_period"]["mean"] == 0.5
