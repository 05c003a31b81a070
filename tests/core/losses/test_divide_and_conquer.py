import pytest
import torch

from episodic.core.losses.divide_and_conquer import DivideAndConquer, clusters_of
from episodic.core.losses.margin import Margin
from tests.core.losses.laws import batch, check_empty, check_loss_laws, value_and_gradient


def test_laws():
    check_loss_laws(lambda: DivideAndConquer(16), random=True)


def in_cluster(k):
    loss = DivideAndConquer(16)
    loss.cluster = k
    return loss


def test_one_learner_is_the_margin_loss():
    embeddings, labels = batch()
    for cluster in (None, 0):
        loss = DivideAndConquer(16, n_learners=1)
        loss.cluster = cluster
        torch.manual_seed(0)
        found = value_and_gradient(loss, embeddings, labels)
        torch.manual_seed(0)
        torch.testing.assert_close(found, value_and_gradient(Margin(dim=16), embeddings, labels))


@pytest.mark.parametrize("cluster", range(4))
def test_a_cluster_learns_its_slice_alone(cluster):
    embeddings, labels = batch()
    own = slice(4 * cluster, 4 * cluster + 4)
    torch.manual_seed(0)
    value, gradient = value_and_gradient(in_cluster(cluster), embeddings, labels)
    torch.manual_seed(0)
    wanted, by = value_and_gradient(Margin(dim=4), embeddings[:, own], labels)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(gradient[:, own], by)
    gradient[:, own] = 0
    assert (gradient == 0).all()
    check_empty(lambda: in_cluster(cluster))


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_learners": 3}, "n_learners must share 16 coordinates evenly, at least 2 each, got 3"),
        ({"n_learners": 16}, "at least 2 each, got 16"),
        ({"recluster_every": 0}, "recluster_every must be at least 1, got 0"),
        ({"finish": 1.5}, r"finish, a share of the steps, must lie in 0\.\.1, got 1\.5"),
    ],
)
def test_odd_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DivideAndConquer(16, **settings)
