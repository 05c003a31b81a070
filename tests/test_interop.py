from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Sampler

from episodic import EpisodeSampler
from episodic.interop import BatchMetaDataLoader, Tasks, TaskSampler, labels_of

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


class Labeled(Torch):
    """The same as easyfsl wants it."""

    def get_labels(self):
        return LABELS


def episode_of(items, n_way, n_shot, n_query):
    """Support and query of items that lie class by class, told apart by an explicit loop."""
    support, query, length = [], [], n_shot + n_query
    for c in range(n_way):
        support += items[c * length : c * length + n_shot]
        query += items[c * length + n_shot : (c + 1) * length]
    return support, query


def test_easyfsls_five_parts_are_the_items_that_were_drawn():
    sampler = TaskSampler(Labeled(), n_way=3, n_shot=2, n_query=4, n_tasks=6)
    loader = DataLoader(Labeled(), batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    drawn = list(sampler)
    sampler.set_epoch(0)
    assert len(loader) == len(drawn) == 6
    for batch, (images, labels, query_images, query_labels, class_ids) in zip(drawn, loader, strict=True):
        support, query = episode_of(batch, 3, 2, 4)
        assert images[:, 0].tolist() == support
        assert query_images[:, 0].tolist() == query
        assert [class_ids[y] for y in labels] == [LABELS[i] for i in support]
        assert [class_ids[y] for y in query_labels] == [LABELS[i] for i in query]
        assert len({*support, *query}) == 18


def test_task_sampler_draws_the_episodes_of_the_sampler_and_others_each_time():
    sampler = TaskSampler(Labeled(), 2, 1, 3, 4, seed=7)
    first, second = list(sampler), list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first != second
    for epoch, batches in enumerate((first, second)):
        ours = EpisodeSampler(LABELS, 2, 1, 3, episodes=4, seed=7, epoch=epoch)
        for i, batch in enumerate(batches):
            support, query = episode_of(batch, 2, 1, 3)
            assert support == ours[i].support[0].tolist()
            assert query == ours[i].query[0].tolist()


@pytest.mark.parametrize("names", [range(3), (9, 2, 40), (1000, -1, 17)])
def test_collates_as_easyfsl_does(names):
    samplers = pytest.importorskip("easyfsl.samplers", reason="easyfsl is not installed")
    labels = [names[y - 1] for y in LABELS]
    items = [(torch.randn(1, 4, 4), torch.tensor(y) if i % 2 else y) for i, y in enumerate(labels)]
    source = mock.Mock(get_labels=lambda: labels)
    ours = TaskSampler(source, 3, 2, 4, 5)
    with mock.patch.object(Sampler, "__init__", return_value=None):  # easyfsl passes what torch no longer takes
        theirs = samplers.TaskSampler(source, 3, 2, 4, 5)
    assert len(ours) == len(theirs)
    for batch in [*ours, *theirs]:
        mine = ours.episodic_collate_fn([items[i] for i in batch])
        wanted = theirs.episodic_collate_fn([items[i] for i in batch])
        for a, b in zip(mine[:4], wanted[:4], strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert torch.equal(a, b)
        assert mine[4] == wanted[4]
        assert isinstance(mine[4], list)


def test_a_network_of_easyfsl_reads_our_tasks():
    methods = pytest.importorskip("easyfsl.methods", reason="easyfsl is not installed")
    sampler = TaskSampler(Labeled(), 3, 2, 4, 5)
    network = methods.PrototypicalNetworks(torch.nn.Identity())
    for images, labels, queries, answers, class_ids in DataLoader(
        Labeled(), batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn
    ):
        of_class = [part[:, 1:] for part in (images, queries)]  # the second number of an item is its class
        network.process_support_set(of_class[0], labels)
        assert torch.equal(network(of_class[1]).argmax(-1), answers)
        assert sorted(class_ids) == [1, 2, 3]


def test_task_sampler_needs_labels():
    with pytest.raises(ValueError, match=r"have get_labels\(\), and Torch has not"):
        TaskSampler(Torch(), 2, 1, 1, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_torchmetas_batches_have_its_layout_and_our_episodes(workers):
    """torchmeta cannot be installed beside today's torch; its layout is that of its documentation."""
    sampler = EpisodeSampler(LABELS, 3, 2, 4, episodes=6, episodes_per_batch=2, seed=3)
    loader = BatchMetaDataLoader(ITEMS, sampler, num_workers=workers)
    assert len(loader) == 3
    for number, batch in enumerate(loader):
        assert list(batch) == ["train", "test"]
        indices = sampler.batch(number)
        for role, k, wanted, y in (
            ("train", 2, indices.support, indices.support_y),
            ("test", 4, indices.query, indices.query_y),
        ):
            inputs, targets = batch[role]
            assert inputs.shape == (2, 3 * k, 2)
            assert (targets.shape, targets.dtype) == ((2, 3 * k), torch.int64)
            assert np.array_equal(inputs[..., 0], wanted)
            assert np.array_equal(targets, y)
            assert np.array_equal(inputs[..., 1], np.take_along_axis(indices.class_ids, y, axis=1))


def test_torchmetas_batches_have_no_place_for_unlabeled_items():
    with pytest.raises(ValueError, match="torchmeta's batches have neither unlabeled"):
        BatchMetaDataLoader(ITEMS, EpisodeSampler(LABELS, 2, 1, 1, 1))
