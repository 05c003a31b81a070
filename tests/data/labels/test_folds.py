import dataclasses

import numpy as np
import pytest
import torch

from episodic.data.labels.folds import fold_of, restricted
from episodic.data.labels.fraction import labeled_mask
from tests.conftest import random_store


def test_images_that_may_not_be_seen_are_left_out():
    store = random_store()
    seen = labeled_mask(store.labels.numpy(), 0.5, seed=0)
    part = restricted(store, seen)
    assert len(part) == len(part.images) == len(part.item_names) == 80
    assert torch.equal(part.images, store.images[torch.from_numpy(seen)])
    assert restricted(store, np.ones(160, dtype=bool)) is store


def test_a_fold_and_the_others_are_the_training_classes():
    store = dataclasses.replace(
        random_store(classes=7, per_class=3), super_classes=torch.arange(7) // 2, super_class_names=("a", "b", "c", "d")
    )
    sizes = []
    for fold in range(3):
        rest, part = fold_of(store, "train", fold, 3), fold_of(store, "val", fold, 3)
        assert (rest.split, part.split) == ("train", "val")
        assert rest.split_name == part.split_name == f"made-up, fold {fold} of 3"
        assert sorted(rest.class_names + part.class_names) == sorted(store.class_names)
        for of in (rest, part):
            numbers = [store.class_names.index(name) for name in of.class_names]
            assert [of.class_names[c] for c in of.labels] == [name.split("/")[0] for name in of.item_names]
            assert of.super_classes.tolist() == [c // 2 for c in numbers]
            kept = torch.tensor([store.item_names.index(name) for name in of.item_names])
            assert torch.equal(of.images, store.images[kept])
        first = store.class_names.index(part.class_names[0])
        assert part.class_names == store.class_names[first : first + len(part.class_names)], "a contiguous range"
        sizes.append(len(part.class_names))
    assert sizes == [3, 2, 2]


@pytest.mark.parametrize(
    ("fold", "folds", "message"),
    [
        (0, 1, "task.folds must be an integer, at least 2 and below 9, of 8 training classes, got 1"),
        (0, 9, "of 8 training classes, got 9"),
        (4, 4, "task.fold must be an integer, at least 0 and below 4, task.folds, got 4"),
    ],
)
def test_a_fold_that_does_not_exist_is_refused(fold, folds, message):
    with pytest.raises(ValueError, match=message):
        fold_of(random_store(), "val", fold, folds)
