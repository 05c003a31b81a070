"""Soft k-means with a further cluster for distractors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.episodes.arguments import number
from episodic.learners.learner import AbstractLearner
from episodic.semi._refinement import ITSELF, AbstractRefinement


class SoftKMeansCluster(AbstractRefinement):
    """Moves prototypes towards the unlabeled items that are near them, as soft k-means does. One more, wide cluster at the origin
    takes the items that belong to no class of the task.

        z_jc = softmax over c = 1..n_way + 1 of -d(f(u_j), p_c) / r_c^2 - A(r_c),    A(r) = log(2 pi) / 2 + log r

    with d(x, p) = ||x - p||^2, p = 0 and a learned radius r for the last cluster, and r = 1 for the others. Its share is dropped:
    the weights of an item sum to less than 1, and queries are classified over the classes alone. Distances are divided by
    `temperature`.

    Ren et al.: *Meta-Learning for Semi-Supervised Few-Shot Classification*, ICLR 2018, https://arxiv.org/abs/1803.00676. The
    paper's form. The authors' code differs: it halves the distances, moves the last cluster to the mean of what it takes, and
    also lets queries be answered with it, which counts as wrong. The origin is far from all items only where embeddings
    are not normalized.

    **Arguments:** `steps`: 1 in the paper; 0 is the learner itself. `radius`: of the last cluster at the start (100 in the
    code). `distance`: d of the assignments (paper: squared Euclidean); the mean stays the center, whatever the distance. By the
    cosine and by the signal-to-noise ratio the origin is at a distance of 1 from everything.

    >>> import torch
    >>> from episodic import Task
    >>> from episodic.learners.prototypical import Prototypical
    >>> backbone = torch.nn.Flatten()  # leaves vectors as they are
    >>> support, query, unlabeled = (torch.tensor(x)[None, :, None] for x in ([3.0, 5.0], [0.0], [3.5, -1.0]))
    >>> task = Task(support, torch.tensor([[0, 1]]), query, n_way=2, unlabeled=unlabeled)
    >>> prediction = SoftKMeansCluster(Prototypical(backbone, temperature=1.0), radius=2)(task)
    >>> prediction.unlabeled.sum(-1).detach().round(decimals=2)  # the second item is of no class
    tensor([[0.9700, 0.0000]])
    """

    def __init__(
        self,
        learner: AbstractLearner,
        steps: int = 1,
        temperature: float | None = None,
        radius: float = 100.0,
        distance: AbstractDistance = SquaredEuclidean(),
    ):
        super().__init__(learner, "soft_kmeans_cluster", steps, temperature, distance)
        self.log_radius = nn.Parameter(torch.tensor(math.log(number("radius", radius, above=0))))
        if steps == 0:
            self.without_effect["radius"] = ITSELF

    def weights(self, distances: Tensor, unlabeled: Tensor, initial: Tensor) -> Tensor:
        origin = torch.zeros_like(unlabeled[:, :1])
        to_origin = self.distance.distances(unlabeled, origin) / self.temperature_for(unlabeled.shape[-1])
        # log(2 pi) / 2 is the same for all clusters, and log r is 0 for the classes.
        wide = -to_origin * (-2 * self.log_radius).exp() - self.log_radius
        return torch.cat([-distances, wide], dim=-1).softmax(-1)[..., :-1]
