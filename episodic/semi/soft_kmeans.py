"""Soft k-means on the support and the unlabeled items."""

from __future__ import annotations

from torch import Tensor

from episodic.learners.learner import AbstractLearner
from episodic.semi._refinement import AbstractRefinement, check_refinement
from episodic.semi.wrapper import metric


class SoftKMeans(AbstractRefinement):
    """Moves each prototype towards the unlabeled items that are near it.

        z_jc = softmax over c of -||f(u_j) - p_c||^2 / temperature
        p_c <- (sum of f(x) over the support of c + sum_j z_jc f(u_j)) / (K_c + sum_j z_jc),    `steps` times

    Queries are then classified by the learner, which sees the refined prototypes as its support, one a class. Trained with
    it is the paper's *Soft k-Means*; with a learner that was trained without, in evaluation only (`python -m
    episodic.evaluate run=<supervised run> semi=soft_kmeans`), it is the *semi-supervised inference* baseline.

    Ren, Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle, Zemel: *Meta-Learning for Semi-Supervised Few-Shot
    Classification*, ICLR 2018, https://arxiv.org/abs/1803.00676. As inductive as the learner: no query sees another.

    **Arguments:** `steps`: 1 in the paper, more did not help; 0 is the learner itself. `temperature`: of the assignments, 1 in
    the paper; give it that of the learner. `detach_assignments`: z is a constant to the gradient, as in the authors' code.
    """

    def __init__(
        self, learner: AbstractLearner, steps: int = 1, temperature: float = 1.0, detach_assignments: bool = True
    ):
        super().__init__()
        check_refinement(steps, temperature)
        self.learner = metric(learner, "soft_kmeans")
        self.steps = steps
        self.temperature = temperature
        self.detach = detach_assignments

    def weights(self, distances: Tensor, unlabeled: Tensor, initial: Tensor) -> Tensor:
        return (-distances).softmax(-1)
