import numpy as np
import pytest
import torch

from episodic.core.losses.contrastive import Contrastive
from episodic.core.losses.divide_and_conquer import DivideAndConquer
from episodic.train.divide_and_conquer import ClusteredTraining, clusters_of
from tests.train.test_dml import batches_of
from tests.train.training import resume, states_equal


def sliced(**settings):
    losses = {"divide_and_conquer": DivideAndConquer(8, n_learners=2)}
    return batches_of(ClusteredTraining, losses=losses, **settings)


def test_each_cluster_trains_its_slice_and_the_end_the_whole_embedding():
    training = sliced(steps=10, recluster_every=3, finish=0.2)
    labels, whose = training.setup.store.labels, []
    for step in range(10):
        items, cluster = training.batch()
        clusters = training.state.clusters
        whose.append(cluster)
        if step < 8:
            assert (clusters[items] == step % 2).all()
            assert set(labels[items].bincount(minlength=8).tolist()) <= {0, 3}
        training.training_step()
        assert (training.state.clusters == clusters).all() or (step + 1) % 3 == 0
    assert whose == [0, 1] * 4 + [None, None]
    assert sorted(clusters.unique().tolist()) == [0, 1]


def test_a_resumed_training_takes_the_same_steps():
    whole, first = sliced(recluster_every=2), sliced(recluster_every=2)
    for _ in range(6):
        whole.training_step()
    for _ in range(3):
        first.training_step()
    second = resume(sliced(recluster_every=2), first, 3)
    for _ in range(3):
        second.training_step()
    assert states_equal(whole, second)
    assert "clusters" in whole.state_dict()["tensors"]


def test_clusters_keep_the_number_of_those_they_share_most_items_with():
    x = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0]])
    for before in ([0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]):
        found = clusters_of(x, 2, torch.tensor(before), seed=0)
        assert found.tolist() == ([1, 1, 0, 0] if before[0] == 1 else [0, 0, 1, 1])


@pytest.mark.parametrize("names", [[0, 1, 2], [1, 2, 0], [2, 1, 0]])
def test_clusters_keep_their_numbers_through_any_renaming(names):
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(3).repeat_interleave(10)
    points = 10 * torch.eye(3)[truth] + 0.1 * torch.randn(30, 3, generator=generator)
    before = torch.tensor(names)[truth]
    assert torch.equal(clusters_of(points, 3, before, seed=0), before)
    moved = before.clone()
    moved[0] = (moved[0] + 1) % 3
    assert torch.equal(clusters_of(points, 3, moved, seed=1), before)
    assert clusters_of(points, 3, None, seed=0).unique().tolist() == [0, 1, 2]


def test_its_loss_and_all_images_are_needed():
    with pytest.raises(ValueError, match="makes batches for loss=divide_and_conquer alone"):
        batches_of(ClusteredTraining, losses={"contrastive": Contrastive()})
    with pytest.raises(ValueError, match="takes any training image"):
        sliced(labeled=np.arange(160) % 20 < 10)
    with pytest.raises(ValueError, match=r"trainer\.finish, a share of the steps, must lie in 0\.\.1, got 2"):
        sliced(finish=2)
    with pytest.raises(ValueError, match="recluster_every must be a number, at least 1, got 0"):
        sliced(recluster_every=0)
