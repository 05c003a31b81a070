import dataclasses

import pytest
import torch

from episodic import Prediction, Task
from episodic.evaluate.audit import audit, verdict
from episodic.evaluate.scoring import episode_predictor
from episodic.learners.prototypical import Prototypical
from tests.conftest import random_store
from tests.evaluate.test_scoring import sampler_of
from tests.train.training import FP32, PLAIN, conv4


class Leaky(Prototypical):
    """Moves the support by the mean query, somewhat as batch statistics at test time do: queries see each other."""

    def classify(self, features: Task) -> Prediction:
        moved = features.support + features.query.mean(1, keepdim=True)
        return super().classify(dataclasses.replace(features, support=moved))


def test_audit_tells_inductive_from_transductive():
    store = random_store()
    for learner, leaks in ((Prototypical(conv4(), 1.0), False), (Leaky(conv4(), 1.0), True)):
        predict, _ = episode_predictor(learner.eval(), store, PLAIN, FP32)
        with torch.inference_mode():
            changes = audit(predict, sampler_of(store, 5))
        assert (changes["one query at a time"] > 1e-3) is leaks, changes
        assert changes["classes relabeled"] < 1e-5


def test_audit_refuses_answers_that_are_not_numbers():
    class Broken(Prototypical):
        def classify(self, features: Task) -> Prediction:
            return Prediction(super().classify(features).logits * float("nan"))

    store = random_store()
    predict, _ = episode_predictor(Broken(conv4()).eval(), store, PLAIN, FP32)
    with torch.inference_mode(), pytest.raises(ValueError, match="episode 0 are not finite"):
        audit(predict, sampler_of(store, 5))


def test_the_verdict_names_what_was_seen_and_what_was_declared():
    nothing = dict.fromkeys(
        ("queries permuted", "one query at a time", "classes relabeled", "unlabeled permuted"), 1e-6
    )
    assert verdict(nothing, declared=False).startswith("Audit: inductive")
    assert "It declares itself inductive." in verdict({**nothing, "queries permuted": 0.1}, declared=False)
    assert "how the classes are numbered" in verdict({**nothing, "classes relabeled": 0.1}, declared=False)
