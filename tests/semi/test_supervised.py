from torch import nn

from episodic.learners.prototypical import Prototypical
from episodic.semi.supervised import supervised


def test_is_the_learner_itself():
    learner = Prototypical(nn.Identity())
    assert supervised(learner) is learner
