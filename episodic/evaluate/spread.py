"""How embeddings spread: how little classes are compressed, how many directions are used."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.functional.pairs import unit, upcast


@dataclasses.dataclass(frozen=True)
class Density:
    """Mean cosine distance within classes (`intra`), between the centers of classes (`inter`), and `ratio`, intra by inter."""

    intra: float
    inter: float
    ratio: float


@torch.no_grad()
def density(embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Density:
    """How little classes are compressed, for the embeddings of the training set: what is compressed less generalizes better.

        intra = mean over classes of the mean of 1 - cos(x, y) over pairs of different items of the class
        inter = mean of 1 - cos(a, b) over pairs of different classes, a and b the means of their vectors of length 1

    Roth, Milbich, Sinha, Gupta, Ommer, Cohen: *Revisiting Training Strategies and Generalization Performance in Deep Metric
    Learning*, ICML 2020, https://arxiv.org/abs/2002.08473. Classes of one item have no pairs and count between classes only;
    what has no pairs at all is NaN.
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
    """`rho = KL(uniform || s)` of the singular values of the embeddings, as shares `s_1 .. s_D` of their sum; low where
    embeddings use many directions alike.

        rho = -(1/D) sum_i log(D s_i)

    Roth et al., 2020, https://arxiv.org/abs/2002.08473, for the training set, without centering. `skip`: how many of the largest
    values are left out first (the authors' `rho_spectrum@k` skips k - 1). A share below the rounding of the largest value counts
    as that, so that an unused direction costs much but not infinity; NaN where no more than rounding is left.
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
