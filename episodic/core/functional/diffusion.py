"""Labels spread over a whole data set, along a sparse graph of its features."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy  # its parts are imported when they are used
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from episodic.core.functional.pairs import unit

ROWS = 512  # items whose similarities to all others are in memory at once
COLUMNS = 32  # classes spread at once: a block that stays in the processor's cache


@dataclasses.dataclass(frozen=True, eq=False)
class PseudoLabels:
    """What a diffusion says of the items of a data set.

    - `labels [n]`: the true label of a labeled item, else the likeliest class; -1 where no label arrives.
    - `weights [n]`: 1 for a labeled item, else 1 - entropy / log(n_classes), 0 where no label arrives.
    - `class_weights [n_classes]`: see `class_weights`.
    - `residual`: the largest relative residual of the solution, see `diffuse`.
    """

    labels: np.ndarray
    weights: np.ndarray
    class_weights: np.ndarray
    residual: float


def neighbor_graph(features: Float[Tensor, "n dim"], neighbors: int = 50, gamma: float = 3.0) -> scipy.sparse.csr_array:
    """The normalized graph `S = D^-1/2 W D^-1/2` of items and their nearest neighbors. Neighbors are found by the cosine of
    features.

        A_ij = max(cos(f_i, f_j), 0)^gamma where j is among the `neighbors` nearest items of i, not i itself;  W = A + A^T

    D holds the sums of W's rows; the row of an item without edges is 0. The search is exact, at least in float32, and on the device
    of `features`. It is a matrix product and `topk`: scikit-learn's brute force takes as long for 64-dimensional features, and 1.7
    times as long for 1600-dimensional ones (38,400 items, one thread).

    **Raises:** `ValueError` for fewer than one neighbor, or a gamma that is not positive.

    >>> neighbor_graph(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]), neighbors=1).toarray().round(3).tolist()
    [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
    """
    if neighbors < 1 or gamma <= 0:
        raise ValueError(f"neighbors must be at least 1 and gamma positive, got {neighbors} and {gamma}")
    x = unit(features.detach())
    n, found = len(x), []
    for start in range(0, n, ROWS):
        similarity = x[start : start + ROWS] @ x.T
        # An item is excluded by its index, not as the first hit, which may be a copy of it.
        similarity.diagonal(start).fill_(-torch.inf)
        found.append(similarity.topk(min(neighbors, n - 1), dim=1))
    weights, columns = (torch.cat(part).cpu().numpy() for part in zip(*found, strict=True))
    rows = np.repeat(np.arange(n), columns.shape[1])
    directed = scipy.sparse.coo_array(
        (weights.clip(min=0).reshape(-1) ** gamma, (rows, columns.reshape(-1))), shape=(n, n)
    ).tocsr()
    return normalized(directed + directed.T)


def normalized(weights: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """`D^-1/2 W D^-1/2` of a symmetric W without negative entries, as in `core.functional.graph`; a row of 0 stays so."""
    weights = weights.copy()
    weights.eliminate_zeros()
    degree = weights.sum(axis=1)
    scale = np.where(degree > 0, degree, 1) ** -0.5
    weights.data *= np.repeat(scale, np.diff(weights.indptr)) * scale[weights.indices]
    return weights


def diffuse(
    graph: scipy.sparse.csr_array,
    labels: Integer[np.ndarray, " n"],
    n_classes: int,
    alpha: float = 0.99,
    iterations: int = 20,
    tolerance: float = 1e-6,
) -> tuple[Float[np.ndarray, "n n_classes"], float]:
    """Spreads labels along a graph: `Z = (I - alpha S)^-1 Y`. The system is solved by conjugate gradients, in the type of `graph`.

        Y_ic = 1 / (number of labels of class c) where item i has label c, else 0

    So all classes spread the same mass, and none wins by having more labels (as in the authors' code; the paper has 1 in the place
    of the share).

    A column ends when its residual is `tolerance` times its right-hand side, or after `iterations`. In k iterations a label reaches
    items at most k - 1 edges away. Returns Z and the largest relative residual of a column. Beside Z it needs memory for `COLUMNS`
    of its columns.
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be at least 0 and below 1, where there is a solution, got {alpha}")
    z, largest = np.empty((len(labels), n_classes), dtype=graph.dtype), 0.0
    for start in range(0, n_classes, COLUMNS):
        y = (labels[:, None] == np.arange(start, min(start + COLUMNS, n_classes))).astype(graph.dtype)
        y /= y.sum(axis=0).clip(min=1)
        z[:, start : start + COLUMNS], residual = _conjugate_gradients(graph, y, alpha, iterations, tolerance)
        largest = max(largest, residual)
    return z, largest


def pseudo_labels(
    graph: scipy.sparse.csr_array,
    labels: Integer[np.ndarray, " n"],
    n_classes: int,
    alpha: float = 0.99,
    iterations: int = 20,
    tolerance: float = 1e-6,
    *,
    relative: bool = False,
) -> PseudoLabels:
    """Labels for the items that have none (-1 in `labels`), spread from the labeled items. `diffuse` spreads them.

    `relative`: the weights of unlabeled items are divided by the largest of them.

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> pseudo_labels(neighbor_graph(features, neighbors=1), np.array([0, -1, 1, -1]), n_classes=2).labels
    array([0, 0, 1, 1])
    """
    if n_classes < 2:
        raise ValueError(f"pseudo-labels need at least 2 classes, got {n_classes}")
    z, residual = diffuse(graph, labels, n_classes, alpha, iterations, tolerance)
    weights, known = certainties(z), labels >= 0
    if relative and not known.all():
        weights = weights / max(weights[~known].max(), np.finfo(weights.dtype).tiny)
    reached = z.max(axis=1) > 0
    assigned = np.where(known, labels, np.where(reached, z.argmax(axis=1), -1))
    return PseudoLabels(assigned, np.where(known, 1, weights), class_weights(assigned, n_classes), residual)


def certainties(z: Float[np.ndarray, "n n_classes"]) -> Float[np.ndarray, " n"]:
    """How sure each row is of its class: `1 - H(p) / log(n_classes)`, p the row over its sum, and 0 for a row of 0.

    An unfinished solution may have negative entries; they count as 0.

    >>> certainties(np.array([[2.0, 0.0], [1.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    p = z.clip(min=0)
    mass = p.sum(axis=1, keepdims=True)
    p /= np.where(mass > 0, mass, 1)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)
    return np.where(mass[:, 0] > 0, (1 - entropy / math.log(z.shape[1])).clip(0, 1), 0)


def class_weights(labels: Integer[np.ndarray, " n"], n_classes: int) -> Float[np.ndarray, " n_classes"]:
    """Weights that let every class count equally: one over its number of items, scaled so that the mean over items is 1 if
    every class has some. A class without items has 0, and items of label -1 do not count.

    >>> class_weights(np.array([0, 0, 0, 1, -1]), n_classes=2).round(3).tolist()
    [0.667, 2.0]
    """
    counts = np.bincount(labels[labels >= 0], minlength=n_classes)
    return np.where(counts > 0, counts.sum() / n_classes / counts.clip(min=1), 0.0)


def _conjugate_gradients(
    graph: scipy.sparse.csr_array, y: np.ndarray, alpha: float, iterations: int, tolerance: float
) -> tuple[np.ndarray, float]:
    """The columns x of `(I - alpha S) x = y`, each with steps of its own, and the largest relative residual."""
    x, residual, direction = np.zeros_like(y), y.copy(), y.copy()
    first = square = _squares(y)
    for _ in range(iterations):
        active = square > tolerance**2 * first
        if not active.any():
            break
        image = direction - y.dtype.type(alpha) * (graph @ direction)
        bend = _products(direction, image)
        length = np.where(active, square / np.where(active, bend, 1), 0)
        x += length * direction
        residual -= length * image
        before, square = square, _squares(residual)
        direction *= np.where(active, square / np.where(active, before, 1), 0)
        direction += residual
    return x, float(np.sqrt(square / np.where(first > 0, first, 1)).max())


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->j", a, b)


def _squares(a: np.ndarray) -> np.ndarray:
    return _products(a, a)
