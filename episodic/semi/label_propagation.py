"""Labels that spread to unlabeled items along a graph of the episode."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.core.functional.graph import (
    SMALLEST_DEGREE,
    clamped,
    keep_nearest,
    length_scales,
    nearest,
    normalized,
    propagate,
    without_self_loops,
)
from episodic.core.functional.prototypes import one_hot
from episodic.episodes.arguments import flag, integer, number
from episodic.episodes.task import Task
from episodic.learners.learner import AbstractLearner
from episodic.learners.prediction import Prediction
from episodic.semi.wrapper import AbstractWrapper, check_distance, check_metric_learner

LEAST = 1e-6  # added to a share before its logarithm: an item that no label reaches gets equal logits
SMALLEST_TOTAL = 1e-24  # smallest sum of scores of an item that a label reaches


class LabelPropagation(AbstractWrapper):
    """Spreads the labels of the support along a graph of support and unlabeled items. Queries are answered by their neighbors in
    that graph.

        W_ij = exp(-gamma d(f(x_i), f(x_j)) / (s_i s_j)),    W_ii = 0,    d(x, y) = ||x - y||^2
        s_i^2 = d to the `scale_neighbor`-th nearest
        S = D^-1/2 W D^-1/2 of the `neighbors` heaviest edges of each item,    F = (I - alpha S)^-1 Y
        logit[q, c] = log of F_qc / sum over c of F_qc

    Y is one-hot for the support and 0 elsewhere. Only the embedding of the learner is used; with `alpha` = 0 the answer is the
    learner's own. A query is added to the finished graph by its own `neighbors` heaviest edges. The scales of the other items,
    their edges and the degrees in these edges do not change:

        F_q = alpha sum over j of S_qj F_j,    S_qj = W_qj / (D_q (D_j + W_qj))^1/2

    Scores that flow back from q to the others would only multiply this F_q by a number, so the answer is the same as in a graph
    with q. With `transductive` all queries are in the graph; then labels spread even without unlabeled items.

    Zhou, Bousquet, Lal, Weston, Schölkopf: *Learning with Local and Global Consistency*, NeurIPS 2003,
    https://papers.nips.cc/paper/2506-learning-with-local-and-global-consistency. Transductive, with `scale_neighbor` = 0
    (then s = 1) and `neighbors` = 0 (then all edges stay), it is scikit-learn's `LabelSpreading(kernel="rbf")`. With `clamp`
    the support keeps its labels exactly: S = D^-1 W with rows of 0 for the support, S_qj = W_qj / D_q; as alpha nears 1 that is
    scikit-learn's `LabelPropagation` and, where not transductive, its `predict_proba`.

    Departures: the scales (see `length_scales`), which make gamma independent of the units, and the neighbors. The paper has
    alpha = 0.99, but on a small dense graph alpha near 1 gives every item the label with the largest degree. TPN's
    semi-supervised variant (Liu et al., ICLR 2019) builds the whole graph anew for each query: about the same answers, at the
    cost of a linear system for each query.

    **Arguments:** `alpha`: in [0, 1), how much an item passes on; 0 is the learner itself. `gamma`: how fast an edge loses
    weight with distance. `scale_neighbor`: the neighbor whose distance is an item's scale; 0 for none. `neighbors`: edges
    that an item keeps; 0 for all. `distance`: d (paper: squared Euclidean). With one that is not symmetric, such as the
    signal-to-noise ratio, the graph is directed: W_ij is how much item i takes from item j. The formulas stay as they are.

    >>> import torch
    >>> from episodic import Task
    >>> from episodic.learners.prototypical import Prototypical
    >>> backbone = torch.nn.Flatten()  # leaves vectors as they are
    >>> points = [0.0, 10.0], [4.0], [1.0, 2.0, 3.0, 9.0, 11.0]
    >>> support, query, unlabeled = (torch.tensor(x)[None, :, None] for x in points)
    >>> task = Task(support, torch.tensor([[0, 1]]), query, n_way=2, unlabeled=unlabeled)
    >>> prediction = LabelPropagation(Prototypical(backbone), scale_neighbor=2)(task)
    >>> prediction.unlabeled.argmax(-1)
    tensor([[0, 0, 0, 1, 1]])
    >>> prediction.logits.argmax(-1)
    tensor([[0]])
    """

    def __init__(
        self,
        learner: AbstractLearner,
        alpha: float = 0.8,
        gamma: float = 8.0,
        scale_neighbor: int = 5,
        neighbors: int = 20,
        transductive: bool = False,
        clamp: bool = False,
        distance: AbstractDistance = SquaredEuclidean(),
    ):
        super().__init__()
        self.learner = check_metric_learner(learner, "label_propagation")
        self.alpha = alpha = number("alpha", alpha, at_least=0, below=1, note=" (0 is the learner itself)")
        self.gamma = number("gamma", gamma, above=0)
        self.scale_neighbor = integer("scale_neighbor", scale_neighbor, at_least=0)
        self.neighbors = integer("neighbors", neighbors, at_least=0)
        self.joint = self.works_without_unlabeled = transductive = flag("transductive", transductive)
        self.changes = {"uses_unlabeled": True, "incremental": False}
        self.keeps_own_loss = alpha == 0
        self.takes_embedding_alone = alpha > 0
        if transductive and alpha > 0:
            self.changes["transductive"] = True
        self.clamp = flag("clamp", clamp)
        self.distance = check_distance(distance, "label_propagation")
        if alpha == 0:
            idle = ("gamma", "scale_neighbor", "neighbors", "transductive", "clamp", "distance")
            self.without_effect = dict.fromkeys(idle, "alpha=0 is the learner itself")

    def classify_with_unlabeled(self, features: Task) -> Prediction:
        if self.alpha == 0:
            return self.learner.classify(features)
        support, query = features.support.flatten(2), features.query.flatten(2)
        unlabeled = query[:, :0] if features.unlabeled is None else features.unlabeled.flatten(2)
        items = torch.cat([support, unlabeled, query if self.joint else query[:, :0]], dim=1)
        n_support, n_known = support.shape[1], support.shape[1] + unlabeled.shape[1]
        labels = pad(one_hot(features.support_y, features.n_way), (0, 0, 0, items.shape[1] - n_support))

        distances = self.distance.distances(items, items)
        scales = self.scales(distances, self.scale_neighbor + 1)  # the first is the item itself
        weights = without_self_loops(self.affinities(distances, scales, scales))
        if self.neighbors:
            weights = keep_nearest(weights, self.neighbors)
        transitions = clamped(weights, n_support) if self.clamp else normalized(weights)
        scores = propagate(transitions, labels, self.alpha)

        if self.joint:
            answers = scores[:, n_known:]
        else:
            across = self.distance.distances(query, items)
            edges = self.affinities(across, self.scales(across, self.scale_neighbor), scales)
            if self.neighbors:
                edges = edges.masked_fill(~nearest(edges, self.neighbors), 0)
            if not self.clamp:
                edges = edges * (weights.sum(-1)[:, None] + edges).clamp(min=SMALLEST_DEGREE).rsqrt()
            answers = edges @ scores
        taken = None if features.unlabeled is None else shares(scores[:, n_support:n_known])
        return Prediction((shares(answers) + LEAST).log(), unlabeled=taken)

    def scales(self, distances: Float[Tensor, "episode m n"], neighbor: int) -> Float[Tensor, "episode m"]:
        """`s` of each row, from its `neighbor`-th nearest column; 1 if `scale_neighbor` is 0."""
        return length_scales(distances, neighbor) if self.scale_neighbor else torch.ones_like(distances[..., 0])

    def affinities(
        self,
        distances: Float[Tensor, "episode m n"],
        row: Float[Tensor, "episode m"],
        column: Float[Tensor, "episode n"],
    ) -> Float[Tensor, "episode m n"]:
        """`W` between rows and columns, from their distances and scales."""
        return (-self.gamma * distances / (row[..., :, None] * column[..., None, :])).exp()


def shares(scores: Float[Tensor, "episode item way"]) -> Float[Tensor, "episode item way"]:
    """Scores over their sum. They are 0 for an item that no label reaches.

    >>> import torch
    >>> shares(torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]))
    tensor([[[0.2500, 0.7500],
             [0.0000, 0.0000]]])
    """
    scores = scores.clamp(min=0)  # rounding
    total = scores.sum(-1, keepdim=True)
    return scores / torch.where(total > SMALLEST_TOTAL, total, 1)
