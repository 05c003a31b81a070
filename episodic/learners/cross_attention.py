"""Cross Attention Network, CAN, and its transductive form, CAN+T."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from episodic.core.functional.prototypes import one_hot
from episodic.core.regularizers.sse import label_swap_of
from episodic.episodes.arguments import integer, number
from episodic.episodes.share import for_whole_batch
from episodic.episodes.task import Episode, Task
from episodic.learners.learner import AbstractMetricLearner, Capabilities, map_shape
from episodic.learners.prediction import Prediction

PAIRS = 2**16  # pairs of query and class that evaluation computes together


class CrossAttention(AbstractMetricLearner):
    """Weights the positions of each class map P_n and query map Q_q by what the two maps have in common. Then it compares the
    weighted maps by their cosine.

        A^p, A^q = attention of the pair (see `PairAttention`),    P' = A^p P,    Q' = A^q Q
        logit[q, n] = scale * cos(mean of P' over positions, mean of Q' over positions)

    Training, for a query of class y, at each position i of its map: a cross-entropy over the episode's classes,
    `nearest_weight` times, with logits `scale * cos(Q'_i, mean of P'_n)`; and one over all training classes, by a linear
    classifier of Q'_i as attended for class y. Both are means over queries and positions.

    With `candidates > 0` the answer is transductive (CAN+T): in round t = 1, 2, ... the `t * r` most confident queries,
    r = `candidates` times the number of queries, join the support under the labels that they were given, and all queries are
    answered again; 0.47 gives the paper's two rounds of 35 and 70 of 75 queries. Training is always inductive.

    Hou, Chang, Ma, Shan, Chen: *Cross Attention Network for Few-shot Classification*, NeurIPS 2019,
    https://arxiv.org/abs/1910.07677. The mean in `PairAttention` follows the released code; the paper has a sum.

    Attended maps are never stored: the means and cosines of P' and Q' are sums over positions that need only the attention,
    `[E, Q, n_way, h * w]`. Evaluation computes a large episode in pieces.

    **Arguments:**

    - `backbone`: with maps `(C, h, w)` of two positions at least.
    - `n_classes`: training classes.
    - `scale`: on the cosine. `temperature`: of the attention. `nearest_weight`: of the loss over the episode's classes.
    - `candidates`: the share of the queries that joins the support in each round; 0 for an inductive answer.
    - `label_swap`: in training, swaps labels of the classifier over all training classes at random (see `core.regularizers.sse`);
      None swaps nothing.

    **Raises:** `ValueError` for a backbone of vectors.

    >>> import torch
    >>> from episodic import Task
    >>> backbone = torch.nn.Identity()  # leaves maps as they are
    >>> backbone.shape = (2, 1, 2)
    >>> support = torch.tensor([[[[[1.0, 0.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[1.0, 0.0]]]]])  # [1, 2, 2, 1, 2]
    >>> task = Task(support, torch.tensor([[0, 1]]), query=support[:, [1]], n_way=2)
    >>> CrossAttention(backbone, n_classes=3).eval()(task).logits.argmax(-1)
    tensor([[1]])
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_classes: int,
        scale: float = 7.0,
        temperature: float = 0.025,
        nearest_weight: float = 0.5,
        candidates: float = 0.0,
        label_swap: nn.Module | None = None,
    ):
        super().__init__()
        channels, height, width = map_shape(backbone, "cross attention", positions=2)
        n_classes = integer("n_classes", n_classes, at_least=1)
        self.scale = number("scale", scale, above=0)
        self.nearest_weight = number("nearest_weight", nearest_weight, at_least=0)
        self.candidates = number("candidates", candidates, at_least=0, at_most=1, note=", a share of the queries")
        self.backbone = backbone
        self.attention = PairAttention(height * width, number("temperature", temperature, above=0))
        self.classifier = nn.Linear(channels, n_classes)
        self.label_swap = label_swap_of(n_classes, label_swap)
        self.capabilities = Capabilities(transductive=self.candidates > 0)

    def classify(self, features: Task) -> Prediction:
        support, query = features.support.flatten(3), features.query.flatten(3)
        member = one_hot(features.support_y, features.n_way)
        logits, loss, term = self._answer(class_maps(support, member), query)
        if self.candidates and not self.training:
            items = torch.cat([support, query], dim=1)
            step = int(query.shape[1] * self.candidates + 1e-9)
            for joined in range(step, query.shape[1] + 1, step) if step else ():
                confidence, label = logits.max(-1)
                chosen = torch.zeros_like(confidence).scatter(1, confidence.topk(joined).indices, 1.0)
                pseudo = one_hot(label, features.n_way) * chosen[..., None]
                logits = self._answer(class_maps(items, torch.cat([member, pseudo], dim=1)), query)[0]
        return Prediction(logits, loss, {"global": term})

    def _answer(self, classes: Tensor, query: Tensor):
        """Logits, and the two losses, for class maps `[E, n_way, C, m]` and query maps `[E, Q, C, m]`."""
        n_query = query.shape[1]
        piece = n_query if self.training else max(1, PAIRS // (len(query) * classes.shape[1]))
        parts = [self._pairs(classes, part) for part in query.split(piece, dim=1)]
        logits, of_class, on_query = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))

        def nearest(episode: Episode) -> Tensor:
            # The attention on the query is a positive factor at each position, so it does not change the cosine.
            scores = self.scale * torch.einsum("eqcj,eqnc->eqjn", normalize(query, dim=2), normalize(of_class, dim=-1))
            return self.nearest_weight * _mean_cross_entropy(scores, episode.query_y)

        def among_all(episode: Episode) -> Tensor:
            own = episode.query_y[..., None, None].expand(-1, -1, 1, query.shape[-1])
            attended = query * on_query.gather(2, own)  # [E, Q, C, m], for the query's class
            labels = for_whole_batch(self.label_swap, episode.class_ids.gather(1, episode.query_y))
            return _mean_cross_entropy(self.classifier(attended.mT), labels)

        return logits, nearest, among_all

    def _pairs(self, classes: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `[E, Q, n_way]`, means of P' `[E, Q, n_way, C]`, attention on the query `[E, Q, n_way, m]`."""
        on_class, on_query = self.attention(classes, query)
        of_class = torch.einsum("enci,eqni->eqnc", classes, on_class) / classes.shape[-1]
        of_query = torch.einsum("eqcj,eqnj->eqnc", query, on_query) / query.shape[-1]
        cosine = (normalize(of_class, dim=-1) * normalize(of_query, dim=-1)).sum(-1)
        return self.scale * cosine, of_class, on_query


class PairAttention(nn.Module):
    """Attention on the positions of each pair of a class map P and a query map Q.

        R[i, j] = cos(P_i, Q_j),    w = W2 relu(BN(W1 v)),  v[j] = mean_i R[i, j],    s[i] = mean_j R[i, j] w[j]
        A^p[i] = 1 + softmax_i(s / temperature);    A^q likewise, from R transposed, with the same weights

    R is never computed: its means are products with the mean of P or Q over positions, at 1 / m of the cost.
    """

    def __init__(self, positions: int, temperature: float):
        super().__init__()
        hidden = max(1, positions // 6)
        self.temperature = temperature
        self.squeeze = nn.Linear(positions, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.excite = nn.Linear(hidden, positions)
        for layer in (self.squeeze, self.excite):  # as in the released code
            nn.init.normal_(layer.weight, std=(2 / layer.out_features) ** 0.5)

    def forward(
        self,
        classes: Float[Tensor, "episode way channels position"],
        query: Float[Tensor, "episode query channels position"],
    ) -> tuple[Float[Tensor, "episode query way position"], Float[Tensor, "episode query way position"]]:
        p, q = normalize(classes, dim=2), normalize(query, dim=2)
        positions = p.shape[-1]
        over_query = self._kernel(torch.einsum("enc,eqcj->eqnj", p.mean(-1), q))
        summed = torch.einsum("eqcj,eqnj->eqnc", q, over_query) / positions
        on_class = torch.einsum("enci,eqnc->eqni", p, summed)
        over_class = self._kernel(torch.einsum("enci,eqc->eqni", p, q.mean(-1)))
        summed = torch.einsum("enci,eqni->eqnc", p, over_class) / positions
        on_query = torch.einsum("eqcj,eqnc->eqnj", q, summed)
        return self._attention(on_class), self._attention(on_query)

    def _kernel(self, means: Tensor) -> Tensor:
        hidden = self.norm(self.squeeze(means).flatten(0, 2)).relu()
        return self.excite(hidden).unflatten(0, means.shape[:3])

    def _attention(self, scores: Tensor) -> Tensor:
        return 1 + (scores / self.temperature).softmax(-1)


def class_maps(
    maps: Float[Tensor, "episode item channels position"], member: Float[Tensor, "episode item way"]
) -> Float[Tensor, "episode way channels position"]:
    """The mean map of the items of each class. `member` says which items are in it.

    >>> import torch
    >>> class_maps(torch.tensor([[[[1.0]], [[3.0]]]]), torch.tensor([[[1.0], [1.0]]]))
    tensor([[[[2.]]]])
    """
    sums = torch.einsum("eicm,ein->encm", maps, member)
    return sums / member.sum(1)[..., None, None].clamp(min=1)


def _mean_cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """Scores `[E, Q, positions, classes]`, one label `[E, Q]` for all positions -> mean of each episode."""
    each = cross_entropy(scores.flatten(0, 2), y[..., None].expand(scores.shape[:3]).flatten(), reduction="none")
    return each.unflatten(0, scores.shape[:3]).mean((1, 2))
