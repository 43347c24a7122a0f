"""One of two processes of test_sharded.py, weights sharded between them: a whole training, and one killed midway.

accelerate shards on GPUs only, so what it does with a model there is done here by torch's own means.
"""

import copy
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from spin_llm import optimization
from spin_llm.models import Lora, add_lora
from spin_llm.objectives import spin_objective
from spin_llm.sequence_logprobs import Scoring
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from conftest import SETTINGS, make_llama, scored_pairs

folder = Path(sys.argv[1])
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


class KilledError(Exception):
    pass


accelerator = Sharding(cpu=True)
start = add_lora(make_llama(torch.float32), Lora(rank=4))
pairs = scored_pairs(start, 11)
real, saves = optimization.save_state, 0


def dying(*given):
    global saves
    real(*given)
    saves += 1
    if saves == 3:
        raise KilledError


def play(name, state):
    def finish(weights):
        save_file({key: value.contiguous().clone() for key, value in weights.items()}, folder / name)

    optimization.train(
        copy.deepcopy(start),
        pairs,
        spin_objective(0.5),
        SETTINGS,
        Scoring(),
        accelerator,
        state=folder / state,
        finish=finish,
    )


play("whole.safetensors", "a")
optimization.save_state = dying
with suppress(KilledError):
    play("never.safetensors", "b")
optimization.save_state = real
play("parts.safetensors", "b")
