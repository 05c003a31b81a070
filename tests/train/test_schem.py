import numpy as np
import pytest
import torch

from episodic.core.functional.batches import hard_negatives
from episodic.core.losses.schem import SCHEM
from episodic.train.schem import HardNegativeTraining
from tests.train.test_dml import batches_of
from tests.train.training import resume, states_equal


def schem_of(**settings):
    torch.manual_seed(0)
    return batches_of(HardNegativeTraining, losses={"schem": SCHEM(8, 8)}, candidates=1, **settings)


def test_batches_of_hard_negatives_have_one_class_and_what_is_near_it():
    training = schem_of()
    training.training_step()
    bank, signatures = training.state.bank.clone(), training.loss.signatures.detach().clone()
    labels, seen = training.setup.store.labels, []
    embed = training.embed_batch
    training.embed_batch = lambda items, generator: seen.append(items) or embed(items, generator)
    training.training_step()
    [items] = seen
    assert len(items) == 15
    assert (labels[items[:3]] == labels[items[0]]).all()
    assert (labels[items[3:]] != labels[items[0]]).all()
    anchors = torch.from_numpy(training.source.batch(1).flat())
    assert torch.equal(items[:3], anchors)
    wanted = hard_negatives(bank, labels, signatures, anchors, 4, 1)
    assert set(items[3:].tolist()) == set(wanted.tolist())
    moved = (training.state.bank != bank).any(1)
    assert set(torch.where(moved)[0].tolist()) == set(items.tolist())


def test_a_resumed_training_takes_the_same_steps():
    whole, first = schem_of(), schem_of()
    for _ in range(6):
        whole.training_step()
    for _ in range(3):
        first.training_step()
    second = resume(schem_of(), first, 3)
    for _ in range(3):
        second.training_step()
    assert states_equal(whole, second)


def test_its_loss_and_all_images_are_needed():
    with pytest.raises(ValueError, match="trainer=schem makes batches for loss=schem, which is not among"):
        batches_of(HardNegativeTraining)
    with pytest.raises(
        ValueError, match="trainer=schem takes any training image, so none may be held out or unlabeled"
    ):
        schem_of(labeled=np.arange(160) % 20 < 10)
