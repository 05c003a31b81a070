"""What a learner answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from episodic.episodes.arguments import refuse
from episodic.episodes.task import Episode

Loss = Callable[[Episode], Float[Tensor, " episode"]]  # called with the episode that was answered, with its labels


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """The answer of a learner to a batch of tasks, and the losses to train it by. A learner never sees the labels of the queries,
    so its losses are functions, which training calls with the whole episode afterwards.

    - `logits`: `[E, Q, n_way]`, log-odds up to a constant per query: softmax over the last axis gives probabilities. In an
      incremental task `n_base` further columns follow, the base classes.
    - `loss`: episode -> `[E]`, the learner's own loss; None for the cross-entropy of the logits.
    - `auxiliary_losses`: further losses by name, each episode -> `[E]`, that are added to it.
    - `unlabeled`: `[E, U, n_way]` or None, how much each unlabeled item was taken for each class: 0 and more, in sum at most 1.
      For analysis.

    **Raises:** `ValueError` for parts of other types.

    >>> import torch
    >>> from episodic import Prediction
    >>> Prediction(torch.tensor([[[2.0, 0.0]]])).logits.softmax(-1)
    tensor([[[0.8808, 0.1192]]])
    """

    logits: Float[Tensor, "episode query answers"]
    loss: Loss | None = None
    auxiliary_losses: dict[str, Loss] = dataclasses.field(default_factory=dict)
    unlabeled: Float[Tensor, "episode unlabeled way"] | None = None

    def __post_init__(self):
        for name in ("logits", "unlabeled"):
            values = getattr(self, name)
            fits = isinstance(values, Tensor) and values.is_floating_point() and values.ndim == 3
            if not fits and not (values is None and name == "unlabeled"):
                refuse(name, "a floating-point tensor of three axes", values)
        if not (self.loss is None or callable(self.loss)):
            refuse("loss", "a function of an episode", self.loss)
        if not isinstance(self.auxiliary_losses, Mapping):
            refuse("auxiliary_losses", "functions of an episode by name", self.auxiliary_losses)

    def own_loss(self, episode: Episode) -> Float[Tensor, " episode"]:
        """The learner's own loss, one number for each episode. If `loss` is None it is the cross-entropy of the logits.

        >>> import torch
        >>> from episodic import Episode, Prediction, Task
        >>> items = torch.zeros(1, 2, 3)
        >>> labels = torch.tensor([[0, 1]])
        >>> episode = Episode(Task(items, labels, items, n_way=2), query_y=labels, class_ids=labels)
        >>> Prediction(torch.zeros(1, 2, 2)).own_loss(episode)  # log 2
        tensor([0.6931])
        """
        if self.loss is not None:
            return self.loss(episode)
        return mean_cross_entropy(self.logits, episode.query_y)


def mean_cross_entropy(
    logits: Float[Tensor, "episode item answers"], y: Int64[Tensor, "episode item"]
) -> Float[Tensor, " episode"]:
    """The cross-entropy of each episode's items, a mean over them. It is computed in float32.

    >>> import torch
    >>> mean_cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long))  # log 4
    tensor([1.3863, 1.3863])
    """
    each = cross_entropy(logits.float().flatten(0, 1), y.flatten(), reduction="none")
    return each.unflatten(0, y.shape).mean(-1)
