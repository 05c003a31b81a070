import numpy as np
import pytest
import torch

from episodic.data.labels.held_out import held_out_masks, join_base
from tests.conftest import random_store


def test_masks_share_out_every_class():
    labels = np.repeat([2, 0, 1], [20, 10, 15])
    masks = held_out_masks(labels, 0.4)
    assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()
    counts = {name: np.bincount(labels[mask]).tolist() for name, mask in masks.items()}
    assert counts == {"train": [6, 9, 12], "val": [2, 3, 4], "test": [2, 3, 4]}
    again = held_out_masks(labels, 0.4)
    assert all(np.array_equal(masks[name], again[name]) for name in masks)


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_a_fraction_must_be_between_0_and_1(fraction):
    with pytest.raises(ValueError, match=r"task\.held_out must be a number, above 0 and below 1"):
        held_out_masks(np.zeros(10, int), fraction)


def test_every_class_needs_an_image_for_each_part():
    with pytest.raises(ValueError, match=r"task\.held_out=0\.1 leaves a training class without images for val"):
        held_out_masks(np.repeat([0, 1], 10), 0.1)


def test_a_joined_store_has_the_base_classes_first():
    base, novel = random_store(classes=3, per_class=4), random_store(classes=2, per_class=5, split="val", seed=1)
    mask = np.array([True, False, False, True] * 3)
    joined = join_base(base, mask, novel)
    assert joined.n_base == 3
    assert joined.split == "val"
    assert joined.class_names == ("train0", "train1", "train2", "val0", "val1")
    assert joined.labels.tolist() == [0, 0, 1, 1, 2, 2] + [3] * 5 + [4] * 5
    assert joined.item_names[:3] == ("train0/0", "train0/3", "train1/0")
    assert torch.equal(joined.images[:6], base.images[torch.from_numpy(mask)])
    assert torch.equal(joined.images[6:], novel.images)
