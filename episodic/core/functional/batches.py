"""Choices among candidate batches, by the latest embeddings of their items.

Roth, Milbich, Sinha, Gupta, Ommer, Cohen: *Revisiting Training Strategies and Generalization Performance in Deep Metric Learning*,
ICML 2020, https://arxiv.org/abs/2002.08473, compare such choices with plain class-balanced batches, and find little between them.
In the authors' release the choice is made on one draw of candidates and applied to another, so their batches are random in effect.
Here it is made on the candidates that it is applied to.

Candidates are `[candidate, group, item]`: batches of groups of items of one class, as the episodes of a sampler are.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.functional.pairs import unit, upcast

QUANTILES = 50  # by which distributions of distances are compared


def greedy_coreset(
    candidates: Float[Tensor, "candidate group item dim"], classes: Int64[Tensor, "candidate group"]
) -> Int64[Tensor, " chosen"]:
    """Chooses as many groups as a batch has, far from each other. The result numbers them among all groups of all candidates.

    It starts with the first group. Then it adds one group after the other, of a class that is not chosen yet: the one whose first
    item is farthest from the first items of the chosen groups (Sener, Savarese: *Active Learning for Convolutional Neural
    Networks: A Core-Set Approach*, ICLR 2018, https://arxiv.org/abs/1708.00489). There are always enough classes, since those of
    one candidate differ.

    >>> candidates = torch.tensor([[[[0.0]], [[1.0]]], [[[5.0]], [[0.5]]]])  # two candidates of two groups of one item
    >>> greedy_coreset(candidates, classes=torch.tensor([[0, 1], [2, 3]]))
    tensor([0, 2])
    """
    first, labels = upcast(candidates[:, :, 0]).flatten(0, 1), classes.flatten()
    chosen = [torch.zeros((), dtype=torch.long, device=labels.device)]
    gap = (first - first[0]).square().sum(-1)
    for _ in range(classes.shape[1] - 1):
        gap = gap.masked_fill(labels == labels[chosen[-1]], -1)
        chosen.append(gap.argmax())
        gap = gap.minimum((first - first[chosen[-1]]).square().sum(-1))
    return torch.stack(chosen)


def density_gaps(candidates: Float[Tensor, "candidate group item dim"]) -> Float[Tensor, " candidate"]:
    """How far each candidate is from typical: it compares its embeddings, and the distances between them, with those of all
    candidates together. The smaller, the better the candidate.

        |m - m'| + |s - s'| + W_1

    with the mean m and the standard deviation s of the embeddings, coordinate by coordinate, and W_1 the mean difference of the
    quantiles of distances.

    Departure: the authors weigh W_1 by 75, but give it counts of a histogram as if they were positions.

    >>> density_gaps(torch.rand(3, 4, 2, 16)).shape  # of three candidates
    torch.Size([3])
    """
    items = upcast(candidates).flatten(1, 2)
    own = _distances(items)
    levels = torch.linspace(0, 1, QUANTILES, device=own.device, dtype=own.dtype)
    everything = items.flatten(0, 1)
    wanted = _distances(everything[None, :: len(items)])[0]  # of as many items as a candidate has
    differ = (own.quantile(levels, dim=1) - wanted.quantile(levels)[:, None]).abs().mean(0)
    means = (items.mean(1) - everything.mean(0)).norm(dim=-1)
    deviations = (items.std(1) - everything.std(0)).norm(dim=-1)
    return means + deviations + differ


def frechet_gaps(candidates: Float[Tensor, "candidate group item dim"]) -> Float[Tensor, " candidate"]:
    """How far each candidate's mean and covariance are from those of all candidates together: the squared Fréchet distance of two
    normal distributions, with covariances S and S'.

        |m - m'|^2 + tr S + tr S' - 2 tr (S^1/2 S' S^1/2)^1/2

    The last trace is the sum of the singular values of `A B^T`, for centered items A and B with S = A^T A and S' = B^T B.

    >>> frechet_gaps(torch.rand(3, 4, 2, 16)).shape  # of three candidates
    torch.Size([3])
    """
    items = upcast(candidates).flatten(1, 2)
    everything = items.flatten(0, 1)
    means, mean = items.mean(1), everything.mean(0)
    a = (items - means[:, None]) / items.shape[1] ** 0.5
    b = (everything - mean) / len(everything) ** 0.5
    shared = torch.linalg.svdvals(a @ b.mT).sum(-1)
    return (means - mean).square().sum(-1) + a.square().sum((1, 2)) + b.square().sum() - 2 * shared


def _distances(items: Float[Tensor, "candidate item dim"]) -> Float[Tensor, "candidate pair"]:
    rows, columns = torch.triu_indices(items.shape[1], items.shape[1], 1, device=items.device)
    return torch.cdist(items, items)[:, rows, columns]


def hard_negatives(
    bank: Float[Tensor, "item dim"],
    labels: Int64[Tensor, " item"],
    signatures: Float[Tensor, "n_classes dim"],
    anchors: Int64[Tensor, " anchor"],
    n_classes: int,
    pool: int,
) -> Int64[Tensor, " negative"]:
    """Chooses `n_classes` negatives for each of `anchors`, which are items of one class. They come from classes that are near
    to it, and in these from items that are near.

    First come the `pool * n_classes` other classes whose `signatures` are nearest to an anchor, by cosine. Of their items, the
    nearest ones in `bank` form a list, `pool` times as long as the number of negatives that are wanted. The negatives are drawn
    evenly from this list, by torch's own generator. With a `pool` of 1 they are the hardest.

    Suh et al., CVPR 2019 (see `core.losses.schem`). Departures: they embed the items of these classes anew, and they change the
    number of classes from step to step.
    """
    anchor, wanted = unit(bank[anchors]), n_classes * len(anchors)
    near = (anchor @ unit(signatures).mT).amax(0).index_fill(0, labels[anchors[:1]], -torch.inf)
    classes = near.topk(min(pool * n_classes, len(near) - 1)).indices
    inside = torch.isin(labels, classes)
    nearness = (anchor @ unit(bank).mT).amax(0).masked_fill(~inside, -torch.inf)
    hardest = nearness.topk(min(pool * wanted, int(inside.sum()))).indices
    return hardest[torch.randperm(len(hardest))[:wanted].to(hardest.device)]
