import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from episodic.core.functional.batches import density_gaps, frechet_gaps
from episodic.core.losses.contrastive import Contrastive
from episodic.core.losses.loss import AbstractLoss
from episodic.data.augment import Augment
from episodic.data.labels.folds import restricted
from episodic.episodes.sampler import EpisodeSampler
from episodic.evaluate.scoring import evaluate
from episodic.learners.prototypical import Prototypical
from episodic.train.dml import MetricTraining, nearest_are_right
from episodic.train.fit import Journal, fit
from episodic.train.objective import Objective
from tests.conftest import random_store
from tests.train.training import FP32, PLAIN, conv4, resume, setup_of, states_equal


class Proxies(AbstractLoss):
    """A softmax over learned rows."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(8, 8))

    def forward(self, embeddings, labels):
        return nn.functional.cross_entropy(embeddings @ self.rows.T, labels)


def batches_of(
    kind=MetricTraining, steps=6, losses=None, multipliers=None, lr=0.01, augment=None, labeled=None, **settings
):
    """A training on batches of 3 images of each of 5 classes."""
    losses = losses or {"contrastive": Contrastive()}
    objective = Objective(losses, dict.fromkeys(losses, 0.5), None, multipliers)
    setup = setup_of(
        random_store(separation=1.0),
        Prototypical(conv4()),
        objective=objective,
        augment=augment or Augment(crop_padding=0.1),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=lr),
        labeled=labeled,
    )
    return kind(setup, steps=steps, **{"classes_per_batch": 5, "images_per_class": 3, **settings})


def counts(training, items):
    """How many images of each class, in order."""
    return training.setup.store.labels[items].bincount(minlength=8).sort().values.tolist()


def test_a_step_is_the_weighted_loss_of_a_class_balanced_batch():
    training = batches_of(augment=Augment())
    items = training.source.batch(0).flat()
    assert len(set(items.tolist())) == 15
    assert counts(training, items) == [0, 0, 0, 3, 3, 3, 3, 3]
    before = copy.deepcopy(training.setup.learner).train()
    embeddings = before.backbone(PLAIN(training.setup.store.images[items])).flatten(1)
    loss, _ = training.training_step()
    labels = training.setup.store.labels[items]
    torch.testing.assert_close(loss, 0.5 * Contrastive()(embeddings, labels).detach())


def test_only_labeled_images_are_seen():
    labeled = np.arange(160) % 20 < 4
    training = batches_of(labeled=labeled)
    assert all(labeled[training.source.batch(step).flat()].all() for step in range(6))


def test_training_teaches_to_tell_classes_apart_in_images_not_seen():
    labeled = np.arange(160) % 20 < 10
    training = batches_of(steps=100, lr=0.3, labeled=labeled, validate_every=100)
    learner, unseen = training.setup.learner, restricted(training.setup.store, ~labeled)
    episodes = EpisodeSampler(unseen.labels, 5, 1, 5, episodes=200)
    before = evaluate(learner, unseen, episodes, PLAIN, FP32).interval
    losses = []
    journal = Journal()
    journal.log = lambda step, values: losses.append(values["loss"])
    fit(training, journal)
    after = evaluate(learner, unseen, episodes, PLAIN, FP32).interval
    assert losses[-1] < losses[0]
    assert after.mean - after.half_width > before.mean + before.half_width


def test_proxies_move_at_their_own_rate():
    moved = {}
    for rate in (1.0, 10.0):
        proxies = Proxies()
        training = batches_of(losses={"proxies": proxies}, multipliers={"proxies": rate})
        training.training_step()
        moved[rate] = proxies.rows.detach()
    torch.testing.assert_close(moved[10.0], 10 * moved[1.0])
    assert moved[1.0].abs().sum() > 0


@pytest.mark.parametrize("sampler", ["balanced", "coreset"])
def test_a_resumed_training_takes_the_same_steps(sampler):
    whole, first = batches_of(sampler=sampler), batches_of(sampler=sampler)
    for _ in range(6):
        whole.training_step()
    for _ in range(3):
        first.training_step()
    second = resume(batches_of(sampler=sampler), first, 3)
    for _ in range(3):
        second.training_step()
    assert states_equal(whole, second)


def test_the_curve_counts_nearest_neighbors_of_the_same_class():
    angles = torch.tensor([0.0, 60.0, 90.0, 180.0]).deg2rad()
    x = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [5.0], [2.0], [1.0]])
    assert nearest_are_right(x, torch.tensor([0, 1, 1, 1])) == 0.75


@pytest.mark.parametrize("sampler", ["coreset", "density", "frechet"])
def test_a_batch_is_chosen_by_the_embeddings_that_images_had_last(sampler):
    training = batches_of(sampler=sampler, candidates=4)
    training.training_step()
    bank = training.state.bank.clone()
    groups = training.source.batch(1)
    assert len(groups) == 4
    items = training.chosen(groups)
    assert torch.equal(items, training.chosen(groups))
    assert counts(training, items) == [0, 0, 0, 3, 3, 3, 3, 3]
    if sampler != "coreset":
        of = np.concatenate([groups.support.reshape(4, 5, 2), groups.query[..., None]], axis=-1)
        candidates = nn.functional.normalize(bank[of], dim=-1)
        gaps = {"density": density_gaps, "frechet": frechet_gaps}[sampler](candidates)
        assert items.tolist() == of[gaps.argmin()].ravel().tolist()
    training.training_step()
    seen = torch.zeros(160, dtype=torch.bool)
    seen[items] = True
    moved = (training.state.bank != bank).any(1)
    assert torch.equal(moved, seen)
    assert "bank" in training.state_dict()["tensors"]
    assert "bank" not in training.setup.learner.state_dict()


@pytest.mark.usefixtures("unchecked")
def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="sampler must be one of balanced, coreset, density, frechet, got 'hard'"):
        batches_of(sampler="hard")
    with pytest.raises(ValueError, match="candidates must be at least 2 to choose from, got 1"):
        batches_of(sampler="coreset", candidates=1)
    with pytest.raises(ValueError, match="images_per_class must be at least 2, got 1"):
        batches_of(images_per_class=1)
    with pytest.raises(ValueError, match="classes_per_batch must be a number, at least 1, got 0"):
        batches_of(classes_per_batch=0)
    with pytest.raises(ValueError, match="an episode needs 16 classes"):
        batches_of(classes_per_batch=16)


def test_losses_of_embeddings_alone_train():
    with pytest.raises(ValueError, match="trainer=dml trains by losses of embeddings: choose one"):
        MetricTraining(setup_of())
    both = Objective({"contrastive": Contrastive()}, own_weight=1.0)
    with pytest.raises(ValueError, match="cross_entropy is a learner's loss of episodes: leave it out"):
        MetricTraining(setup_of(objective=both))


def test_the_bank_has_a_row_for_every_image():
    training = batches_of(sampler="coreset")
    assert training.state.bank.shape == (160, math.prod(training.setup.learner.backbone.shape))
