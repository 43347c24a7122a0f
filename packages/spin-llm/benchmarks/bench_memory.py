"""Peak memory of one step at a vocabulary of 49,152, each side in a process of its own.

Twice: with glibc told to give freed memory back at once, so that the peak is what a step holds, and as glibc does by
itself, which keeps freed blocks, more or fewer from run to run.
"""

import json
import os
import subprocess
import sys

import trl
from shared_core.benchmark import Comparison, compare

GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
PROMPT, RESPONSE, PAIRS = 64, 256, 2

CODE = """
import json, sys, torch
torch.set_num_threads(1)
from common import adapted, adapted_by_peft, loaded, token_pairs
from shared_core.device import peak_memory
side, prompt, response, count = sys.argv[1], *map(int, sys.argv[2:5])
pairs, tokenizer = token_pairs(prompt, response, count), loaded()[1]
if side == "ours":
    from bench_step import OurStep
    step = OurStep(adapted(), pairs)
else:
    from peer import TRLStep
    step = TRLStep(adapted_by_peft(), tokenizer, pairs, True, 0.1, 1e-4)
loaded.cache_clear()
before = peak_memory(torch.device("cpu"))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
resident = [int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS")][0]
loss = step()
peak = [int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")][0]
print(json.dumps({"above": (peak - resident) / 1024, "peak": peak / 1024, "loss": loss}))
"""


def run() -> list[Comparison]:
    """Memory that a step takes beyond what was there before it (weights, adapter), in MB."""
    return [
        _measured("peak-memory", "", GIVES_BACK, repeats=2),  # the same to the megabyte every time
        _measured("memory-default-malloc", ", as glibc keeps it", {}, repeats=3),
    ]


def _measured(id: str, how: str, environment: dict[str, str], repeats: int) -> Comparison:
    sides = {"ours": [], "theirs": []}
    for _ in range(repeats):
        for side, found in sides.items():
            arguments = [side, str(PROMPT), str(RESPONSE), str(PAIRS)]
            code = f"import sys; sys.path.insert(0, {sys.path[0]!r})\n{CODE}"
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True,
                env=os.environ | environment,
            )  # fmt: skip
            found.append(json.loads(done.stdout.splitlines()[-1]))
    same = all(abs(a["loss"] - b["loss"]) < 1e-5 for a, b in zip(*sides.values(), strict=True))
    return compare(
        id, f"memory a step takes, {PAIRS} pairs of {PROMPT} + {RESPONSE} tokens, vocabulary 49,152{how}",
        f"trl {trl.__version__} DPOTrainer, best", [row["above"] for row in sides["ours"]],
        [row["above"] for row in sides["theirs"]], same_result=same, unit="MB",
    )  # fmt: skip
