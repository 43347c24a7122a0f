"""One of two processes of test_frameworks.py: every mode of SAM under DistributedDataParallel."""

import json
import math
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from sam_cnn import SAM, sam_step
from torch import nn


def train(mode, rank, x, y):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    ddp = nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=mode == "accumulate full")
    optimizer = SAM(
        ddp.parameters(), torch.optim.SGD, rho=0.5, lr=0.1, momentum=0.9, model=ddp, sync_ascent=mode != "local"
    )
    for step in range(3):
        if mode.startswith("accumulate"):
            batches = [(x[:2], y[:2]), (x[2:], y[2:])]
            sam_step(optimizer, lambda b: (ddp(b[0]) - b[1]).square().mean(), batches, ascent=mode.split()[1])
            continue

        def closure(step=step):
            loss = (ddp(x) - y).square().mean()
            if mode == "local" and step == 1 and rank == 1:
                loss = loss * math.nan
            loss.backward()

        optimizer.step(closure)
    weights = [p.detach().flatten().tolist() for p in net.parameters()]
    return {"weights": weights, "steps": optimizer.steps, "skipped": optimizer.skipped}


def shard(x, y, variant):
    """Parameters sharded by fully_shard: norm, ascent and restoring on distributed tensors."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    fully_shard(net)
    optimizer = SAM(net.parameters(), torch.optim.SGD, rho=0.5, lr=0.1, momentum=0.9, variant=variant, interval=2)

    def closure():
        (net(x) - y).square().mean().backward()

    for _ in range(3):
        optimizer.step(closure)
    weights = [p.full_tensor().detach().flatten().tolist() for p in net.parameters()]
    return {"weights": weights, "steps": optimizer.steps, "skipped": optimizer.skipped}


def pointers():
    """What is said to restore="pointer" with a model in two processes."""
    ddp = nn.parallel.DistributedDataParallel(nn.Linear(5, 1).double())
    try:
        SAM(ddp.parameters(), torch.optim.SGD, lr=0.1, model=ddp, restore="pointer")
    except ValueError as error:
        return str(error)


def main(port, out, rank):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    toy = load_file(Path(out, "toy.safetensors"))
    x, y = toy["x"][rank::2], toy["y"][rank::2]
    modes = ("global", "local", "accumulate full", "accumulate micro")
    found = {mode: train(mode, rank, x, y) for mode in modes}
    found |= {f"sharded {variant}": shard(x, y, variant) for variant in ("sam", "gsam", "looksam")}
    found["pointers"] = pointers()
    Path(out, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
