"""The identity among the semi-supervised wrappers."""

from __future__ import annotations

from episodic.learners.learner import AbstractLearner


def supervised(learner: AbstractLearner) -> AbstractLearner:
    """The learner itself. It sees the labeled items alone, as it does without a wrapper.

    >>> import torch
    >>> from episodic.learners.prototypical import Prototypical
    >>> learner = Prototypical(torch.nn.Identity())
    >>> supervised(learner) is learner
    True
    """
    return learner
