import pytest
import torch
from torch import nn

from episodic import Prediction, Task
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner, Capabilities
from tests.conftest import random_task


def test_what_is_abstract_cannot_be_made():
    for base in (AbstractLearner, AbstractMetricLearner):
        with pytest.raises(TypeError, match="abstract"):
            base()


def test_a_metric_learner_embeds_all_items_in_one_batch_and_classifies_float32_features():
    seen = []

    class Backbone(nn.Linear):
        def forward(self, items):
            seen.append(len(items))
            return super().forward(items)

    class Recorder(AbstractMetricLearner):
        def __init__(self, uses_unlabeled: bool):
            super().__init__()
            self.backbone = Backbone(6, 3)
            self.capabilities = Capabilities(uses_unlabeled=uses_unlabeled)

        def classify(self, features: Task) -> Prediction:
            assert features.query.dtype == features.support.dtype == torch.float32
            assert not torch.is_autocast_enabled("cpu")
            return Prediction(features.query)

    task = random_task(n_unlabeled=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = Recorder(uses_unlabeled=True)(task).logits
        Recorder(uses_unlabeled=False)(task)  # which must not see them, not even through batch norm
    assert seen == [3 * (8 + 5 + 2), 3 * (8 + 5)]
    assert logits.shape == (3, 5, 3)
