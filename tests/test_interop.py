import numpy as np
import pytest
import torch

from episodic import EpisodeSampler
from episodic.interop import Tasks, labels_of

LABELS = [3, 1, 2] * 20
ITEMS = [(torch.tensor([float(i), float(y)]), y) for i, y in enumerate(LABELS)]


class Torch(torch.utils.data.Dataset):
    def __len__(self):
        return len(ITEMS)

    def __getitem__(self, index):
        return ITEMS[index]


def test_slicing_as_learn2learns_example_does_finds_support_and_query():
    sampler = EpisodeSampler(LABELS, 2, 3, 4, episodes=5, seed=1)
    tasks = Tasks(ITEMS, sampler)
    assert len(tasks) == len(list(tasks)) == 5
    for i, (data, labels) in enumerate(tasks):
        order = torch.sort(labels, stable=True).indices
        is_support = torch.zeros(len(labels), dtype=torch.bool)
        is_support[(torch.arange(2) * 7)[:, None] + torch.arange(3)] = True
        indices = sampler[i]
        assert np.array_equal(data[order][is_support][:, 0], indices.support[0])
        assert np.array_equal(data[order][~is_support][:, 0], indices.query[0])
        assert np.array_equal(data[:, 1], indices.class_ids[0][labels])


def test_sample_goes_round():
    tasks = Tasks(ITEMS, EpisodeSampler(LABELS, 2, 1, 1, episodes=2))
    first, second, third = tasks.sample(), tasks.sample(), tasks.sample()
    assert torch.equal(first[0], third[0])
    assert not torch.equal(first[0], second[0])


def test_unlabeled_items_have_no_place_there():
    with pytest.raises(ValueError, match="neither unlabeled"):
        Tasks(ITEMS, EpisodeSampler(LABELS, 2, 1, 1, 1))


def test_labels_of_something_else():
    with pytest.raises(ValueError, match="list has not"):
        labels_of([])


@pytest.mark.filterwarnings("ignore")
def test_reads_a_real_meta_dataset_and_gives_tasks_like_its_own():
    pytest.importorskip("learn2learn", reason="learn2learn is not installed")
    import learn2learn as l2l

    meta = l2l.data.MetaDataset(Torch())
    assert labels_of(meta) == LABELS
    transforms = [
        l2l.data.transforms.FusedNWaysKShots(meta, n=2, k=7),
        l2l.data.transforms.LoadData(meta),
        l2l.data.transforms.RemapLabels(meta),
    ]
    data, labels = l2l.data.TaskDataset(meta, transforms, num_tasks=1).sample()
    ours, our_labels = Tasks(ITEMS, EpisodeSampler(labels_of(meta), 2, 3, 4))[0]
    assert (ours.shape, ours.dtype, our_labels.shape, our_labels.dtype) == (
        data.shape,
        data.dtype,
        labels.shape,
        labels.dtype,
    )
