"""What the tests of the package share."""

import pytest
import torch
from dndm_sampler.config import TrainConfig
from dndm_sampler.training import train_text


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """Real English: the beginning of Python's help topics."""
    from dndm_sampler.corpus import standard_library_text

    path = tmp_path_factory.mktemp("text") / "topics-é.txt"
    path.write_text(standard_library_text(40_000), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, text_file):
    """Folders of two small trained models, absorbing and multinomial."""
    folders = {}
    for noise in ("absorbing", "multinomial"):
        folders[noise] = tmp_path_factory.mktemp(noise) / "run"
        config = TrainConfig(noise=noise, steps=20, width=16, length=32, batch_size=8)
        train_text(folders[noise], text_file, config, 0, torch.device("cpu"))
    return folders
