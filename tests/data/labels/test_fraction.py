import numpy as np
import pytest
import torch

from episodic.data.labels.fraction import labeled_mask


def classes(*sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize(
    ("fraction", "size", "kept"), [(0.1, 20, 2), (0.4, 600, 240), (0.29, 100, 29), (0.1, 19, 1), (0.1, 9, 0), (1, 7, 7)]
)
def test_each_class_keeps_its_fraction_rounded_down(fraction, size, kept):
    labels = classes(size, size, size)
    mask = labeled_mask(labels, fraction, seed=0)
    assert mask.dtype == bool
    assert [mask[labels == c].sum() for c in range(3)] == [kept] * 3


def test_the_seed_decides():
    labels = classes(20, 20)
    assert (labeled_mask(labels, 0.5, 3) == labeled_mask(labels, 0.5, 3)).all()
    assert (labeled_mask(labels, 0.5, 3) != labeled_mask(labels, 0.5, 4)).any()


def test_no_two_classes_share_a_permutation():
    masks = labeled_mask(classes(*[600] * 20), 0.4, seed=0).reshape(20, 600)
    assert len({row.tobytes() for row in masks}) == 20


def test_a_class_does_not_depend_on_the_others_or_on_the_order_of_items():
    alone = labeled_mask(np.full(20, 5), 0.3, seed=1)
    among = classes(*[20] * 8)
    assert (labeled_mask(among, 0.3, seed=1)[among == 5] == alone).all()
    mixed = np.random.default_rng(0).permutation(among)
    assert (labeled_mask(mixed, 0.3, seed=1)[mixed == 5] == alone).all()


def test_more_labels_keep_the_ones_there_were():
    labels = classes(50, 70)
    few, many = labeled_mask(labels, 0.1, 0), labeled_mask(labels, 0.6, 0)
    assert (many[few]).all()


def test_every_item_is_as_likely_as_any_other():
    rate = np.mean([labeled_mask(np.zeros(10, int), 0.3, seed) for seed in range(4000)], axis=0)
    assert np.abs(rate - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 4000)


def test_the_split_of_a_seed_never_changes():
    """Published label splits must stay what they are under any version of NumPy."""
    assert np.flatnonzero(labeled_mask(classes(10, 10), 0.3, seed=0)).tolist() == [1, 2, 9, 10, 13, 14]


@pytest.mark.parametrize("kind", [list, tuple, torch.as_tensor])
def test_any_kind_of_list_will_do(kind):
    labels = classes(10, 10)
    assert (labeled_mask(kind(labels.tolist()), 0.5, 0) == labeled_mask(labels, 0.5, 0)).all()


def test_no_items_no_labels():
    assert labeled_mask(np.zeros(0, int), 0.5, 0).shape == (0,)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ValueError, match="above 0 and at most 1, got"):
        labeled_mask(classes(10), fraction, 0)


@pytest.mark.parametrize("labels", [np.zeros((2, 2), int), np.zeros(3), np.array([0, -1])])
def test_labels_that_are_no_flat_list_of_integers_are_refused(labels):
    with pytest.raises(ValueError, match="flat list of integers from 0"):
        labeled_mask(labels, 0.5, 0)
