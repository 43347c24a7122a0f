"""Weights sharded over two processes by FSDP2: the training of one process, and a state that it goes on from."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
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
) -> None:
    worker = Path(__file__).with_name("sharded_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(worker), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    model = add_lora(llama(torch.float32), Lora(rank=4))
    train(model, pairs_of(model, 11), spin_objective(0.5), optimization, Scoring(), Accelerator(cpu=True))
    alone = model.state_dict()
    whole, parts = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == alone.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
        torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-5, msg=name)
