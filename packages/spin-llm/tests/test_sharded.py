"""Weights sharded over two processes by FSDP2: the training of one process, and a state that it goes on from."""

import os
import runpy
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from spin_llm.config import Optimization
from spin_llm.models import Lora, add_lora
from spin_llm.objectives import ScoredPair, spin_objective
from spin_llm.optimization import train
from spin_llm.sequence_logprobs import Scoring
from torch import nn


@pytest.mark.slow
def test_two_processes_that_share_the_weights_train_as_one_and_go_on_after_a_kill(
    llama: Callable[..., nn.Module],
    pairs_of: Callable[..., list[ScoredPair]],
    optimization: Optimization,
    tmp_path: Path,
    fork: Callable[..., int],
) -> None:
    worker = Path(__file__).with_name("sharded_worker.py")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def process(rank: int) -> None:
        """As torch's launcher would start it."""
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in place.items()}
        AcceleratorState._reset_state(reset_partial_state=True)  # that of the tests before
        sys.path.insert(0, str(worker.parent))
        sys.argv = [str(worker), str(tmp_path)]
        runpy.run_path(str(worker), run_name="__main__")

    processes = [fork(lambda rank=rank: process(rank)) for rank in range(2)]
    assert [os.waitpid(pid, 0)[1] for pid in processes] == [0, 0]
    model = add_lora(llama(torch.float32), Lora(rank=4))
    train(model, pairs_of(model, 11), spin_objective(0.5), optimization, Scoring(), Accelerator(cpu=True))
    alone = model.state_dict()
    whole, parts = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == alone.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
        torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-5, msg=name)
