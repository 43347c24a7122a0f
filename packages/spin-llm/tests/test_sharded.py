"""Weights sharded over two processes by FSDP2: the training of one process, and a state that it goes on from."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from spin_llm.models import Lora, add_lora
from spin_llm.objectives import spin_objective
from spin_llm.optimization import train
from spin_llm.sequence_logprobs import Scoring
from torch import nn

# accelerate shards on GPUs only, so what it does with a model there is done here by torch's own means
SCRIPT = """
import copy, sys
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, sys.argv[1])
from conftest import make_llama
from spin_llm import optimization
from spin_llm.models import Lora, add_lora
from spin_llm.objectives import spin_objective
from spin_llm.sequence_logprobs import Scoring
from test_training import SETTINGS, pairs_of

folder = Path(sys.argv[2])
torch.set_num_threads(1)


class Sharding(Accelerator):
    @property
    def distributed_type(self):
        return DistributedType.FSDP

    def prepare(self, scorer, optimizer):
        mesh = init_device_mesh("cpu", (self.num_processes,))
        names = {id(weight): name for name, weight in scorer.named_parameters()}
        order = [names[id(weight)] for weight in optimizer.param_groups[0]["params"]]
        for layer in scorer.model.get_base_model().model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(scorer, mesh=mesh)
        weights = dict(scorer.named_parameters())
        optimizer.param_groups[0]["params"] = [weights[name] for name in order]
        return scorer, optimizer

    def backward(self, loss):
        loss.backward()

    @contextmanager
    def no_sync(self, model):
        model.set_requires_gradient_sync(False)
        yield
        model.set_requires_gradient_sync(True)

    def clip_grad_norm_(self, weights, norm):
        return torch.nn.utils.clip_grad_norm_(list(weights), norm)

    def get_state_dict(self, model):
        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def free_memory(self):
        pass


class Killed(Exception):
    pass


accelerator = Sharding(cpu=True)
start = add_lora(make_llama(torch.float32), Lora(rank=4))
pairs = pairs_of(start, 11)
real, saves = optimization.save_state, 0

def dying(*given):
    global saves
    real(*given)
    saves += 1
    if saves == 3:
        raise Killed

def play(name, state):
    def finish(weights):
        save_file({key: value.contiguous().clone() for key, value in weights.items()}, folder / name)
    optimization.train(
        copy.deepcopy(start), pairs, spin_objective(0.5), SETTINGS, Scoring(), accelerator, state=folder / state,
        finish=finish,
    )

play("whole.safetensors", "a")
optimization.save_state = dying
try:
    play("never.safetensors", "b")
except Killed:
    pass
optimization.save_state = real
play("parts.safetensors", "b")
"""


@pytest.mark.slow
def test_two_processes_that_share_the_weights_train_as_one_and_go_on_after_a_kill(
    llama: Callable[..., nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    shared: Any = importlib.import_module("test_training")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script), here, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    model = add_lora(llama(torch.float32), Lora(rank=4))
    train(model, shared.pairs_of(model, 11), spin_objective(0.5), shared.SETTINGS, Scoring(), Accelerator(cpu=True))
    alone = model.state_dict()
    whole, parts = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == alone.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
        torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-5, msg=name)
