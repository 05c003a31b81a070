"""Measures how embeddings spread: how tight classes are, and how many directions are used."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.functional.pairs import unit, upcast


@dataclasses.dataclass(frozen=True)
class Density:
    """How tight classes are. `intra` is the mean cosine distance within classes, `inter` that between the centers of classes, and
    `ratio` is `intra / inter`.
    """

    intra: float
    inter: float
    ratio: float


@torch.no_grad()
def density(embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Density:
    """How tight the classes of a set of embeddings are. Meant for the training set: where its classes are less tight, embeddings
    generalize better to new classes.

        intra = mean over classes of the mean of 1 - cos(x, y) over pairs of different items of the class
        inter = mean of 1 - cos(a, b) over pairs of different classes, a and b the means of their vectors of length 1

    Roth, Milbich, Sinha, Gupta, Ommer, Cohen: *Revisiting Training Strategies and Generalization Performance in Deep Metric
    Learning*, ICML 2020, https://arxiv.org/abs/2002.08473. A class of one item has no pairs and counts between classes only. Where
    there are no pairs at all the value is NaN.

    >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> density(embeddings, torch.tensor([0, 0, 1, 1]))
    Density(intra=0.0, inter=1.0, ratio=0.0)
    """
    x = unit(embeddings)
    classes, place, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = x.new_zeros(len(classes), x.shape[1]).index_add_(0, place, x)
    squares = x.new_zeros(len(classes)).index_add_(0, place, x.square().sum(1))
    several = counts > 1
    intra = float(_mean_distance(sums, squares, counts)[several].mean())
    centers = unit(sums)
    n = torch.tensor(len(classes), device=x.device)
    inter = float(_mean_distance(centers.sum(0), centers.square().sum(), n)) if len(classes) > 1 else float("nan")
    return Density(intra, inter, intra / inter if inter else float("nan"))


def _mean_distance(sums: Tensor, squares: Tensor, counts: Tensor) -> Tensor:
    """Mean of 1 - x y over pairs of different vectors, of which there are `counts`, from their sum and that of their squares."""
    return (1 - (sums.square().sum(-1) - squares) / (counts * (counts - 1))).clamp(min=0)


@torch.no_grad()
def spectral_decay(embeddings: Float[Tensor, "item dim"], skip: int = 0) -> float:
    """How unevenly embeddings use the directions of their space. It is 0 where all directions are used alike, and grows the fewer
    of them are used.

        rho = KL(uniform || s) = -(1/D) sum_i log(D s_i)

    with `s_1 .. s_D` the singular values of the embeddings, divided by their sum. Roth et al., 2020,
    https://arxiv.org/abs/2002.08473, for the training set, without centering. A share below the rounding of the largest value
    counts as that rounding, so that an unused direction costs much but not infinity. The value is NaN where no more than rounding
    is left.

    **Arguments:** `skip` (default 0): how many of the largest values are left out first (the authors' `rho_spectrum@k` skips k -
    1).

    **Raises:** `ValueError` where `skip` leaves no value.

    >>> round(spectral_decay(torch.diag(torch.tensor([1.0, 0.1]))), 2)
    0.55
    """
    values = torch.linalg.svdvals(upcast(embeddings)).cpu().double()  # the largest first
    if not 0 <= skip < len(values):
        raise ValueError(f"skip must leave some of the {len(values)} singular values, got {skip}")
    smallest = torch.finfo(upcast(embeddings).dtype).eps * values[0]
    values = values[skip:]
    if not (values > smallest).any():
        return float("nan")
    shares = values.clamp(min=smallest)
    shares = shares / shares.sum()
    return float(-(len(shares) * shares).log().mean())
