"""Peak memory of one iteration with the reference as adapter or table, beside a copy: each in a process of its own.

The network is a stock UNet large enough to be seen (about 80 million weights, 320 MB), the batch small, so that weights
and not activations decide. The peak is the process's resident set, less what it held before the network was made.
"""

import json
import subprocess
import sys
from functools import lru_cache

from shared_core.benchmark import Comparison, compare

REPEATS = 2  # the same to half a percent every time
CHILD = """
import json, sys
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from shared_core.device import peak_memory
from spin_diffusion.config import Lora, Optimization, SPINConfig
from spin_diffusion.processes import make_accelerator
from spin_diffusion.self_play import SPINTrainer
from spin_diffusion.training_set import TensorRows, TrainingSet

torch.set_num_threads(1)
mode, rank = sys.argv[1], int(sys.argv[2])
settings = Optimization(learning_rate=[1e-5], max_train_steps=[2], warmup_steps=0, train_batch_size=1,
                        per_device_train_batch_size=1)
config = SPINConfig(iterations=1, ref_mode=mode, guard="off", optimization=settings, lora=Lora(rank=rank))
accelerator = make_accelerator()
tiny = UNet2DConditionModel(sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
    cross_attention_dim=8, attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
generator = torch.Generator().manual_seed(0)

def play(net, width):
    latents = torch.randn(4, 4, 8, 8, generator=generator)
    data = TrainingSet.of(latents, {"encoder_hidden_states": torch.randn(4, 4, width, generator=generator)})
    game = SPINTrainer(net, DDIMScheduler(), data, config, accelerator=accelerator)
    return game.train_iteration(0, TensorRows(torch.randn(4, 4, 8, 8, generator=generator)))

play(tiny, 8)  # whatever is loaded on first use
before = peak_memory(torch.device("cpu"))
torch.manual_seed(0)
net = UNet2DConditionModel(sample_size=8, block_out_channels=(256, 512), layers_per_block=2, norm_num_groups=32,
    cross_attention_dim=256, attention_head_dim=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
result = play(net, 256)
weights = sum(weight.numel() * weight.element_size() for weight in net.parameters())
print(json.dumps({"peak": peak_memory(torch.device("cpu")) - before, "weights": weights, "loss": result.last["loss"]}))
"""


def measure(mode: str, rank: int) -> dict[str, float]:
    """Bytes of one run in a fresh process."""
    done = subprocess.run([sys.executable, "-c", CHILD, mode, str(rank)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run() -> list[Comparison]:
    rows = []
    measured = lru_cache(lambda mode, rank, repeat: measure(mode, rank))  # one copy is beside both kinds of LoRA
    for mode, rank, what in (("adapter", 8, "LoRA"), ("table", 8, "LoRA"), ("table", 0, "full fine-tuning")):
        runs = [(measured(mode, rank, repeat), measured("copy", rank, repeat)) for repeat in range(REPEATS)]
        same = all(abs(ours["loss"] - theirs["loss"]) <= 1e-6 for ours, theirs in runs)
        megabytes = [[each["peak"] / 2**20 for each in side] for side in zip(*runs, strict=True)]
        weights = runs[0][0]["weights"] / 2**20
        question = f"peak memory of an iteration, {what}, network of {weights:.0f} MB"
        id = f"memory-{mode}-{'lora' if rank else 'full'}"
        rows.append(compare(id, question, "ref_mode copy (a second network)", *megabytes, same_result=same, unit="MB"))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
