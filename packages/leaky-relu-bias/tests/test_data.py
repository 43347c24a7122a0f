"""Generators, files and images."""

import gzip
import struct

import numpy as np
import pytest
import torch
from leaky_relu_bias import DataOptions, load, near_orthogonal, orthogonal, random_fourier_features, training_set
from shared_core import InputError


def write_idx(path, array, kind=0x08):
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)


@pytest.fixture
def mnist_folder(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(20, dtype=np.uint8) % 3)
    return tmp_path


def test_near_orthogonal_points_have_the_ratio_asked_for():
    for ratio in (0.6, 1.0, 7.5):
        data = training_set(*near_orthogonal(10, 40, ratio, seed=1))
        assert data.ratio == pytest.approx(ratio, rel=1e-10)
        assert data.norm_ratio == pytest.approx(1, abs=1e-12)
    assert training_set(*orthogonal(10, 40)).ratio == float("inf")


def test_generated_points_are_centred_too():
    X = load("gaussian", DataOptions(center=True, d=20)).X
    assert float(X.mean(0).abs().max()) < 1e-15


def test_impossible_points_are_refused():
    with pytest.raises(InputError, match="at most d"):
        orthogonal(5, 4)
    with pytest.raises(InputError, match="too low for 10 such points"):
        near_orthogonal(10, 40, 0.05)
    with pytest.raises(InputError, match="ratio must be > 0"):
        near_orthogonal(10, 40, -1)


def test_real_mnist_digits_are_there_without_a_download():
    data = load("mnist5k", DataOptions(n=12, pair=[0, 1]))
    assert (data.n, data.d) == (12, 784)
    assert int((data.y > 0).sum()) == 6
    assert 0.03 < data.ratio < 0.1
    centred = load("mnist5k", DataOptions(n=12, pair=[0, 1], center=True, normalize="mean"))
    assert float(centred.norms.mean()) == pytest.approx(1)
    assert centred.ratio > data.ratio


def test_random_features_bring_real_digits_near_orthogonality():
    raw = load("digits", DataOptions(n=10, pair=[0, 1]))
    lifted = load("digits", DataOptions(n=10, pair=[0, 1], normalize="mean", features=4096, bandwidth=0.1))
    assert lifted.d == 4096
    assert lifted.ratio > 5 * raw.ratio
    kernel = random_fourier_features(raw.X, 20_000, 2.0) @ random_fourier_features(raw.X, 20_000, 2.0).T
    exact = torch.exp(-(torch.cdist(raw.X, raw.X) ** 2) / 8)
    assert float((kernel - exact).abs().max()) < 0.05


def test_idx_files_are_read_plain_and_gzipped(mnist_folder):
    for source in (mnist_folder, mnist_folder / "train-images-idx3-ubyte.gz"):
        data = load(str(source), DataOptions(n=8, pair=[0, 2]))
        assert (data.n, data.d) == (8, 784)
        assert float(data.X.max()) <= 1


def test_csv_with_header_words_as_labels_and_any_label_column(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("kind,a,b\ncat,1,0\ndog,0,2\ncat,1,1\n")
    data = load(str(path), DataOptions(label="kind"))
    assert data.X.tolist() == [[1, 0], [0, 2], [1, 1]]
    assert data.y.tolist() == [-1, 1, -1]
    path.write_text("1,0,0\n0,2,1\n")
    assert load(str(path)).y.tolist() == [-1, 1]


def test_numpy_files(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.eye(3), y=np.array([0, 1, 0]))
    images = np.full((4, 2, 2), 255, np.uint8) * np.eye(2, dtype=np.uint8)
    np.savez(tmp_path / "m.npz", x_train=images, y_train=[3, 5, 3, 5])
    np.save(tmp_path / "b.npy", np.array([[1.0, 2, 1], [2, 1, -1]]))
    assert load(str(tmp_path / "a.npz")).n == 3
    assert load(str(tmp_path / "b.npy")).y.tolist() == [1, -1]
    with pytest.raises(InputError, match="same direction with opposite labels"):
        load(str(tmp_path / "m.npz"))


def test_a_subset_is_balanced_and_depends_on_the_seed():
    first, again, other = (load("digits", DataOptions(n=10, pair=[3, 8], seed=s)) for s in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    assert int((first.y > 0).sum()) == 5


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        ([[1.0, 2.0]], [1, 2], "one label for each of the 1 points"),
        ([[1.0], [2.0], [3.0]], [1, 2, 3], "two values, got 3"),
        ([[1.0], [2.0]], [1.0, float("nan")], "NaN in row 1"),
        ([[1.0], [float("inf")]], [0, 1], "X must be finite, got inf in row 1, column 0"),
        ([[1.0, 0.0], [0.0, 0.0]], [0, 1], "norm zero in row 1"),
        ([[1.0, 2.0], [1.0, 2.0]], [0, 1], "rows 0 and 1 of X are the same direction"),
        ([[1.0, 2.0], [3.0, 6.0]], [0, 1], "rows 0 and 1 of X are the same direction"),
        ([1.0, 2.0], [0, 1], "points by features"),
        ([["a", "b"]], [0], "array of numbers"),
        ([[1j, 0.0]], [0], "array of numbers"),
        ([[1e-200, 0.0]], [0], "scale the points"),
        ([[1e200, 0.0]], [0], "scale the points"),
        (np.zeros((0, 3)), [], "at least one point"),
    ],
)
def test_bad_points_and_labels_say_where(X, y, words):
    with pytest.raises(InputError, match=words):
        training_set(X, y)


def test_one_class_is_legal(caplog):
    assert training_set([[1.0, 0.0], [0.0, 1.0]], [1, 1]).y.tolist() == [1, 1]
    assert "one class only" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"a,b,label\n1,x,0\n", "line 2, column b: expected a finite number, got 'x'"),
        ("a.csv", b"a,b,label\n1,,0\n", "line 2, column b"),
        ("a.csv", b"a,label\n1,cat\n2,\n3,dog\n", "line 3, column label"),
        ("a.csv", b"", "not a csv table"),
        ("a.csv", b"a,label\n", "at least one row"),
        ("a.npz", b"no zip", r"a\.npz is no .npy or .npz file of plain arrays \(objects are refused\)$"),
        ("a.npz", b"PK\x03\x04 cut", r"a\.npz is no .npy or .npz file"),
        ("a.npy", b"no numpy", r"a\.npy is no .npy or .npz file"),
        ("a.txt", b"1 2", "none of the kinds"),
        ("train-images-idx3-ubyte", b"\x01\x02\x03\x04", "magic number is 01020304"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03\0\0\0\x02", "truncated inside its header"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x01\0\0\0\x05abc", "is truncated"),
        ("train-images-idx3-ubyte.gz", b"no gzip", "not a whole gzip file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x00")
    with pytest.raises(InputError, match=words):
        load(str(tmp_path / name))


def test_missing_mnist_says_which_files_are_expected(tmp_path):
    with pytest.raises(InputError, match="expected train-images-idx3-ubyte and train-labels-idx1-ubyte"):
        load(str(tmp_path))
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(InputError, match="labels are missing"):
        load(str(tmp_path))
    with pytest.raises(InputError, match="there is no file"):
        load(str(tmp_path / "nothing.csv"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pair": None}, "choose two classes"),
        ({"pair": [1, 1]}, "two different classes"),
        ({"pair": [0, 77]}, "no class 77"),
        ({"n": 0}, "n must be at least 1"),
        ({"n": 5000}, "more than the"),
        ({"normalize": "max"}, "normalize must be"),
        ({"features": 10, "bandwidth": 0.0}, "bandwidth must be"),
        ({"features": -1}, "features must be at least"),
    ],
)
def test_bad_options_name_themselves(options, words):
    with pytest.raises(InputError, match=words):
        load("digits", DataOptions(**({"pair": [0, 1]} | options)))
