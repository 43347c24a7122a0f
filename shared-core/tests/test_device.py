"""Choosing, describing and seeding devices."""

import random
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from shared_core import InputError, device


@pytest.fixture
def _torch_settings() -> Iterator[None]:
    precision = torch.get_float32_matmul_precision()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision(precision)


def test_auto_takes_the_first_device_that_is_there() -> None:
    there = device.available_devices()
    assert there[-1] == "cpu"
    assert str(device.resolve_device("auto")) == there[0]
    assert device.resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:99", "mps"])
def test_a_named_device_that_is_absent_is_refused_and_what_is_there_is_listed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "available_devices", lambda: ["cpu"])
    with pytest.raises(InputError, match=f"'{name}' is not available here; available: cpu"):
        device.resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "CUDA", "tpu:0", "cpu ", "мой"])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="device must be auto, cpu, cuda, cuda:N or mps, got"):
        device.resolve_device(name)


def test_every_named_device_is_found_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_devices", lambda: ["cuda:0", "cuda:1", "cpu"])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert device.resolve_device("auto") == torch.device("cuda:0")
    assert device.resolve_device("cuda") == torch.device("cuda:1")
    assert device.resolve_device("cuda:0") == torch.device("cuda:0")


def _draws(seed: int) -> tuple[float, float, float, float]:
    generator = device.seed_everything(seed)
    return (
        random.random(),
        float(np.random.random()),  # noqa: NPY002 - the global generator is what is tested
        float(torch.rand(())),
        float(torch.rand((), generator=generator)),
    )


def test_a_seed_repeats_python_numpy_torch_and_the_generator() -> None:
    first = _draws(7)
    assert _draws(7) == first
    assert all(a != b for a, b in zip(first, _draws(8), strict=True))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match=rf"seed must be in 0\.\.2\*\*32-1, got {seed}"):
        device.seed_everything(seed)


@pytest.mark.usefixtures("_torch_settings")
def test_deterministic_mode_is_switched_on_and_off() -> None:
    device.seed_everything(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    device.seed_everything(0)
    assert not torch.are_deterministic_algorithms_enabled()


def test_autocast_computes_in_bfloat16_and_float32_is_none_at_all() -> None:
    cpu = torch.device("cpu")
    ones = torch.ones(2, 2)
    with device.autocast(cpu, "bfloat16"):
        assert (ones @ ones).dtype == torch.bfloat16
    assert isinstance(device.autocast(cpu, "float32"), nullcontext)


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(InputError, match="float16 needs a GPU; on a CPU use bfloat16 or float32"):
        device.autocast(torch.device("cpu"), "float16")


def test_the_default_precision_of_a_cpu_is_float32() -> None:
    assert device.default_precision(torch.device("cpu")) == "float32"


@pytest.mark.usefixtures("_torch_settings")
def test_tf32_is_a_choice() -> None:
    device.allow_tf32(True)
    assert torch.get_float32_matmul_precision() == "high"
    device.allow_tf32(False)
    assert torch.get_float32_matmul_precision() == "highest"


def test_peak_memory_grows_with_what_is_used() -> None:
    cpu = torch.device("cpu")
    before = device.peak_memory(cpu)
    assert 2**24 < before < 2**40  # bytes, whatever unit the system counts in
    size = before + 2**26  # more than the process ever held
    block = bytearray(size)
    block[:: 2**12] = b"x" * len(block[:: 2**12])  # touch every page
    assert device.peak_memory(cpu) >= size


def test_a_device_is_described_in_one_line() -> None:
    line = device.describe_device(torch.device("cpu"))
    assert line.startswith(f"cpu ({torch.get_num_threads()} threads of ")
    assert "\n" not in line


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_is_resolved_described_seeded_and_measured() -> None:
    cuda = device.resolve_device("cuda")
    assert "GiB" in device.describe_device(cuda)
    generator = device.seed_everything(3, cuda)
    first = torch.rand(4, generator=generator, device=cuda)
    again = torch.rand(4, generator=device.seed_everything(3, cuda), device=cuda)
    assert torch.equal(first, again)
    assert device.peak_memory(cuda) > 0
