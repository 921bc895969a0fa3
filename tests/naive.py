"""The formulas of the merge methods, written straight down in float64 numpy, to compare with.

Everything takes lists of arrays of one shape; task vectors where a method works on these.
"""

from __future__ import annotations

import numpy as np


def linear(tensors, weights, normalize=True):
    total = sum(w * x for w, x in zip(weights, tensors, strict=True))
    return total / sum(weights) if normalize else total


def slerp(tensors, weights, t=None):
    soup, soup_weight = tensors[0], weights[0]
    for x, w in zip(tensors[1:], weights[1:], strict=True):
        share = w / (soup_weight + w) if t is None else t
        norms = np.linalg.norm(soup) * np.linalg.norm(x)
        cosine = np.sum(soup * x) / norms if norms else 1.0
        if abs(cosine) > 0.9995:
            soup = (1 - share) * soup + share * x
        else:
            phi = np.arccos(cosine)
            soup = (np.sin((1 - share) * phi) * soup + np.sin(share * phi) * x) / np.sin(phi)
        soup_weight += w
    return soup


def keep_largest(x, k):
    """Zeroes all but the k entries of largest magnitude, the earlier first among equals."""
    flat = x.reshape(-1)
    order = np.argsort(-np.abs(flat), kind="stable")
    out = np.zeros_like(flat)
    out[order[:k]] = flat[order[:k]]
    return out.reshape(x.shape)


def trim(x, density):
    return keep_largest(x, max(1, int(np.floor(density * x.size))))


def outliers(x, density, gamma):
    top = int(gamma * x.size)
    return keep_largest(x, top + int(density * x.size)) - keep_largest(x, top)


def probabilities(x, density, epsilon):
    """DELLA's chance of each entry to stay."""
    rows = np.abs(x).reshape(x.shape[0] if x.ndim > 1 else 1, -1)
    n = rows.shape[1]
    if n == 1:
        return np.full(x.shape, density)
    ranks = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1, kind="stable")
    return ((density - epsilon) + 2 * epsilon * ranks / (n - 1)).reshape(x.shape)


def consensus(deltas, weights, elect="mass", normalize=True):
    values = [w * d for w, d in zip(weights, deltas, strict=True)]
    vote = sum(values) if elect == "mass" else sum(np.sign(v) for v in values)
    gamma = np.where(vote >= 0, 1.0, -1.0)
    agreeing = [np.sign(v) == gamma for v in values]
    total = sum(np.where(agrees, v, 0.0) for agrees, v in zip(agreeing, values, strict=True))
    if not normalize:
        return total
    weight = sum(np.where(agrees, abs(w), 0.0) for agrees, w in zip(agreeing, weights, strict=True))
    return total / np.where(weight == 0, 1.0, weight)


def model_stock(deltas):
    k = len(deltas)
    if k == 1:
        return deltas[0]
    cosines = [
        np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b))
        for i, a in enumerate(deltas)
        for b in deltas[:i]
    ]
    c = np.mean(cosines)
    return k * c / (1 + (k - 1) * c) * np.mean(deltas, axis=0)
