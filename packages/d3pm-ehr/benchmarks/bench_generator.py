"""A training step and sampling beside TabDDPM-style and EDM-style loops of the same trunk; scaling; memory."""

import subprocess
import sys

import numpy as np
import torch
from d3pm_ehr import EHRD3PM, Cohort, Diffusion, GaussianDiffusion, GeneratorConfig, Network, Training
from d3pm_ehr.cohort import empirical_laws
from d3pm_ehr.objective import UniformTimes, training_loss
from d3pm_ehr.sampling import sample_tokens
from d3pm_ehr.schedule import noise_schedule, subsequence
from peers import LogOneHot, Trunk
from scipy import sparse
from shared_core.benchmark import Comparison, alternate, compare, seconds

BATCH, WIDTH, DEPTH, STEPS = 256, 256, 2, 20


def _cohort(rows: int, codes: int, seed: int = 0) -> Cohort:
    rng = np.random.default_rng(seed)
    share = 0.25 / np.arange(1, codes + 1) ** 0.8
    parts = [sparse.csr_matrix(rng.random((min(10_000, rows - s), codes)) < share) for s in range(0, rows, 10_000)]
    return Cohort.from_arrays(sparse.vstack(parts).astype(np.uint8))


def _model(cohort: Cohort, kernel: str = "uniform") -> EHRD3PM:
    config = GeneratorConfig(Diffusion(kernel=kernel, num_steps=STEPS), Network(width=WIDTH, depth=DEPTH), Training())
    return EHRD3PM(config, "cpu").build(cohort.vocabulary, empirical_laws(cohort))


def _step_rows(codes: int) -> list[Comparison]:
    cohort = _cohort(4000, codes)
    model = _model(cohort).denoiser.train()
    rows = cohort.tokens()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    times = UniformTimes(STEPS)
    tab, edm = Trunk(2 * codes, WIDTH, DEPTH), Trunk(codes, WIDTH, DEPTH)
    tab_optimizer, edm_optimizer = (torch.optim.AdamW(net.parameters(), lr=1e-3) for net in (tab, edm))
    log_space = LogOneHot(noise_schedule("cosine_squared", STEPS), 2)
    g = torch.Generator().manual_seed(0)

    def batch() -> torch.Tensor:
        return rows[torch.randint(len(rows), (BATCH,), generator=g)]

    def mine() -> None:
        x0 = batch()
        t, weights = times.draw(BATCH, g)
        x_t = model.process.corrupt(x0, t, g)
        loss, _ = training_loss(model.process, x0, x_t, t, weights, model(x_t, t), "vlb", 0.0)
        _update(optimizer, loss)

    def tabddpm() -> None:
        x0 = batch()
        t = torch.randint(1, STEPS, (BATCH,), generator=g)
        log_x0 = log_space.index_to_log(x0)
        log_xt = log_space.sample(log_space.pred(log_x0, t), torch.rand(log_x0.shape, generator=g))
        out = tab(log_xt.exp().flatten(1), t / STEPS).view(BATCH, 2, codes)
        _update(tab_optimizer, log_space.divergence(log_x0, log_xt, out.log_softmax(1), t).mean() * STEPS)

    def gaussian() -> None:
        x = batch().float()
        level = (torch.randn(BATCH, 1, generator=g) * 1.2 - 1.2).exp()
        total = level**2 + 0.02
        noisy = x + level * torch.randn(x.shape, generator=g)
        out = 0.02 / total * noisy + level * 0.14 / total.sqrt() * edm(noisy / total.sqrt(), level[:, 0].log() / 4)
        _update(edm_optimizer, ((total / (level * 0.14) ** 2) * (out - x).square()).sum(1).mean())

    rows_ = []
    for name, peer in (("TabDDPM-style loop", tabddpm), ("EDM-style loop", gaussian)):
        pair = alternate(mine, peer, repeats=7, warmup=2)
        question = f"train step (bound), batch {BATCH}, {codes} codes, width {WIDTH}"
        same = _blocks(model) == _blocks(tab if peer is tabddpm else edm)  # equal residual blocks, batch and optimiser
        rows_.append(compare(f"train-step-{codes}", question, name, *pair, same_result=same))
    return rows_


def _blocks(net: torch.nn.Module) -> int:
    """Weights of the residual blocks."""
    return sum(p.numel() for name, p in net.named_parameters() if name.startswith(("blocks", "layers")) and p.ndim == 2)


def _update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _sampling_rows(codes: int, count: int = 512) -> list[Comparison]:
    cohort = _cohort(2000, codes)
    model = _model(cohort).denoiser
    tab = Trunk(2 * codes, WIDTH, DEPTH)
    log_space = LogOneHot(noise_schedule("cosine_squared", STEPS), 2)
    edm = GaussianDiffusion(width=WIDTH, depth=DEPTH, steps=2, heun=STEPS).fit(cohort)

    def mine() -> list[torch.Tensor]:
        return list(sample_tokens(model, count, subsequence(STEPS, STEPS), 0))

    @torch.no_grad()
    def tabddpm() -> torch.Tensor:
        g = torch.Generator().manual_seed(0)
        log_x = log_space.index_to_log(torch.randint(2, (count, codes), generator=g))
        for step in reversed(range(STEPS)):
            t = torch.full((count,), step)
            out = tab(log_x.exp().flatten(1), t / STEPS).view(count, 2, codes).log_softmax(1)
            log_x = log_space.sample(log_space.posterior(out, log_x, t), torch.rand(log_x.shape, generator=g))
        return log_x.argmax(1)

    def heun() -> Cohort:
        return edm.sample(count, 0)

    # the laws differ, and so do the draws: the same is that each gives `count` whole binary records from an equal trunk
    made = [torch.cat(mine()), tabddpm(), heun().tokens()]
    same = all(item.shape == (count, codes) and set(item.unique().tolist()) <= {0, 1} for item in made)
    same = same and _blocks(model) == _blocks(tab)
    found = []
    for name, peer in (("TabDDPM-style loop", tabddpm), ("EDM-style loop (Heun)", heun)):
        mine_s, theirs_s = alternate(mine, peer, repeats=3, warmup=1)
        rates = [count / s for s in mine_s], [count / s for s in theirs_s]
        question = f"sampling, {STEPS} steps, {codes} codes, width {WIDTH}"
        row = compare(f"sampling-{codes}", question, name, *rates, unit="records/s", better="higher", same_result=same)
        found.append(row)
    return found


# VmHWM and not ru_maxrss: the latter keeps the parent's peak over fork and exec
MEMORY = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import bench_generator
from d3pm_ehr.formats.writers import write_records

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

rows, out, streamed = int(sys.argv[2]), sys.argv[3], sys.argv[4] == "streamed"
model = bench_generator._model(bench_generator._cohort(1000, 128))
write_records(model.vocabulary, model.stream(256, num_steps=2), out + "/warm.parquet")
before = peak()
pieces = model.stream(rows, num_steps=2) if streamed else [model.sample(rows, num_steps=2, batch_size=rows).tokens()]
n = write_records(model.vocabulary, pieces, out + "/s.parquet")
print(peak() - before, n)
"""


def _memory() -> list[Comparison]:
    """Peak memory of sampling to a file, batch by batch, beside drawing and writing all records at once."""
    import tempfile
    from pathlib import Path

    here, found = str(Path(__file__).parent), []
    for rows in (1000, 10_000, 100_000):
        used = {}
        for way in ("streamed", "whole"):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-c", MEMORY, here, str(rows), folder, way]
                used[way] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        question = f"peak memory added by sampling {rows} records of 128 codes to parquet, streamed"
        peer, whole = "all records drawn and written at once", all(int(n) == rows for _, n in used.values())
        sizes = [max(float(used[way][0]), 0.1) for way in ("streamed", "whole")]
        found.append(compare(f"memory-{rows}", question, peer, sizes[:1], sizes[1:], unit="MiB", same_result=whole))
    return found


def _scaling() -> list[Comparison]:
    """Sampling is linear in records: the rate at 10^3, 10^4 and 10^5 beside that of 10^3."""
    model = _model(_cohort(1000, 128)).denoiser
    found, base = [], None
    for rows in (1000, 10_000, 100_000):
        rate = rows / seconds(lambda rows=rows: [len(x) for x in sample_tokens(model, rows, subsequence(STEPS, 5), 0)])
        base = base or rate
        question = f"records per second, {rows} records, 128 codes, 5 steps, beside 1000 records"
        found.append(compare(f"scaling-{rows}", question, "ourselves at 1000 records", [rate], [base], unit="records/s",
                             better="higher", same_result=True))  # fmt: skip
    return found


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    rows = [row for codes in (128, 1000, 2000) for row in _step_rows(codes)]
    rows += _sampling_rows(128) + _sampling_rows(1000)
    return rows + _scaling() + _memory()
