"""Propagation on graphs of items: weights, neighbors, normalization, closed form. All functions accept any leading axes.

A graph is a symmetric matrix of weights `W [..., n, n]`, 0 where there is no edge. Methods differ in the edges that they keep: TPN
keeps self-loops and few neighbors; label spreading (Zhou et al., *Learning with Local and Global Consistency*, NeurIPS 2003) has
no self-loops, and in scikit-learn it keeps all other edges.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from episodic.core.functional.pairs import squared_euclidean, upcast, upcast_both

SMALLEST_DEGREE = 1e-24  # the derivative of its inverse root, 1e36 / 2, is still a float32


def gaussian_affinities(x: Float[Tensor, "*axes n dim"], gamma: float) -> Float[Tensor, "*axes n n"]:
    """The graph of all items, whose weights fall with distance: `W_ij = exp(-gamma ||x_i - x_j||^2)`, at least in float32. The
    diagonal is 1 up to rounding, so every item has a self-loop.

    >>> gaussian_affinities(torch.tensor([[0.0], [1.0]]), gamma=0.0)
    tensor([[1., 1.],
            [1., 1.]])
    """
    return (-gamma * squared_euclidean(x, x)).exp()


def without_self_loops(weights: Float[Tensor, "*axes n n"]) -> Float[Tensor, "*axes n n"]:
    """The graph with a diagonal of 0. Take it before `keep_nearest`, where an item would count as its own neighbor.

    >>> without_self_loops(torch.ones(2, 2))
    tensor([[0., 1.],
            [1., 0.]])
    """
    loop = torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device)
    return weights.masked_fill(loop, 0)


def length_scales(distances: Float[Tensor, "*axes m n"], k: int) -> Float[Tensor, "*axes m"]:
    """How far apart items are around each item: the root of the `k`-th smallest entry of each row of squared distances.

    Zelnik-Manor, Perona: *Self-Tuning Spectral Clustering*, NeurIPS 2004. The scale is at least a hundredth of the root of
    the row's mean, so that items which coincide have one too.

    >>> length_scales(torch.tensor([[0.0, 4.0, 9.0]]), k=2)
    tensor([2.])
    """
    distances = upcast(distances)
    smallest = distances.topk(min(k, distances.shape[-1]), dim=-1, largest=False).values[..., -1]
    return torch.maximum(smallest, 1e-4 * distances.mean(-1)).clamp(min=1e-12).sqrt()


def nearest(weights: Float[Tensor, "*axes m n"], k: int) -> Bool[Tensor, "*axes m n"]:
    """Which entries are among the `k` largest of their row. Among equal entries the choice is arbitrary.

    >>> nearest(torch.tensor([[0.1, 0.7, 0.4]]), k=2)
    tensor([[False,  True,  True]])
    """
    if k < 1:
        raise ValueError(f"k, the edges that an item keeps, must be at least 1, got {k}")
    indices = weights.topk(min(k, weights.shape[-1]), dim=-1).indices
    return torch.zeros_like(weights, dtype=torch.bool).scatter(-1, indices, True)


def keep_nearest(weights: Float[Tensor, "*axes n n"], k: int) -> Float[Tensor, "*axes n n"]:
    """The graph of the `k` heaviest edges of each item. An edge stays if either end keeps it, so a row may have more than k.

    Which edges stay is a constant to the gradient, which goes through their weights. With `k >= n` all stay. Among
    equal weights the choice is arbitrary.

    >>> keep_nearest(torch.tensor([[0.0, 0.9, 0.2], [0.9, 0.0, 0.5], [0.2, 0.5, 0.0]]), k=1)
    tensor([[0.0000, 0.9000, 0.0000],
            [0.9000, 0.0000, 0.5000],
            [0.0000, 0.5000, 0.0000]])
    """
    kept = nearest(weights, k)
    return weights.masked_fill(~(kept | kept.mT), 0)


def normalized(weights: Float[Tensor, "*axes n n"]) -> Float[Tensor, "*axes n n"]:
    """The graph scaled so that its eigenvalues lie in [-1, 1]: `S = D^-1/2 W D^-1/2`, D the diagonal matrix of the degrees,
    which are the sums of W's rows.

    The row of an item without an edge is 0, and so is its gradient. A degree below 1e-24 counts as 0.

    >>> normalized(torch.tensor([[0.0, 4.0], [4.0, 0.0]])).round(decimals=3)
    tensor([[0., 1.],
            [1., 0.]])
    """
    weights = upcast(weights)
    scale = weights.sum(-1).clamp(min=SMALLEST_DEGREE).rsqrt()
    return scale[..., :, None] * weights * scale[..., None, :]


def clamped(weights: Float[Tensor, "*axes n n"], n_labeled: int) -> Float[Tensor, "*axes n n"]:
    """The graph with labeled items that keep their labels: `P = D^-1 W` with rows of 0 for the first `n_labeled` items. They take
    nothing from others in `propagate`.

    As alpha nears 1 the others' scores near the harmonic function, `F_u = (I - P_uu)^-1 P_ul Y_l` (Zhu, Ghahramani, Lafferty:
    *Semi-Supervised Learning Using Gaussian Fields and Harmonic Functions*, ICML 2003).

    >>> clamped(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), n_labeled=1)
    tensor([[0., 0.],
            [1., 0.]])
    """
    weights = upcast(weights)
    rows = weights / weights.sum(-1, keepdim=True).clamp(min=SMALLEST_DEGREE)
    labeled = torch.arange(weights.shape[-1], device=weights.device) < n_labeled
    return rows.masked_fill(labeled[:, None], 0)


def propagate(
    transitions: Float[Tensor, "*axes n n"], labels: Float[Tensor, "*axes n way"], alpha: float
) -> Float[Tensor, "*axes n way"]:
    """The scores of all items after `labels` Y have spread along a normalized graph S. They are `F = (I - alpha S)^-1 Y`, the sum
    of `alpha^t S^t Y` over all t.

    `alpha` in [0, 1) is the share of its scores that an item passes on; 0 leaves Y. Rows do not sum to 1: one label gives an item
    at most `1 / (1 - alpha)`, and an item that no label reaches has a row of 0. Iterating `F = alpha S F + (1 - alpha) Y` ends in
    `(1 - alpha)` times this.

    >>> edge, known = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[3.0], [0.0]])
    >>> propagate(edge, known, alpha=0.5).round(decimals=3)
    tensor([[4.],
            [2.]])
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be at least 0 and below 1, where the sum is finite, got {alpha}")
    transitions, labels = upcast_both(transitions, labels)
    identity = torch.eye(transitions.shape[-1], dtype=transitions.dtype, device=transitions.device)
    return torch.linalg.solve(identity - alpha * transitions, labels)
