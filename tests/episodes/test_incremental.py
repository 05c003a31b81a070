import numpy as np
import pytest
import torch

from episodic import EpisodeSampler
from episodic.core.backbones.conv4 import Conv4
from episodic.data.augment import Normalize
from episodic.episodes.incremental import IncrementalEpisodes, incremental_items_needed
from episodic.evaluate.audit import audit
from episodic.evaluate.scoring import episode_predictor, evaluate
from episodic.learners.base_classifier import BaseClassifier
from episodic.run.device import Hardware
from tests.conftest import random_store

N_BASE = 12
BASE = np.repeat(np.arange(N_BASE), 6)
BOTH = np.concatenate([BASE, np.repeat(np.arange(N_BASE, 20), 10)])  # 8 new classes of 10 items


def episodes_of(labels, n_way=3, n_shot=2, n_query=4, base_way=5, base_query=3, **settings):
    return IncrementalEpisodes(labels, N_BASE, n_way, n_shot, n_query, base_way, base_query, episodes=600, **settings)


@pytest.mark.parametrize("labels", [BASE, BOTH], ids=["base classes play the new ones", "new classes"])
def test_labels_are_those_of_the_items_and_no_item_comes_twice(labels):
    indices = episodes_of(labels)[0:600]
    assert indices.n_base == N_BASE
    assert indices.support.shape == indices.support_y.shape == (600, 6)
    assert indices.query.shape == indices.query_y.shape == (600, 3 * 4 + 5 * 3)
    assert indices.class_ids.shape == (600, 3)
    for e in range(0, 600, 37):
        answers = np.concatenate([indices.class_ids[e], np.arange(N_BASE)])  # the meaning of each answer
        assert np.array_equal(answers[indices.support_y[e]], labels[indices.support[e]])
        assert np.array_equal(answers[indices.query_y[e]], labels[indices.query[e]])
        items = np.concatenate([indices.support[e], indices.query[e]])
        assert len(set(items)) == len(items)
        assert (indices.query_y[e][:12] < 3).all()
        assert (indices.query_y[e][12:] >= 3).all()
        base = labels[indices.query[e][12:]]
        assert np.array_equal(np.unique(base, return_counts=True)[1], [3] * 5)
        assert not set(base) & set(indices.class_ids[e])  # in training too: what is new is not asked as base
        assert (indices.class_ids[e] >= N_BASE).all() == (labels is BOTH)


def test_every_base_class_is_asked_equally_often_and_new_episodes_are_the_samplers():
    indices = episodes_of(BOTH)[0:600]
    asked = np.bincount(indices.query_y[:, 12:].reshape(-1) - 3, minlength=N_BASE)
    assert asked.min() > 0.85 * asked.mean()
    plain = EpisodeSampler(BOTH[len(BASE) :], 3, 2, 4, episodes=600)[0:600]
    assert np.array_equal(indices.support, plain.support + len(BASE))
    assert np.array_equal(indices.query[:, :12], plain.query + len(BASE))


def test_new_and_base_classes_of_an_episode_are_drawn_apart():
    # 8 new and 12 base classes: if one draw placed both, their ranks would go together; by chance r is within 0.13.
    indices = episodes_of(BOTH, n_way=1, base_way=1, base_query=1)[0:600]
    new, base = indices.class_ids[:, 0], indices.query_y[:, -1]
    assert abs(np.corrcoef(new, base)[0, 1]) < 0.13


def test_only_labeled_items_are_drawn():
    mask = np.arange(len(BASE)) % 6 != 5
    indices = episodes_of(BASE, n_shot=1, labeled=mask)[0:600]
    assert mask[indices.support].all()
    assert mask[indices.query].all()
    assert len(np.unique(indices.query)) == mask.sum()


def test_an_episode_depends_on_seed_epoch_and_number_only():
    whole = episodes_of(BOTH, seed=3)
    assert episodes_of(BOTH, seed=3)[400].hash() == whole[0:600][400:401].hash()
    assert episodes_of(BOTH, seed=4)[400].hash() != whole[400].hash()
    assert episodes_of(BOTH, seed=3, epoch=1)[400].hash() != whole[400].hash()
    assert episodes_of(BOTH, seed=3, episodes_per_batch=4).batch(100).hash() == whole[400:404].hash()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_way": 9}, r"needs 9 classes .* have 8"),
        ({"base_way": 13}, r"base classes \(n_way is base_way.*needs 13 classes .* have 12"),
        ({"base_query": 6}, r"base classes .*too few items"),
        ({"base_query": 0}, "base_query must be an integer, at least 1, got 0"),
        ({"n_query": 9}, r"too few items"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        episodes_of(BOTH, **settings)
    with pytest.raises(ValueError, match="needs 15 classes"):
        episodes_of(BASE, n_way=10)


@pytest.mark.parametrize(("n_query", "base_query"), [(4, 3), (2, 5)])
def test_a_class_needs_what_is_said_and_not_one_less(n_query, base_query):
    numbers = (3, 2, n_query, 2, base_query)
    of_new, of_base = incremental_items_needed(*numbers)
    both, as_base = incremental_items_needed(*numbers, only_base=True)
    assert both == as_base == 2 + max(n_query, base_query)

    def labels(has_base, has_new):
        return np.concatenate([np.repeat(np.arange(6), has_base), np.repeat(np.arange(6, 12), has_new)])

    IncrementalEpisodes(labels(of_base, of_new), 6, *numbers)[0]
    IncrementalEpisodes(labels(both, 0), 6, *numbers)[0]
    for few in ((of_base - 1, of_new), (of_base, of_new - 1), (both - 1, 0)):
        with pytest.raises(ValueError, match="6 of 6 classes have too few items"):
            IncrementalEpisodes(labels(*few), 6, *numbers)


def test_says_what_it_draws():
    words = "3-way 2-shot 4-query, 5 of 12 base classes with 3 queries each, 600 episodes, seed 2"
    assert repr(episodes_of(BOTH, seed=2)) == f"IncrementalEpisodes({words})"


def test_evaluation_scores_new_and_base_queries_apart():
    store = random_store(classes=20, per_class=6, separation=0.6)
    labels = store.labels.numpy()
    torch.manual_seed(0)
    backbone, plain = Conv4(in_channels=1, image_size=16, widths=(8, 8, 8, 8)), Normalize([0.5], [0.25])
    learner = BaseClassifier(backbone, n_classes=N_BASE, weight_decay=0.01)
    exact = Hardware.choose("cpu", "fp32")
    episodes = IncrementalEpisodes(labels, N_BASE, 3, 1, 4, 5, 2, episodes=80)
    result = evaluate(learner, store, episodes, plain, exact)
    # 12 queries of new classes, 10 of base classes
    joint = (12 * result.details["novel"] + 10 * result.details["base"]) / 22
    np.testing.assert_allclose(result.accuracies, joint, atol=1e-6)
    assert (result.details["novel"] <= result.details["novel alone"]).all()
    assert result.class_interval is not None
    blind = evaluate(learner, store, episodes, plain, exact, cached=False)
    np.testing.assert_allclose(blind.accuracies, result.accuracies, atol=0.05)
    predict, _ = episode_predictor(learner, store, plain, exact)
    with torch.inference_mode():
        changes = audit(predict, episodes, count=3)
    assert max(changes.values()) < 1e-3, changes
