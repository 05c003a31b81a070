import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from episodic.core.backbones.conv4 import Conv4
from episodic.core.functional import diffusion
from episodic.core.losses.contrastive import Contrastive
from episodic.data.augment import Augment
from episodic.data.labels.folds import restricted
from episodic.data.labels.fraction import labeled_mask
from episodic.learners.base_classifier import BaseClassifier
from episodic.run.embed import embed
from episodic.run.run import Run
from episodic.semi.pseudo_labels import PseudoLabels
from episodic.train.fit import fit
from episodic.train.objective import Objective
from episodic.train.pseudo_labels import PseudoLabelTraining, shuffled
from tests.conftest import random_store
from tests.train.test_main import equal_weights, place, resumed, run  # noqa: F401 - a fixture
from tests.train.training import FP32, PLAIN, resume, setup_of, states_equal

SMALL = {"neighbors": 5, "batch": 12, "labeled_per_batch": 5, "refresh_every": 4}


def training_of(store=None, *, seed=0, steps=10, weights=0, augment=None, fraction=0.25, **settings):
    """4 of 20 images of each of 8 classes labeled, 4 not to be seen."""
    store = store or random_store(separation=2.0)
    labels = random_store().labels.numpy()
    seen = labeled_mask(labels, 0.8, seed=1)
    labeled = np.zeros_like(seen)
    labeled[seen] = labeled_mask(labels[seen], fraction, seed=2)
    torch.manual_seed(weights)
    learner = PseudoLabels(BaseClassifier(Conv4(1, 16, widths=(8, 8, 8, 8)), 8), **{**SMALL, **settings})
    given = {"labeled": labeled, "seen": seen, "seed": seed, "shape": (3, 1, 1)}
    setup = setup_of(store, learner, augment=augment or Augment(crop_padding=0.1), **given)
    return PseudoLabelTraining(setup, steps=steps)


def test_labels_are_spread_by_the_features_of_now():
    """A step of the training against its definition, written out."""
    training = training_of(augment=Augment())
    wrapper = training.setup.learner
    seen = np.flatnonzero(training.setup.seen)
    known, labels = training.setup.labeled[seen], training.setup.store.labels[seen].numpy()
    images = training.setup.store.images[seen]
    features = embed(wrapper.backbone, restricted(training.setup.store, training.setup.seen), PLAIN, FP32)
    graph = diffusion.neighbor_graph(features, 5)
    expected = diffusion.pseudo_labels(graph, np.where(known, labels, -1), 8, relative=True)
    before = copy.deepcopy(wrapper)
    loss, correct = training.compute_loss(torch.Generator())
    assert wrapper.backbone.training
    np.testing.assert_array_equal(training.state.labels, expected.labels)
    np.testing.assert_allclose(training.state.weights, expected.weights, atol=1e-6)
    np.testing.assert_allclose(training.state.class_weights, expected.class_weights, rtol=1e-6)
    right = (expected.labels == labels)[~known].mean()
    assert training.metrics["pseudo_label_accuracy"] == pytest.approx(right)
    assert training.metrics["refresh_seconds"] > 0
    given = np.flatnonzero(known)[shuffled(32, 0, 5, (0, 2))]
    items = np.concatenate([given, np.flatnonzero(~known)[shuffled(96, 0, 7, (0, 3))]])
    before.train()
    logits = before.learner.base(before.backbone(PLAIN(images[items])))
    total = sum(
        expected.weights[i] * expected.class_weights[expected.labels[i]] * -row.log_softmax(-1)[expected.labels[i]]
        for i, row in zip(items, logits, strict=True)
    )
    torch.testing.assert_close(loss, total.float() / 12)
    np.testing.assert_array_equal(correct, (logits[:5].argmax(-1).numpy() == labels[given]).astype(np.float32))


def test_labels_that_are_given_stay_and_others_get_better_than_chance():
    training = training_of(steps=30)
    assert training.metrics["pseudo_label_accuracy"] == 0  # none yet
    given = torch.from_numpy(training.setup.labeled[training.setup.seen])
    truth = training.setup.store.labels[torch.from_numpy(training.setup.seen)]
    for _ in range(30):
        training.training_step()
        assert torch.equal(training.state.labels[given], truth[given])
        assert (training.state.weights[given] == 1).all()
    assert training.metrics["pseudo_label_accuracy"] > 0.5


def test_hidden_labels_are_never_used():
    """Other true labels of the unlabeled images, and other images that may not be seen: the same weights."""
    plain = training_of()
    store, random = random_store(separation=2.0), np.random.default_rng(0)
    hidden = np.flatnonzero(plain.setup.seen & ~plain.setup.labeled)
    labels, images = store.labels.clone(), store.images.clone()
    labels[hidden] = store.labels[random.permutation(hidden)]
    unseen = np.flatnonzero(~plain.setup.seen)
    labels[unseen], images[unseen] = labels[unseen].flip(0), 0
    shuffled_labels = training_of(dataclasses.replace(store, labels=labels, images=images))
    assert fit(plain)
    assert fit(shuffled_labels)
    assert states_equal(plain, shuffled_labels)
    assert plain.metrics["pseudo_label_accuracy"] > shuffled_labels.metrics["pseudo_label_accuracy"]
    given = np.flatnonzero(plain.setup.labeled)
    labels[given] = labels[given].flip(0)
    other = training_of(dataclasses.replace(store, labels=labels))
    assert fit(other)
    assert not states_equal(plain, other)


@pytest.mark.parametrize("killed", [3, 4, 6])
def test_a_resumed_training_is_an_undisturbed_one(killed):
    """Before, at and after a refresh; weights, and labels between two refreshes, bit for bit."""
    whole, first = training_of(), training_of()
    for _ in range(10):
        whole.training_step()
    for _ in range(killed):
        first.training_step()
    again = training_of(weights=1)
    assert not states_equal(again, first)
    resume(again, first, killed)
    for _ in range(10 - killed):
        again.training_step()
    assert states_equal(whole, again)
    assert whole.metrics["pseudo_label_accuracy"] == again.metrics["pseudo_label_accuracy"]


def test_another_seed_is_another_training():
    a, b = training_of(), training_of(seed=1)
    a.training_step(), b.training_step()
    assert not states_equal(a, b)


def test_without_weight_only_labeled_images_are_seen():
    """They fill the batch, nothing is spread, and the other images, here blackened, leave no trace in batch norm either."""
    plain = training_of(unlabeled_weight=0.0)
    store = random_store(separation=2.0)
    black = store.images.clone()
    black[np.flatnonzero(~plain.setup.labeled)] = 0
    blackened = training_of(dataclasses.replace(store, images=black), unlabeled_weight=0.0)
    assert fit(plain)
    assert fit(blackened)
    assert states_equal(plain, blackened)
    assert plain.metrics == {}
    assert plain.state.class_weights.tolist() == [1.0] * 8
    both = training_of()
    assert fit(both)
    assert not states_equal(plain, both)
    for training, n_labeled in ((plain, 12), (both, 5)):  # what the accuracy is a share of
        right = n_labeled * float(training.compute_loss(torch.Generator())[1])
        assert right == pytest.approx(round(right), abs=1e-4)


def test_an_epoch_is_a_pass_over_the_unlabeled_images():
    assert training_of(refresh_every=None).refresh_every == 14  # 96 images in sevens
    training, spread = training_of(refresh_every=None, labeled_per_batch=4), []
    training.refresh = lambda: spread.append(training.step)
    for _ in range(25):
        training.training_step()
    assert spread == [0, 12, 24]


def test_passes_are_over_all_items_each_in_its_own_order():
    drawn = np.concatenate([shuffled(10, step, 4, (5, 2)) for step in range(10)]).reshape(4, 10)
    assert (np.sort(drawn) == np.arange(10)).all()
    assert len({tuple(order) for order in drawn}) == 4
    assert not np.array_equal(drawn[0], shuffled(10, 0, 10, (5, 3)))
    assert not np.array_equal(drawn[0], shuffled(10, 0, 10, (6, 2)))
    assert np.bincount(shuffled(3, 7, 11, (0, 2))).tolist() in ([3, 4, 4], [4, 3, 4], [4, 4, 3])


@pytest.mark.parametrize("fraction", [0.01, 1.0])
def test_labels_need_somewhere_to_come_from_and_to_go_to(fraction):
    with pytest.raises(ValueError, match=r"task\.labeled_fraction must leave images of both kinds, got"):
        training_of(fraction=fraction)


def test_another_learner_and_other_losses_are_refused():
    with pytest.raises(ValueError, match="trains semi=pseudo_labels: choose it"):
        PseudoLabelTraining(setup_of())
    learner = training_of().setup.learner
    for objective in (Objective({"contrastive": Contrastive()}), Objective(own_weight=0.5)):
        with pytest.raises(ValueError, match="has a loss of its own: leave loss= as it is"):
            PseudoLabelTraining(setup_of(learner=learner, objective=objective))


def test_the_command_line_end_to_end(place):  # noqa: F811 - the fixture
    """Two stages; stopped between two refreshes and resumed; evaluated as the learner itself."""
    task = ["learner=base_classifier", "task.base_way=4", "task.base_query=1", "task.held_out=0.5",
            "task.labeled_fraction=0.5"]  # fmt: skip
    small = [f"semi.pseudo_labels.{s}" for s in ("neighbors=3", "batch=8", "labeled_per_batch=4", "refresh_every=5")]
    second = ["semi=pseudo_labels", "init_from=few", *task, *small]
    run(place, "train", "run=few", "trainer.steps=10", "task.train.n_query=1", *task)
    output = run(place, "train", "run=whole_pseudo", "trainer.steps=12", *second)
    assert "tensors from few" in output
    assert [line.split()[1] for line in output.splitlines() if "pseudo-labels" in line and " % right" in line] == [
        "0",
        "5",
        "10",
    ]
    run(place, "train", "run=stopped_pseudo", "trainer.steps=7", *second)
    output = resumed(place, "run=stopped_pseudo", "trainer.steps=12")
    assert "; from step 7" in output
    assert "step      5  pseudo-labels" not in output
    equal_weights(place / "whole_pseudo", place / "stopped_pseudo")
    metrics = json.loads((place / "whole_pseudo" / "metrics.json").read_text())
    assert 0 < metrics["train/pseudo_label_accuracy"] <= 1
    assert metrics["train/refresh_seconds"] > 0
    run(place, "evaluate", "run=whole_pseudo", "episodes=40")
    scored = json.loads(Run(place / "whole_pseudo").evaluations()[-1].read_text())
    assert scored["test/accuracy"] == metrics["test/accuracy"]
    assert run(place, "evaluate", "run=whole_pseudo", "semi=supervised", "episodes=40", "against=few")
    plain = json.loads(Run(place / "whole_pseudo").evaluations()[-1].read_text())
    assert plain["test/accuracy"] == metrics["test/accuracy"]
