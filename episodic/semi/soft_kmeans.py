"""Soft k-means on the support and the unlabeled items."""

from __future__ import annotations

from torch import Tensor

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.episodes.arguments import flag
from episodic.learners.learner import AbstractLearner
from episodic.semi._refinement import ITSELF, AbstractRefinement


class SoftKMeans(AbstractRefinement):
    """Moves each prototype towards the unlabeled items that are near it. An item is shared among the classes by its distances to
    their prototypes.

        z_jc = softmax over c of -d(f(u_j), p_c) / temperature,    d(x, p) = ||x - p||^2
        p_c <- (sum of f(x) over the support of c + sum_j z_jc f(u_j)) / (K_c + sum_j z_jc),    `steps` times

    The learner then classifies the queries with the refined prototypes as its support, one for each class. A learner trained with
    this wrapper is the paper's *Soft k-Means*. If only the evaluation uses it (`python -m episodic.evaluate run=<supervised run>
    semi=soft_kmeans`), it is the *semi-supervised inference* baseline.

    Ren, Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle, Zemel: *Meta-Learning for Semi-Supervised Few-Shot
    Classification*, ICLR 2018, https://arxiv.org/abs/1803.00676. As inductive as the learner: no query sees another.

    **Arguments:** `steps`: 1 in the paper, more did not help; 0 is the learner itself. `temperature`: of the assignments, 1 in
    the paper; None for that of Prototypical Networks, or one that follows the embedding. `detach_assignments`: z is a constant to
    the gradient, as in the authors' code. `distance`: d of the assignments (paper: squared Euclidean); give it that of the
    learner. The mean stays the center, whatever the distance.

    >>> import torch
    >>> from episodic import Task
    >>> from episodic.learners.prototypical import Prototypical
    >>> backbone = torch.nn.Flatten()  # leaves vectors as they are
    >>> support, query, unlabeled = (torch.tensor(x)[None, :, None] for x in ([0.0, 2.0], [0.9], [0.5, 1.5]))
    >>> task = Task(support, torch.tensor([[0, 1]]), query, n_way=2, unlabeled=unlabeled)
    >>> prediction = SoftKMeans(Prototypical(backbone, temperature=1.0))(task)
    >>> prediction.unlabeled
    tensor([[[0.8808, 0.1192],
             [0.1192, 0.8808]]])
    >>> prediction.logits.softmax(-1)  # of the query, by prototypes at 0.31 and 1.69
    tensor([[[0.5686, 0.4314]]])
    """

    def __init__(
        self,
        learner: AbstractLearner,
        steps: int = 1,
        temperature: float | None = None,
        detach_assignments: bool = True,
        distance: AbstractDistance = SquaredEuclidean(),
    ):
        detach = flag("detach_assignments", detach_assignments)
        super().__init__(learner, "soft_kmeans", steps, temperature, distance, detach=detach)
        if steps == 0:
            self.without_effect["detach_assignments"] = ITSELF

    def weights(self, distances: Tensor, unlabeled: Tensor, initial: Tensor) -> Tensor:
        return (-distances).softmax(-1)
