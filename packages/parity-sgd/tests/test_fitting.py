"""Recovering a planted support from tables, the baselines, and bad tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from parity_sgd.baselines import brute_force, gaussian_elimination, sgd_relu_hinge, sgd_same_network
from parity_sgd.fitting import fit_file, fit_support, independence_p_value
from parity_sgd.parity import SparseParity
from parity_sgd.searches import SEARCHES, FitSettings
from parity_sgd.tables import read_table, warn_about_copies, write_table
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


@pytest.mark.parametrize("rare", [-1.0, 1.0])
def test_a_column_that_is_not_needed_is_named(rare: float) -> None:
    rng = np.random.default_rng(1)
    X, y = SparseParity(8, [1]).sample(4000)
    X[:, 5] = torch.from_numpy(np.where(rng.random(4000) < 0.02, rare, -rare)).float()  # nearly constant
    found = fit_support(X, y, 2, method="brute-force")
    assert found.support == (1, 5)
    assert "without 'x5' the others agree in 1.0000: it may not belong" in found.note


def test_p_values_are_those_of_chance_where_nothing_is_planted() -> None:
    """Biased columns and labels, the strongest of 28 pairs: P(p <= q) must not exceed q."""
    values = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        X = torch.from_numpy(rng.choice([-1.0, 1.0], (300, 8), p=[0.3, 0.7])).float()
        y = torch.from_numpy(rng.choice([-1.0, 1.0], 300, p=[0.4, 0.6])).float()
        values.append(fit_support(X, y, 2, method="brute-force", seed=seed).p_value)
    for q in (0.01, 0.05, 0.2):
        assert np.mean(np.array(values) <= q) <= q + 3 * (q * (1 - q) / 300) ** 0.5


def test_the_interval_holds_the_label_noise_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(200):
        X, y = SparseParity(8, [1, 5], label_noise=0.1, seed=seed).sample(600)
        found = fit_support(X, y, 2, method="brute-force", seed=seed)
        inside += found.agreement_low <= 0.9 <= found.agreement_high
    assert inside / 200 > 0.95 - 3 * (0.05 * 0.95 / 200) ** 0.5


def test_copied_rows_are_warned_about_and_chance_repeats_are_not() -> None:
    rng = np.random.default_rng(0)
    copies = torch.from_numpy(np.tile(rng.choice([-1.0, 1.0], (500, 20)), (16, 1)))
    assert "7500 of 8000 rows have the features of another one" in (warn_about_copies(copies) or "")
    for d, p in ((3, 0.5), (10, 0.5), (8, 0.02), (20, 0.1), (40, 0.5)):
        for _ in range(20):
            assert warn_about_copies(torch.from_numpy(rng.choice([-1.0, 1.0], (2000, d), p=[p, 1 - p]))) is None


def test_a_method_that_cannot_run_is_refused_before_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "wide.csv"
    write_table(path, *SparseParity(120, k=2).sample(100))
    monkeypatch.setitem(SEARCHES, "sign-sgd", None)  # a call would fail otherwise
    with pytest.raises(InputError, match="supports is beyond"):
        fit_file(path, 8, methods=["sign-sgd", "brute-force"])


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
    X, y = SparseParity(11, support, label_noise=0.2, seed=2).sample(2000)
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
    W, _ = sgd_same_network(X, y, 3, width=32, batch_size=1000, steps=60, learning_rate=0.1, decay=1.0)
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
        (2, {"learning_rate": float("nan")}, "learning-rate"),
        (2, {"decay": float("nan")}, "decay"),
        (2, {"decay": 11.0}, "decay"),
        (2, {"label_noise": 0.5}, "noise"),
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
