"""Recovering a planted support from tables, the baselines, and bad tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from parity_sgd.baselines import brute_force, gaussian_elimination, sgd_relu_hinge, sgd_same_network
from parity_sgd.fitting import fit_file, fit_support, independence_p_value
from parity_sgd.parity import SparseParity
from parity_sgd.searches import FitSettings
from parity_sgd.tables import read_table, write_table
from shared_core.errors import InputError


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_support_planted_with_other_tools_is_recovered(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2, size=(8000, 20))
    label = bits[:, 3] ^ bits[:, 8] ^ bits[:, 17] ^ 1 ^ (rng.random(8000) < 0.1)
    frame = pd.DataFrame(bits, columns=[f"gene_{j}" for j in range(20)])
    frame.insert(0, "sick", label)
    path = tmp_path / f"table.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    (found,) = fit_file(path, 3, label="sick")
    assert found.columns == ("gene_3", "gene_8", "gene_17")
    assert found.sign == -1
    assert found.recovered
    assert found.agreement_low < 0.9 < found.agreement_high
    assert found.p_value < 1e-6
    assert found.held_out == 1600


def test_labels_without_a_parity_are_not_confirmed() -> None:
    generator = torch.Generator().manual_seed(0)
    X, _ = SparseParity(12, k=2).sample(3000)
    y = torch.randint(0, 2, (3000,), generator=generator).float() * 2 - 1
    for method in ("sign-sgd", "brute-force"):
        found = fit_support(X, y, 2, method=method)  # type: ignore[arg-type]
        assert not found.recovered
        assert found.p_value > 1e-4


def test_agreement_by_frequencies_alone_confirms_nothing() -> None:
    rng = np.random.default_rng(1)
    X = torch.from_numpy(np.where(rng.random((4000, 8)) < 0.02, -1.0, 1.0)).float()
    y = torch.from_numpy(np.where(rng.random(4000) < 0.05, -1.0, 1.0)).float()  # independent of every column
    found = fit_support(X, y, 2, method="brute-force")
    assert found.agreement > 0.85
    assert not found.recovered
    assert found.p_value > 1e-3


def test_a_column_that_is_not_needed_is_named() -> None:
    rng = np.random.default_rng(1)
    X, y = SparseParity(8, [1]).sample(4000)
    X[:, 5] = torch.from_numpy(np.where(rng.random(4000) < 0.02, -1.0, 1.0))  # nearly constant
    found = fit_support(X, y, 2, method="brute-force")
    assert found.support == (1, 5)
    assert "without 'x5' the others agree in 1.0000: it may not belong" in found.note


@pytest.mark.parametrize("sign", [1, -1])
def test_elimination_solves_clean_labels_with_few_rows(sign: int) -> None:
    X, y = SparseParity(40, [3, 9, 30, 31], seed=1).sample(60)
    assert gaussian_elimination(X, sign * y) == ((3, 9, 30, 31), sign)


def test_elimination_knows_when_it_cannot() -> None:
    X, y = SparseParity(20, [3, 9], seed=1).sample(60)
    y[0] *= -1
    assert gaussian_elimination(X, y) is None
    assert gaussian_elimination(X[:10], y[:10]) is None


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_brute_force_finds_the_strongest_support(k: int) -> None:
    support = [2, 5, 6, 9][:k]
    X, y = SparseParity(11, support, noise=0.2, seed=2).sample(2000)
    found, correlation = brute_force(X, y, k)
    assert found == tuple(support)
    assert correlation == pytest.approx(0.6, abs=0.1)


def test_brute_force_refuses_the_impossible() -> None:
    X, y = SparseParity(300, k=2).sample(20)
    with pytest.raises(InputError, match="supports is beyond"):
        brute_force(X, y, 6)


def test_fisher_by_hand() -> None:
    parity, y = torch.tensor([1.0, 1, -1, -1]), torch.tensor([1.0, 1, -1, -1])
    assert independence_p_value(parity, y) == pytest.approx(1 / 6)
    assert independence_p_value(parity, -y) == pytest.approx(1)


def test_every_method_answers_on_the_same_split() -> None:
    X, y = SparseParity(10, [1, 6], seed=0).sample(2000)
    for method in ("sign-sgd", "elimination", "brute-force", "sgd"):
        found = fit_support(X, y, 2, method=method)  # type: ignore[arg-type]
        assert found.support == (1, 6), method
        assert found.agreement == 1


def test_plain_sgd_diverges_at_the_learning_rate_of_sign_sgd() -> None:
    X, y = SparseParity(16, k=3).sample(4000)
    W, _ = sgd_same_network(X, y, 3, width=32, batch=1000, steps=60, learning_rate=0.1, decay=1.0)
    assert not torch.isfinite(W).all()


def test_relu_baseline_learns_a_small_parity() -> None:
    X, y = SparseParity(8, k=2).sample(2000)
    network = sgd_relu_hinge(X, y, width=64, steps=2000)
    assert ((network(X) > 0) == (y > 0)).float().mean() > 0.95


def test_writing_and_reading_are_inverse(tmp_path: Path) -> None:
    X, y = SparseParity(7, k=2).sample(50)
    for ending in ("csv", "tsv", "parquet"):
        write_table(tmp_path / f"t.{ending}", X, y)
        table = read_table(tmp_path / f"t.{ending}")
        assert torch.equal(table.X, X)
        assert torch.equal(table.y, y)
        assert table.columns == tuple(f"x{j}" for j in range(7))


def test_both_codings_can_be_mixed_and_constant_columns_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,c,out\n0,-1,1,1\n1,1,1,0\n1,-1,1,1\n")
    table = read_table(path)
    assert table.columns == ("a", "b")
    assert table.dropped == ("c",)
    assert table.label == "out"
    assert table.X.tolist() == [[1, -1], [-1, 1], [-1, -1]]
    assert table.y.tolist() == [-1, 1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,y\n", "holds no rows"),
        ("a,y\n0,1\n2,0\n", r"column 'a' must hold 0/1 or -1/\+1, got 2.0 in data row 2"),
        ("a,y\n0,1\n1,\n", r"column 'y' must hold .* got a missing value in data row 2"),
        ("a,y\n0,1\nyes,0\n", r"column 'a' must hold .* got 'yes' in data row 2"),
        ("a,y\n-1,1\n0,0\n", r"column 'a' must hold .* got 0.0 in data row 2"),
        ("a,y\n0,1\n1,1\n", "label column 'y' is constant"),
        ("a,y\n1,1\n1,0\n", "no feature column that varies"),
    ],
)
def test_bad_tables_are_refused_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(path)


def test_biased_and_correlated_columns_are_warned_about(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, size=(3000, 6))
    bits[:, 4] = rng.random(3000) < 0.2
    bits[:, 5] = bits[:, 0]
    frame = pd.DataFrame(bits, columns=list("abcdef"))
    frame["y"] = bits[:, 1] ^ bits[:, 2]
    frame.to_csv(tmp_path / "t.csv", index=False)
    (found,) = fit_file(tmp_path / "t.csv", 2)
    assert found.columns == ("b", "c")
    assert "'e'" in caplog.text
    assert "columns 'a' and 'f' are correlated" in caplog.text


@pytest.mark.parametrize(
    ("k", "settings", "message"),
    [
        (0, {}, "k must be in 1..8"),
        (9, {}, "k must be in 1..8"),
        (2, {"width": 0}, "width"),
        (2, {"epochs": 0}, "epochs"),
        (2, {"batches": 0}, "batches"),
        (2, {"learning_rate": 0.0}, "learning-rate"),
        (2, {"noise": 0.5}, "noise"),
    ],
)
def test_bad_fit_settings(k: int, settings: dict, message: str) -> None:
    X, y = SparseParity(8, k=2).sample(100)
    with pytest.raises(InputError, match=message):
        fit_support(X, y, k, settings=FitSettings(**settings))


def test_too_few_rows() -> None:
    X, y = SparseParity(8, k=2).sample(19)
    with pytest.raises(InputError, match="at least 20 rows"):
        fit_support(X, y, 2)
