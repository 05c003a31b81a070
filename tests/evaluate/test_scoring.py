import numpy as np
import pytest
import torch

from episodic import EpisodeSampler, Prediction, Task
from episodic.episodes.source import episodes_hash, in_chunks
from episodic.evaluate.scoring import evaluate
from episodic.learners.learner import AbstractLearner
from episodic.learners.prototypical import Prototypical
from tests.conftest import random_store
from tests.train.training import FP32, PLAIN, conv4


def sampler_of(store, episodes=40, **shape):
    shape = {"n_way": 3, "n_shot": 2, "n_query": 4, **shape}
    return EpisodeSampler(store.labels, **shape, episodes=episodes)


class Blind(AbstractLearner):
    """Needs images, so it cannot use cached features; answers with a prototypical learner on them."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, task: Task) -> Prediction:
        return self.inner(task)


def test_evaluation_equals_an_explicit_loop():
    store, learner = random_store(), Prototypical(conv4())
    sampler = sampler_of(store)
    result = evaluate(learner, store, sampler, PLAIN, FP32)
    for i in range(len(result.accuracies)):
        indices = sampler[i]
        z = learner.backbone.eval()(PLAIN(store.images[np.concatenate([indices.support[0], indices.query[0]])]))
        centers = torch.stack([z[:6][indices.support_y[0] == n].mean(0) for n in range(3)])
        right = torch.cdist(z[6:], centers).argmin(1).numpy() == indices.query_y[0]
        assert result.accuracies[i] == pytest.approx(right.mean())
    assert result.episodes_hash == episodes_hash(sampler)
    assert np.array_equal(result.class_ids[7], sampler[7].class_ids[0])


def test_cached_features_and_full_forwards_give_the_same_numbers():
    store, learner = random_store(), Prototypical(conv4())
    cached = evaluate(learner, store, sampler_of(store), PLAIN, FP32)
    full = evaluate(learner, store, sampler_of(store), PLAIN, FP32, cached=False)
    blind = evaluate(Blind(learner), store, sampler_of(store), PLAIN, FP32)
    assert np.array_equal(cached.accuracies, full.accuracies)
    assert np.array_equal(cached.accuracies, blind.accuracies)
    with pytest.raises(ValueError, match="Blind needs images"):
        evaluate(Blind(learner), store, sampler_of(store), PLAIN, FP32, cached=True)


def test_ranges_of_ways_are_evaluated():
    store = random_store()
    result = evaluate(Prototypical(conv4()), store, sampler_of(store, 600, n_way=(2, 5)), PLAIN, FP32)
    assert len(result.accuracies) == 600
    assert result.class_interval is None


def test_chunks_cover_all_episodes_once():
    sampler = sampler_of(random_store(), 70)
    chunks = list(in_chunks(sampler, 32))
    assert [len(c) for c in chunks] == [32, 32, 6]
    assert np.array_equal(np.concatenate([c.query for c in chunks]), sampler[0:70].query)


@pytest.mark.parametrize("cached", [True, False])
def test_weights_that_are_not_finite_are_refused(cached):
    store, learner = random_store(), Prototypical(conv4())
    torch.nn.init.constant_(next(learner.parameters()), torch.nan)
    with pytest.raises(
        ArithmeticError, match=r"not finite in episode 0: its weights hold NaN or infinity \(backbone\..*weight"
    ):
        evaluate(learner, store, sampler_of(store), PLAIN, FP32, cached=cached)


class Unsure(Blind):
    """Gives a query of episode 30 logits of `value`, for some of the classes."""

    def __init__(self, inner, value, classes):
        super().__init__(inner)
        self.value, self.classes, self.seen = value, classes, 0

    def forward(self, task: Task) -> Prediction:
        logits, place = self.inner(task).logits.clone(), 30 - self.seen
        self.seen += len(logits)
        logits[max(place, 0) : max(place + 1, 0), 0, : self.classes] = self.value
        return Prediction(logits)


@pytest.mark.parametrize(("value", "classes"), [(torch.nan, 1), (torch.inf, 1), (-torch.inf, 3)])
def test_a_single_answer_that_is_not_finite_is_refused(value, classes):
    store = random_store()
    learner = Unsure(Prototypical(conv4()), value, classes)
    with pytest.raises(ArithmeticError, match="not finite in episode 30: its weights are finite, so a number"):
        evaluate(learner, store, sampler_of(store), PLAIN, FP32)


def test_an_impossible_class_is_no_error():
    store, plain = random_store(), Prototypical(conv4())
    blind = evaluate(Unsure(plain, -torch.inf, 1), store, sampler_of(store), PLAIN, FP32).accuracies
    seeing = evaluate(Blind(plain), store, sampler_of(store), PLAIN, FP32).accuracies
    assert np.isfinite(blind).all()
    assert set(np.flatnonzero(blind != seeing)) <= {30}
