"""Soft k-means that learns how far from a prototype an unlabeled item may be."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.episodes.arguments import integer
from episodic.learners.learner import AbstractLearner
from episodic.semi._refinement import ITSELF, AbstractRefinement

LARGEST_EXPONENT = 20.0  # of the threshold and the slope; training stays far below it


class MaskedSoftKMeans(AbstractRefinement):
    """Moves prototypes towards the unlabeled items that are near them, as soft k-means does. A soft threshold on the distance of an
    item is learned: items beyond it do not count for a class.

        d_jc = ||f(u_j) - p_c||^2,    e_jc = d_jc / (mean of d_jc over j)
        (log beta_c, log gamma_c) = MLP(min, max, variance, skewness, kurtosis of e_jc over j)
        m_jc = sigmoid(-gamma_c (e_jc - beta_c)),    w_jc = z_jc m_jc^`mask_power`,    z as in soft k-means

    The MLP (5 - 20 - 2, tanh) is shared by all classes; it sees the statistics of the first prototypes as constants. Skewness
    and excess kurtosis are those of the population (biased).

    Ren et al.: *Meta-Learning for Semi-Supervised Few-Shot Classification*, ICLR 2018, https://arxiv.org/abs/1803.00676. The
    threshold and the slope are exponentials, as in the authors' code, so both are positive. Departures: the code's third
    output, a drift of beta from step to step, does nothing with one step and is left out.

    **Arguments:** `steps`: 1 in the paper; 0 is the learner itself. `temperature`: of z, as in `soft_kmeans`. `mask_power`: 1 in
    the paper; the code multiplies the mask in twice (2). `distance`: d (paper: squared Euclidean); the mean stays the center,
    whatever the distance.

    >>> import torch
    >>> from episodic import Task
    >>> from episodic.learners.prototypical import Prototypical
    >>> backbone = torch.nn.Flatten()  # leaves vectors as they are
    >>> support, query, unlabeled = (torch.tensor(x)[None, :, None] for x in ([0.0, 4.0], [1.0], [1.0, 3.0, 9.0]))
    >>> task = Task(support, torch.tensor([[0, 1]]), query, n_way=2, unlabeled=unlabeled)
    >>> prediction = MaskedSoftKMeans(Prototypical(backbone))(task)
    >>> prediction.unlabeled.shape
    torch.Size([1, 3, 2])
    >>> bool(prediction.unlabeled[0, 2].sum() < prediction.unlabeled[0, 1].sum())  # the item far away counts for less
    True
    """

    def __init__(
        self,
        learner: AbstractLearner,
        steps: int = 1,
        temperature: float | None = None,
        mask_power: int = 1,
        distance: AbstractDistance = SquaredEuclidean(),
    ):
        super().__init__(learner, "masked_soft_kmeans", steps, temperature, distance)
        if steps == 0:
            self.without_effect["mask_power"] = ITSELF
        self.mask_power = integer("mask_power", mask_power, at_least=0, note=" (0 is no mask)")
        self.mask = nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 2))
        for layer in (self.mask[0], self.mask[2]):  # near zero, so that beta and gamma start near 1
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(layer.bias)

    def weights(self, distances: Tensor, unlabeled: Tensor, initial: Tensor) -> Tensor:
        found = self.mask(statistics(normalized_distances(initial)).detach())
        beta, gamma = found.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp().unsqueeze(1).unbind(-1)
        mask = (-gamma * (normalized_distances(distances) - beta)).sigmoid()
        return (-distances).softmax(-1) * mask**self.mask_power


def normalized_distances(
    distances: Float[Tensor, "episode unlabeled way"],
) -> Float[Tensor, "episode unlabeled way"]:
    """Distances divided by the mean of their class; 0 if all distances of a class are 0."""
    mean = distances.mean(1, keepdim=True)
    return distances / torch.where(mean > 0, mean, 1)


def statistics(distances: Float[Tensor, "episode unlabeled way"]) -> Float[Tensor, "episode way 5"]:
    """Minimum, maximum, variance, skewness and excess kurtosis over the unlabeled items, of the population; the last two are
    0 and -3 where all are equal.
    """
    centered = distances - distances.mean(1, keepdim=True)
    variance = centered.square().mean(1)
    scale = torch.where(variance > 0, variance, 1)
    skewness = (centered**3).mean(1) / scale**1.5
    kurtosis = (centered**4).mean(1) / scale**2 - 3
    return torch.stack([distances.amin(1), distances.amax(1), variance, skewness, kurtosis], dim=-1)
