"""Compiled loops of the exact recursions on a CPU, where Python's call overhead would cost more than the arithmetic.

Each works in place on the numpy view of one run's tensors. `active` is the pattern sigma'(Z) = 1 of the current Z;
`control` holds the counters named below; `work` counts what was done since it was last cleared.
"""

import numpy as np
from numba import njit

# control[...]
CHUNK, BURST, FLIPS, REDUCED_STEPS, GRAM_STEPS = range(5)
MIN_CHUNK, MAX_CHUNK, MIN_BURST, MAX_BURST = 8, 1 << 20, 4, 1024


def new_control() -> np.ndarray:
    """Counters of a run that has not begun."""
    return np.array([MIN_CHUNK, MIN_BURST, 0, 0, 0], dtype=np.int64)


@njit(cache=True, nogil=True, error_model="numpy")
def margins(Z, y, gamma, q):  # type: ignore[no-untyped-def]  # noqa: D103 - typed by numba; see network.py
    rows, n = Z.shape
    m = rows // 2
    q[:] = 0
    for r in range(m):
        for i in range(n):
            q[i] += max(Z[r, i], gamma * Z[r, i])
    for r in range(m, rows):
        for i in range(n):
            q[i] -= max(Z[r, i], gamma * Z[r, i])
    for i in range(n):
        q[i] *= y[i] / m


@njit(cache=True, nogil=True, error_model="numpy")
def output_weights(Z, y, gamma, g):  # type: ignore[no-untyped-def]  # noqa: D103 - y_i g_i; see gram.py
    margins(Z, y, gamma, g)
    for i in range(len(g)):
        g[i] = y[i] / (1 + np.exp(g[i]))


@njit(cache=True, nogil=True, error_model="numpy")
def normalized_output_weights(Z, y, gamma, g):  # type: ignore[no-untyped-def]  # noqa: D103 - see normalized.py
    n = len(g)
    q = np.empty(n, Z.dtype)
    margins(Z, y, gamma, q)
    top = -np.inf
    for i in range(n):
        # log of log1p(e^-q), the loss of one point
        g[i] = -q[i] - 0.5 * np.exp(-q[i]) if q[i] > 30 else np.log(np.logaddexp(0.0, -q[i]))
        top = max(top, g[i])
    total = 0.0
    for i in range(n):
        total += np.exp(g[i] - top)
    log_loss = top + np.log(total / n)
    for i in range(n):
        g[i] = y[i] * np.exp(-np.logaddexp(0.0, q[i]) - log_loss)


@njit(cache=True, nogil=True, error_model="numpy")
def gram_update(A, Z, active, Z0, G, gamma, pull):  # type: ignore[no-untyped-def]  # noqa: D103 - see gram.py
    rows, n = Z.shape
    m = rows // 2
    for r in range(rows):
        sign = 1 if r < m else -1
        for i in range(n):
            A[r, i] += sign * pull[i] * (1 if active[r, i] else gamma)
    np.dot(A, G, Z)
    flips = 0
    for r in range(rows):
        for i in range(n):
            Z[r, i] += Z0[r, i]
            now = Z[r, i] > 0
            flips += now != active[r, i]
            active[r, i] = now
    return flips


@njit(cache=True, nogil=True, error_model="numpy")
def gram_steps(A, Z, active, control, Z0, G, y, gamma, rate, steps):  # type: ignore[no-untyped-def]  # noqa: D103
    pull = np.empty(Z.shape[1], Z.dtype)
    for _ in range(steps):
        output_weights(Z, y, gamma, pull)
        pull *= rate
        control[FLIPS] += gram_update(A, Z, active, Z0, G, gamma, pull)
    control[GRAM_STEPS] += steps


@njit(cache=True, nogil=True, error_model="numpy")
def normalized_steps(A, Z, active, control, Z0, G, y, gamma, rate, steps):  # type: ignore[no-untyped-def]  # noqa: D103
    pull = np.empty(Z.shape[1], Z.dtype)
    for _ in range(steps):
        normalized_output_weights(Z, y, gamma, pull)
        pull *= rate
        control[FLIPS] += gram_update(A, Z, active, Z0, G, gamma, pull)
    control[GRAM_STEPS] += steps


@njit(cache=True, nogil=True, error_model="numpy")
def certified_chunk(A, Z, active, Z0, G, y, gamma, rate, steps):  # type: ignore[no-untyped-def]  # noqa: D103
    rows, n = Z.shape
    m = rows // 2
    D = np.empty((rows, n), Z.dtype)
    for r in range(rows):
        for i in range(n):
            D[r, i] = 1 if active[r, i] else gamma
    # one step of the margins is q <- q + M g(q), M = eta / (n m) K
    M = np.dot(D.T, D)
    q = np.zeros(n, Z.dtype)
    for r in range(rows):
        sign = 1 if r < m else -1
        for i in range(n):
            q[i] += sign * D[r, i] * Z[r, i]
    for i in range(n):
        q[i] *= y[i] / m
        for k in range(n):
            M[i, k] *= rate * y[i] * y[k] * G[i, k] / m
    c = np.zeros(n, Z.dtype)
    g = np.empty(n, Z.dtype)
    for _ in range(steps):
        for k in range(n):
            g[k] = 1 / (1 + np.exp(q[k]))
            c[k] += g[k]
        for k in range(n):
            for i in range(n):
                q[i] += M[k, i] * g[k]
    # c grows from 0 to its end, so Z stays within Z + [sum of negative parts, sum of positive parts]
    guard = 64 * np.finfo(Z.dtype).eps
    for r in range(rows):
        sign = 1 if r < m else -1
        for i in range(n):
            up, down = 0.0, 0.0
            for k in range(n):
                move = sign * D[r, k] * y[k] * G[k, i] * c[k] * rate
                if move > 0:
                    up += move
                else:
                    down += move
            rounding = guard * (abs(Z[r, i]) + up - down)
            if active[r, i]:
                if Z[r, i] + down <= rounding:
                    return False
            elif Z[r, i] + up > -rounding:
                return False
    for r in range(rows):
        sign = 1 if r < m else -1
        for i in range(n):
            A[r, i] += sign * D[r, i] * y[i] * c[i] * rate
    np.dot(A, G, Z)
    for r in range(rows):
        for i in range(n):
            Z[r, i] += Z0[r, i]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def reduced_steps(A, Z, active, control, Z0, G, y, gamma, rate, steps):  # type: ignore[no-untyped-def]  # noqa: D103
    left = steps
    while left > 0:
        chunk = min(control[CHUNK], left)
        if certified_chunk(A, Z, active, Z0, G, y, gamma, rate, chunk):
            control[REDUCED_STEPS] += chunk
            control[BURST] = MIN_BURST
            if chunk == control[CHUNK]:
                control[CHUNK] = min(2 * control[CHUNK], MAX_CHUNK)
            left -= chunk
            continue
        if control[CHUNK] > MIN_CHUNK:
            control[CHUNK] //= 2
            continue
        # a sign is about to change: full steps, more of them each time the pattern refuses to settle
        burst = min(control[BURST], left)
        gram_steps(A, Z, active, control, Z0, G, y, gamma, rate, burst)
        control[BURST] = min(2 * control[BURST], MAX_BURST)
        left -= burst
