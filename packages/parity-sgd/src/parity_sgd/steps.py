"""All steps of one run in one compiled call: draw a batch, weigh it, move the neurons that can still move.

Two exact reasons to do less, neither of which changes a bit of the result:

- |G_rj| <= k ||w_r||_1^(k-1) for every batch. Where that is below rho the neuron never moves again, since norms only
  shrink: it decays and is left out.
- |G_rj| <= (k/B) sum_i |<w_r, x_i>|^(k-1) for this batch, known after half of the work. Where that is below rho for all
  sixteen neurons of a tile, the other half is left out. Neurons are sorted by their norms, so that quiet ones meet.
"""

import numpy as np
import numpy.typing as npt

from parity_sgd.compiling import compiled
from parity_sgd.lanes import LANES, fill, load, store, threshold
from parity_sgd.lookup import GROUP, FloatArray, aligned, fill_table, label, put, resolve, scatter, take, weigh
from parity_sgd.streams import fill_uniform, fill_words

MAX_ROWS = 8192
"""Largest batch: its sums stay in float32, and its powers in a second-level cache."""
SORT_EVERY = 12
"""Steps between two looks for neurons that no batch can move any more."""
SAFETY = 0.99
"""Bounds have to be so much below rho: more than MAX_ROWS float32 roundings can add up to."""


@compiled()
def _draw(points, flips, noise, mask, words, codes, y, uniform):  # type: ignore[no-untyped-def]
    """The next batch of the stream, as `SparseParity.draw` gives it; `words` and `codes` are the same memory."""
    fill_words(points, words)
    label(codes, mask, y)
    if noise > 0:
        fill_uniform(flips, uniform)
        for i in range(y.shape[0]):
            if uniform[i] < noise:
                y[i] = -y[i]


@compiled()
def _decay(tile, keep):  # type: ignore[no-untyped-def]
    for j in range(0, tile.shape[0], LANES):
        store(tile, j, fill(keep) * load(tile, j))


@compiled()
def _move(tile, d, lanes, keep, eta, sums, found):  # type: ignore[no-untyped-def]
    """w <- keep * w + eta * st(G) for sixteen neurons; `lanes` holds their limits and the signs of a."""
    limit, sign, eta, keep = load(lanes, 0), load(lanes, LANES), fill(eta), fill(keep)
    for g in range(sums.shape[0] // GROUP):
        resolve(sums, g * GROUP, found)
        # only coordinates that exist: spare bits of the last byte are random, their weights have to stay 0
        for j in range(4 * g, min(4 * g + 4, d)):
            step = threshold(sign * load(found, (j & 3) * LANES), limit)
            store(tile, j * LANES, keep * load(tile, j * LANES) + eta * step)


@compiled()
def _order(W, k, rho, prune, norms, order):  # type: ignore[no-untyped-def]
    """Sort neurons by their l1 norms, the largest first, and count those that some batch could still move."""
    alive = 0
    for r in range(W.shape[0]):
        norms[r] = 0
        for j in range(W.shape[1]):
            norms[r] -= abs(W[r, j])
        reach = k * (-norms[r]) ** (k - 1)
        if not (prune and reach < SAFETY * rho):
            alive += 1
    order[:] = np.argsort(norms)
    return alive


@compiled()
def _gather(W, order, alive, per_neuron, tiles, lanes):  # type: ignore[no-untyped-def]
    for t in range(-(-alive // LANES)):
        count = min(LANES, alive - t * LANES)
        take(W, order, t * LANES, count, tiles[t])
        take(per_neuron, order, t * LANES, count, lanes[t])
        for r in range(count, LANES):
            lanes[t, r] = np.inf
            lanes[t, 2 * LANES + r] = np.inf


@compiled()
def _run(  # type: ignore[no-untyped-def]
    steps, k, noise, keep, eta, rho, prune, points, flips, mask, words, codes, y, uniform, W, per_neuron, norms, order,
    tiles, lanes, table, sums, h, found,
):  # fmt: skip
    alive = 0
    for t in range(steps):
        if t % SORT_EVERY == 0:
            for u in range(-(-alive // LANES)):
                put(tiles[u], order, u * LANES, min(LANES, alive - u * LANES), W)
            alive = _order(W, k, rho, prune, norms, order)
            _gather(W, order, alive, per_neuron, tiles, lanes)
        _draw(points, flips, noise, mask, words, codes, y, uniform)
        for u in range(-(-alive // LANES)):
            fill_table(tiles[u], table)
            store(found, 0, fill(np.float32(0)))
            weigh(codes, y, k - 1, table, h, found)
            moving = not prune
            for r in range(LANES):
                moving |= not found[r] < lanes[u, 2 * LANES + r]
            if moving:
                scatter(codes, h, sums)
                _move(tiles[u], W.shape[1], lanes[u], keep, eta, sums, found)
            else:
                _decay(tiles[u], keep)
        for i in range(alive, W.shape[0]):
            row = W[order[i]]
            for j in range(row.shape[0]):
                row[j] *= keep
    for u in range(-(-alive // LANES)):
        put(tiles[u], order, u * LANES, min(LANES, alive - u * LANES), W)


def _limits(scale: npt.NDArray[np.float64], rho: float) -> FloatArray:
    """Smallest float32 x with x |scale| >= rho in float64, so that sums are compared as they are, in float32."""
    size = np.abs(scale)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # infinite: no sum reaches it
        limit = np.where(size > 0, rho / size, np.inf).astype(np.float32)
        up = np.nextafter(limit, np.float32(np.inf))
        limit = np.where(limit.astype(np.float64) * size >= rho, limit, up)
        down = np.nextafter(limit, np.float32(-np.inf))
        limit = np.where((limit > 0) & (down.astype(np.float64) * size >= rho), down, limit)
    return np.where(size > 0, limit, np.float32(np.inf))


def run_steps(
    streams: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]],
    mask: npt.NDArray[np.uint8],
    W: FloatArray,
    a: npt.NDArray[np.float64],
    *,
    steps: int,
    batch_size: int,
    k: int,
    label_noise: float,
    eta: float,
    decay: float,
    rho: float,
    prune: bool,
) -> None:
    """Run `steps` thresholded sign steps on W (m, d), each on a fresh batch, in place.

    w_r <- (1 - lambda eta) w_r + eta st(G_r),  G_r = (1/B) sum_i k <w_r, x_i>^(k-1) a_r y_i x_i.

    Args:
        streams: states of the streams of points and of flips, which are drawn from in place.
        mask: (bytes,) packed support.
        W: (m, d) weights, updated in place.
        a: (m,) second layer.
        steps: number of steps.
        batch_size: B, at most `MAX_ROWS`.
        k: degree.
        label_noise: probability of a flipped label.
        eta: learning rate.
        decay: lambda, applied outside the sign.
        rho: threshold of the mean gradient.
        prune: leave out what cannot move.
    """
    (m, d), scale = W.shape, a * (k / batch_size)
    tiles, groups, width = -(-m // LANES), -(-d // 4), mask.size
    sizes = (groups * 4, 3, groups * 16, batch_size, 4)
    tile, lane, table, rows, four = (size * LANES for size in sizes)
    parts = aligned(tiles * tile, tiles * lane, table, table, rows, four)
    words = np.empty(-(-batch_size * width // 8), np.uint64)
    codes = words.view(np.uint8)[: batch_size * width].reshape(batch_size, width)
    with np.errstate(divide="ignore", over="ignore"):
        quiet = np.where(scale != 0, SAFETY * rho / np.abs(scale), np.inf)
        per_neuron = np.stack([_limits(scale, rho), np.sign(scale), quiet], axis=1).astype(np.float32)
    _run(
        steps, k, label_noise, np.float32(1 - decay * eta), np.float32(eta), rho, prune and decay > 0, *streams, mask,
        words, codes, np.empty(batch_size, np.float32), np.empty(batch_size if label_noise else 0), W, per_neuron,
        np.empty(m), np.empty(m, np.int64), parts[0].reshape(tiles, tile), parts[1].reshape(tiles, lane), *parts[2:],
    )  # fmt: skip
