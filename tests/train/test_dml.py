import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from episodic.core.backbones.conv4 import Conv4
from episodic.core.functional.batches import density_gaps, frechet_gaps, hard_negatives
from episodic.core.losses.contrastive import Contrastive
from episodic.core.losses.divide_and_conquer import DivideAndConquer
from episodic.core.losses.loss import AbstractLoss
from episodic.core.losses.schem import SCHEM
from episodic.data.augment import Augment, Normalize
from episodic.data.labels.folds import restricted
from episodic.episodes.sampler import EpisodeSampler
from episodic.evaluate.scoring import evaluate
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.train.dml import TRAININGS, MetricTrainer, nearest_are_right
from episodic.train.loop import fit
from episodic.train.objective import WithLosses
from episodic.train.schedule import constant
from tests.conftest import random_store

FP32 = Hardware.choose("cpu", "fp32")
PLAIN = Normalize([0.5], [0.25])


class Proxies(AbstractLoss):
    """A softmax over learned rows."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(8, 8))

    def forward(self, embeddings, labels):
        return nn.functional.cross_entropy(embeddings @ self.rows.T, labels)


def training_of(steps=6, losses=None, rates=None, lr=0.01, augment=None, labeled=None, **settings):
    store = random_store(separation=1.0)
    trainer = MetricTrainer(steps=steps, classes_per_batch=5, images_per_class=3, **settings)
    torch.manual_seed(0)
    losses = losses or {"contrastive": Contrastive()}
    learner = WithLosses(Prototypical(Conv4(1, 16, widths=(8, 8, 8, 8))), losses, {name: 0.5 for name in losses}, rates)
    return TRAININGS[trainer.sampler](
        learner=learner,
        store=store,
        sampler=trainer.batches(store.labels.numpy(), seed=0, epoch=0, labeled=labeled),
        normalize=PLAIN,
        augment=augment or Augment(crop_padding=1),
        optimizer=torch.optim.SGD(learner.learned_parameters(), lr=lr),
        schedule=constant(),
        trainer=trainer,
        hardware=FP32,
    )


def test_a_step_is_the_weighted_loss_of_a_class_balanced_batch():
    training = training_of(augment=Augment())
    items = training.sampler.batch(0).flat()
    labels = training.store.labels[items]
    assert len(set(items.tolist())) == 15
    assert labels.bincount(minlength=8).sort().values.tolist() == [0, 0, 0, 3, 3, 3, 3, 3]
    before = copy.deepcopy(training.learner).train()
    embeddings = before.backbone(PLAIN(training.store.images[items])).flatten(1)
    loss, _ = training.advance()
    torch.testing.assert_close(loss, 0.5 * Contrastive()(embeddings, labels).detach())


def test_only_labeled_images_are_seen():
    labeled = np.arange(160) % 20 < 4
    training = training_of(labeled=labeled)
    assert all(labeled[training.sampler.batch(step).flat()].all() for step in range(6))


def test_training_teaches_to_tell_classes_apart_in_images_not_seen():
    labeled = np.arange(160) % 20 < 10
    training = training_of(steps=100, lr=0.3, labeled=labeled, validate_every=100)
    unseen = restricted(training.store, ~labeled)
    episodes = EpisodeSampler(unseen.labels, 5, 1, 5, episodes=200)
    before = evaluate(training.learner, unseen, episodes, PLAIN, FP32).interval
    losses = []
    fit(training, on_log=lambda step, values: losses.append(values["loss"]))
    after = evaluate(training.learner, unseen, episodes, PLAIN, FP32).interval
    assert losses[-1] < losses[0]
    assert after.mean - after.half_width > before.mean + before.half_width


def test_proxies_move_at_their_own_rate():
    moved = {}
    for rate in (1.0, 10.0):
        training = training_of(losses={"proxies": Proxies()}, rates={"proxies": rate})
        training.advance()
        moved[rate] = training.learner.losses["proxies"].rows.detach()
    torch.testing.assert_close(moved[10.0], 10 * moved[1.0])
    assert moved[1.0].abs().sum() > 0


@pytest.mark.parametrize("sampler", ["balanced", "coreset", "clustered"])
def test_a_resumed_training_takes_the_same_steps(sampler):
    def start():
        slices = {"divide_and_conquer": DivideAndConquer(8, n_learners=2, recluster_every=2)}
        return training_of(sampler=sampler, losses=slices if sampler == "clustered" else None)

    whole, first, second = start(), start(), start()
    for _ in range(6):
        whole.advance()
    for _ in range(3):
        first.advance()
    second.learner.load_state_dict(first.learner.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.step = 3
    for _ in range(3):
        second.advance()
    for name, value in whole.learner.state_dict().items():
        assert torch.equal(value, second.learner.state_dict()[name]), name


def test_the_curve_counts_nearest_neighbors_of_the_same_class():
    angles = torch.tensor([0.0, 60.0, 90.0, 180.0]).deg2rad()
    x = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [5.0], [2.0], [1.0]])
    assert nearest_are_right(x, torch.tensor([0, 0, 1, 1])).tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("sampler", ["coreset", "density", "frechet"])
def test_a_batch_is_chosen_by_the_embeddings_that_images_had_last(sampler):
    training = training_of(sampler=sampler, candidates=4)
    training.advance()
    bank = training.learner.bank.clone()
    groups = training.sampler.batch(1)
    assert len(groups) == 4
    items = training.items()
    assert torch.equal(items, training.items())
    assert training.store.labels[items].bincount(minlength=8).sort().values.tolist() == [0, 0, 0, 3, 3, 3, 3, 3]
    if sampler != "coreset":
        of = np.concatenate([groups.support.reshape(4, 5, 2), groups.query[..., None]], axis=-1)
        candidates = nn.functional.normalize(bank[of], dim=-1)
        gaps = {"density": density_gaps, "frechet": frechet_gaps}[sampler](candidates)
        assert items.tolist() == of[gaps.argmin()].ravel().tolist()
    training.advance()
    seen = torch.zeros(160, dtype=torch.bool)
    seen[items] = True
    moved = (training.learner.bank != bank).any(1)
    assert torch.equal(moved, seen)
    assert "bank" in training.learner.state_dict()


def test_batches_of_hard_negatives_have_one_class_and_what_is_near_it():
    training = training_of(losses={"schem": SCHEM(8, 8)}, sampler="schem", candidates=1)
    training.advance()
    items = training.items()
    labels = training.store.labels[items]
    assert len(items) == 15
    assert (labels[:3] == labels[0]).all()
    assert (labels[3:] != labels[0]).all()
    anchors = torch.from_numpy(training.sampler.batch(1).flat())
    assert torch.equal(items[:3], anchors)
    bank, signatures = training.learner.bank, training.learner.losses["schem"].signatures.detach()
    wanted = hard_negatives(bank, training.store.labels, signatures, anchors, 4, 1)
    assert set(items[3:].tolist()) == set(wanted.tolist())
    with pytest.raises(ValueError, match="sampler=schem makes batches for loss=schem, which is not among"):
        training_of(sampler="schem")


def test_each_cluster_trains_its_slice_and_the_end_the_whole_embedding():
    loss = DivideAndConquer(8, n_learners=2, recluster_every=3, finish=0.2)
    training = training_of(steps=10, losses={"divide_and_conquer": loss}, sampler="clustered")
    whose = []
    for step in range(10):
        items = training.items()
        clusters = training.learner.clusters
        whose.append(loss.cluster)
        if step < 8:
            assert (clusters[items] == step % 2).all()
            labels = training.store.labels[items].bincount(minlength=8)
            assert ((labels == 0) | (labels == 3)).all()
        training.advance()
        assert (training.learner.clusters == clusters).all() or (step + 1) % 3 == 0
    assert whose == [0, 1] * 4 + [None, None]
    assert sorted(clusters.unique().tolist()) == [0, 1]


def test_odd_settings_are_refused():
    with pytest.raises(
        ValueError, match="sampler must be one of balanced, coreset, density, frechet, schem, clustered, got 'hard'"
    ):
        MetricTrainer(sampler="hard")
    with pytest.raises(ValueError, match="candidates must be at least 2 to choose from, got 1"):
        MetricTrainer(sampler="coreset", candidates=1)
    with pytest.raises(ValueError, match="images_per_class must be at least 2, got 1"):
        MetricTrainer(images_per_class=1)
    with pytest.raises(ValueError, match="classes_per_batch must be a number, at least 1, got 0"):
        dataclasses.replace(MetricTrainer(), classes_per_batch=0)
    with pytest.raises(ValueError, match="an episode needs 16 classes"):
        MetricTrainer().batches(np.repeat(np.arange(8), 20), seed=0, epoch=0)
