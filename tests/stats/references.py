"""The definitions of the methods as their sources state them, on raw values or plain histograms: slow and plain."""

import numpy as np
from scipy.stats import entropy


def smooth(p, eps=1e-4):
    """MXNet's smoothing; None where it is not defined."""
    zeros = p == 0
    nonzero = p.size - zeros.sum()
    if nonzero == 0:
        return None
    taken = eps * zeros.sum() / nonzero
    if taken >= 1.0:
        return None
    return np.where(zeros, eps, p - taken)


def relay_divergences(hist, levels):
    """Apache TVM, src/relay/quantize/calibrate.cc, MinimizeKL, candidate by candidate."""
    bins = hist.size
    middle, half = bins // 2, levels // 2
    out = []
    for i in range(half, middle + 1):
        start, stop = middle - i, middle + i + 1
        n = stop - start
        inside = np.zeros(n)
        inside[1:] = hist[start + 1 : stop]
        p = inside.copy()
        p[0] = hist[: start + 1].sum()
        p[-1] += hist[stop:].sum()
        merged = n // levels
        q = np.zeros(n)
        for j in range(levels):
            a, b = j * merged, n if j == levels - 1 else (j + 1) * merged
            norm = np.count_nonzero(inside[a:b])
            if norm:
                q[a:b] = np.where(p[a:b] != 0, inside[a:b].sum() / norm, 0.0)
        sp, sq = smooth(p), smooth(q)
        out.append(np.inf if sp is None or sq is None else entropy(sp, sq))
    return np.array(out)


def tensorrt_divergences(hist, levels=128):
    """S. Migacz, GTC 2017, slides 37 to 39, candidate by candidate."""
    out = []
    for i in range(levels, hist.size + 1):
        p = hist[:i].astype(float)
        q = np.zeros(i)
        for j in range(levels):
            a, b = j * i // levels, (j + 1) * i // levels
            occupied = np.count_nonzero(hist[a:b])
            if occupied:
                q[a:b] = np.where(hist[a:b] > 0, hist[a:b].sum() / occupied, 0.0)
        p[-1] += hist[i:].sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            out.append(entropy(p, q) if q.sum() else np.inf)
    return np.array(out)


def mean_squared_error(x, scale, qmin, qmax, zero_point):
    """Mean squared error of the quantizer on raw values."""
    x = np.asarray(x, np.float64)
    q = np.clip(np.rint(x / scale) + zero_point, qmin, qmax)
    return float(np.mean((x - scale * (q - zero_point)) ** 2))
