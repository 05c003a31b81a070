"""Soft k-means with a further cluster for distractors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from episodic.learners.learner import AbstractLearner
from episodic.semi._refinement import AbstractRefinement, check_refinement
from episodic.semi.wrapper import metric


class SoftKMeansCluster(AbstractRefinement):
    """Soft k-means in which one more, wide cluster at the origin takes up the items of no class of the task.

        z_jc = softmax over c = 1..n_way + 1 of -||f(u_j) - p_c||^2 / r_c^2 - A(r_c),    A(r) = log(2 pi) / 2 + log r

    with p = 0 and a learned radius r for the last cluster, and r = 1 for the others. Its share is dropped: the weights of an
    item sum to less than 1, and queries are classified over the classes alone. Distances are divided by `temperature`.

    Ren et al.: *Meta-Learning for Semi-Supervised Few-Shot Classification*, ICLR 2018, https://arxiv.org/abs/1803.00676. The
    paper's form. The authors' code differs: it halves the distances, moves the last cluster to the mean of what it takes, and
    lets queries be answered with it as well, which then counts as wrong. The origin is far from all items only where embeddings
    are not normalized.

    **Arguments:** `steps`: 1 in the paper; 0 is the learner itself. `radius`: of the last cluster at the start (100 in the
    code).
    """

    def __init__(self, learner: AbstractLearner, steps: int = 1, temperature: float = 1.0, radius: float = 100.0):
        super().__init__()
        check_refinement(steps, temperature)
        if radius <= 0:
            raise ValueError(f"radius must be positive, got {radius}")
        self.learner = metric(learner, "soft_kmeans_cluster")
        self.steps = steps
        self.temperature = temperature
        self.log_radius = nn.Parameter(torch.tensor(math.log(radius)))

    def weights(self, distances: Tensor, unlabeled: Tensor, initial: Tensor) -> Tensor:
        to_origin = unlabeled.square().sum(-1, keepdim=True) / self.temperature
        # log(2 pi) / 2 is the same for all clusters, and log r is 0 for the classes.
        wide = -to_origin * (-2 * self.log_radius).exp() - self.log_radius
        return torch.cat([-distances, wide], dim=-1).softmax(-1)[..., :-1]
