"""Prototypical Networks."""

from __future__ import annotations

from torch import nn

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.core.functional.prototypes import prototypes
from episodic.episodes.arguments import instance, number
from episodic.episodes.task import Task
from episodic.learners.learner import AbstractMetricLearner, natural_temperature
from episodic.learners.prediction import Prediction


class Prototypical(AbstractMetricLearner):
    """Classifies a query by its distance to the mean embedding of each class. Nothing but the backbone is learned.

        c_n = mean of f(x) over the support of class n,    logit[q, n] = -||f(x_q) - c_n||^2 / temperature

    Snell, Swersky, Zemel: *Prototypical Networks for Few-shot Learning*, NeurIPS 2017, https://arxiv.org/abs/1703.05175.
    Inductive. Features of any shape are flattened.

    Departure: `temperature` (1 in the paper). Wide backbones have squared distances in the hundreds, on which a softmax
    saturates and from which it learns little. By default it follows the embedding: a quarter of the dimension, or an eighth of
    the squared length where embeddings have a fixed one (see `natural_temperature`). MetaOptNet's re-implementation takes the
    dimension, FEAT's 64.

    **Arguments:** `temperature` (default None): None for one that follows the embedding. `distance`: used in place of the squared
    Euclidean distance. A distance counts with a minus sign, a similarity as it is: `Cosine()` gives
    `cos(f(x_q), c_n) / temperature`. The center is always the mean, which is the best center for the squared Euclidean distance
    only.

    >>> import torch
    >>> from episodic import Task
    >>> backbone = torch.nn.Flatten()  # leaves vectors as they are
    >>> support = torch.tensor([[[0.0, 0.0], [4.0, 0.0]]])
    >>> task = Task(support, torch.tensor([[0, 1]]), query=torch.tensor([[[1.0, 0.0]]]), n_way=2)
    >>> Prototypical(backbone, temperature=1.0)(task).logits
    tensor([[[-1., -9.]]])
    >>> from episodic.core.distances.euclidean import Euclidean
    >>> Prototypical(backbone, temperature=1.0, distance=Euclidean())(task).logits
    tensor([[[-1., -3.]]])
    """

    def __init__(
        self,
        backbone: nn.Module,
        temperature: float | None = None,
        distance: AbstractDistance = SquaredEuclidean(),
    ):
        super().__init__()
        self.backbone = instance("backbone", backbone, nn.Module)
        self.temperature = None if temperature is None else number("temperature", temperature, above=0)
        self.distance = instance("distance", distance, AbstractDistance)

    def classify(self, features: Task) -> Prediction:
        support, query = features.support.flatten(2).float(), features.query.flatten(2).float()
        centers = prototypes(support, features.support_y, features.n_way)
        temperature = self.temperature or natural_temperature(self.distance, self.backbone, query.shape[-1])
        return Prediction(self.distance.similarities(query, centers) / temperature)
