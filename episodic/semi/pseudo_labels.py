"""Pseudo-labels for the training images of a whole data set, spread anew before every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from episodic.episodes.arguments import flag, integer, number
from episodic.episodes.task import Task
from episodic.learners.base_classifier import BaseClassifier
from episodic.learners.learner import AbstractLearner
from episodic.learners.prediction import Prediction
from episodic.semi.wrapper import AbstractWrapper


class PseudoLabels(AbstractWrapper):
    """Trains a linear classifier and its backbone on labeled images, and on unlabeled ones with labels spread to them. It starts
    from a run of `base_classifier` on the labeled images (`init_from=<run>`).

    Before every epoch, all training images are embedded, joined to a graph and given labels (`core.functional.diffusion`):

        S: graph of the `neighbors` nearest by cosine, weights cos^gamma;   Z = (I - alpha S)^-1 Y
        y_i = argmax_c Z_ic,   w_i = 1 - entropy(Z_i / sum of Z_i) / log(n_classes), divided by the largest w
        labeled items: y_i is the true label, w_i = 1
        zeta_c = 1 / (number of items with the label or pseudo-label c), scaled to a mean of 1

    Then each step takes images of both kinds, drawn uniformly, and goes down the gradient of

        (sum over labeled of zeta_y CE + unlabeled_weight * sum over unlabeled of w zeta_y CE) / batch

    The training is `train.pseudo_labels.PseudoLabelTraining`. In evaluation this is the learner itself: nothing happens inside an
    episode.

    Iscen, Tolias, Avrithis, Chum: *Label Propagation for Deep Semi-supervised Learning*, CVPR 2019,
    https://arxiv.org/abs/1904.04717. These are the paper's equations, except that w is divided by its maximum as in the authors'
    code: with alpha near 1 all w are small. That code also keeps negative cosines, divides the columns of Y by the number of
    labels, and embeds augmented images. Departure: an item that no label reaches has weight 0. Not here: the combination with
    Mean Teacher.

    **Arguments:** `learner`: a `BaseClassifier`. `iterations`: at most, of conjugate gradients. `batch`: images of a step,
    `labeled_per_batch` of them labeled. `refresh_every`: steps of an epoch; None for one pass over the unlabeled images.
    `relative_weights`: False for w as in the paper. `unlabeled_weight`: 1 in the paper; 0 trains on labeled images alone,
    which then fill the batch.

    **Raises:** `ValueError` for another learner, or invalid settings.

    >>> import torch
    >>> backbone = torch.nn.Flatten()  # leaves vectors as they are
    >>> backbone.shape = (2,)
    >>> wrapper = PseudoLabels(BaseClassifier(backbone, n_classes=3), neighbors=5)
    >>> wrapper.capabilities.trainer  # the procedure that trains it
    'pseudo_labels'
    """

    keeps_own_loss = False
    changes: Mapping[str, Any] = {
        "trainer": "pseudo_labels",
        "needs_init": "the same task and labels with learner=base_classifier and no semi=",
    }

    def __init__(
        self,
        learner: AbstractLearner,
        neighbors: int = 50,
        gamma: float = 3.0,
        alpha: float = 0.99,
        iterations: int = 20,
        batch: int = 100,
        labeled_per_batch: int = 50,
        refresh_every: int | None = None,
        relative_weights: bool = True,
        unlabeled_weight: float = 1.0,
    ):
        super().__init__()
        if not isinstance(learner, BaseClassifier):
            raise ValueError(
                "semi=pseudo_labels trains a classifier of the training classes: it takes learner=base_classifier, got "
                f"{type(learner).__name__}"
            )
        self.learner = learner
        self.neighbors = integer("neighbors", neighbors, at_least=1)
        self.gamma = number("gamma", gamma, above=0)
        self.alpha = number("alpha", alpha, at_least=0, below=1)
        self.iterations = integer("iterations", iterations, at_least=1)
        self.batch = integer("batch", batch, at_least=2)
        self.labeled_per_batch = integer(
            "labeled_per_batch", labeled_per_batch, at_least=1, below=self.batch, note=" (batch)"
        )
        if refresh_every is not None:
            refresh_every = integer("refresh_every", refresh_every, at_least=1, note=", or null for one pass")
        self.refresh_every = refresh_every
        self.relative_weights = flag("relative_weights", relative_weights)
        self.unlabeled_weight = number("unlabeled_weight", unlabeled_weight, at_least=0, note=" (labeled images alone)")
        idle = ("neighbors", "gamma", "iterations", "refresh_every", "relative_weights")
        if unlabeled_weight == 0:
            idle = (*idle, "alpha", "labeled_per_batch")
            self.without_effect = dict.fromkeys(idle, "unlabeled_weight=0 trains on labeled images alone")
        elif alpha == 0:
            self.without_effect = dict.fromkeys(idle, "alpha=0 spreads no label")

    def classify_with_unlabeled(self, features: Task) -> Prediction:
        return self.learner.classify(features)
