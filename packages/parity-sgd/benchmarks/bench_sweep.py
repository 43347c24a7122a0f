"""The whole end-to-end sweep of `reproduce --scale laptop`: every size, batch and seed.

Ours runs it once and gives the list of cells (k, d, B); the plain loop runs the same cells with the same eight seeds.
Both sides end in the accuracy of every run, so that both find the smallest sufficient batch; their data differ, so the
results agree up to the grid.
"""

import time

import torch
from parity_sgd.reproduce.complexity import end_to_end_sizes
from parity_sgd.scaling import end_to_end_batch, success_cell
from plain_loop import draw
from plain_loop import run as plain_run
from shared_core.benchmark import Comparison, compare

SEEDS, NEEDED, ETA, REPEATS = 8, 6, 0.1, 3


def run() -> list[Comparison]:
    for batch in (8, 700):  # compile, as rows and as counts
        success_cell(2, 8, batch, width=32, seeds=range(SEEDS), learning_rate=ETA, threshold=0.5)
    mine, peer, same = [], [], []
    for repeat in range(REPEATS):
        start = time.perf_counter()
        tables = {
            k: end_to_end_batch(
                k, ds, width=m, seeds=SEEDS, needed=NEEDED, seed=20_000 + 100 * repeat, learning_rate=ETA
            )
            for k, (m, ds) in end_to_end_sizes("laptop").items()
        }
        mine.append(time.perf_counter() - start)
        start = time.perf_counter()
        wins: dict[tuple[int, int, int], int] = {}
        tests = {}
        for k, cells in tables.items():
            for row in cells.itertuples():
                key = (k, int(row.d))
                if key not in tests:
                    tests[key] = draw(4096, int(row.d), k, torch.Generator().manual_seed(1))
                accuracy = plain_run(
                    k, int(row.d), int(row.batch), int(row.width), int(row.steps), int(row.seed), tests[key], ETA
                )
                cell = (*key, int(row.batch))
                wins[cell] = wins.get(cell, 0) + (accuracy >= 0.99)
        peer.append(time.perf_counter() - start)
        same.append(_agree(tables, wins))
    return [
        compare(
            "sweep",
            f"the end-to-end sweep of `reproduce`: all sizes, batches and 8 seeds; {torch.get_num_threads()} threads",
            f"plain autograd loop, torch {torch.__version__}",
            mine,
            peer,
            same_result=all(same),
        )
    ]


def _agree(tables: dict, wins: dict[tuple[int, int, int], int]) -> bool:
    """The same share of successful runs, per k, up to 4 standard errors of the difference of two binomials."""
    for k, cells in tables.items():
        ours = int(cells["success"].sum())
        theirs = sum(count for (key, _, _), count in wins.items() if key == k)
        # Cells near a threshold dominate the variance: p (1 - p) <= 1/4 in each of them.
        open_cells = cells.groupby(["d", "batch"])["success"].mean()
        spread = (2 * SEEDS * (open_cells * (1 - open_cells)).clip(lower=0.02).sum()) ** 0.5
        if abs(ours - theirs) > 4 * spread:
            return False
    return True
