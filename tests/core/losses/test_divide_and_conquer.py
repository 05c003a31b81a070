import pytest
import torch

from episodic.core.losses.divide_and_conquer import DivideAndConquer
from episodic.core.losses.margin import Margin
from tests.core.losses.laws import batch, check_empty, check_loss_laws, value_and_gradient


def test_laws():
    check_loss_laws(lambda: DivideAndConquer(16), random=True)


class InCluster(DivideAndConquer):
    """The loss of batches from one cluster."""

    def __init__(self, cluster, **settings):
        super().__init__(16, **settings)
        self.cluster = cluster

    def forward(self, embeddings, labels):
        return self.of_slice(embeddings, labels, self.cluster)


def test_one_learner_is_the_margin_loss():
    embeddings, labels = batch()
    for cluster in (None, 0):
        loss = InCluster(cluster, n_learners=1)
        torch.manual_seed(0)
        found = value_and_gradient(loss, embeddings, labels)
        torch.manual_seed(0)
        torch.testing.assert_close(found, value_and_gradient(Margin(dim=16), embeddings, labels))


@pytest.mark.parametrize("cluster", range(4))
def test_a_cluster_learns_its_slice_alone(cluster):
    embeddings, labels = batch()
    own = slice(4 * cluster, 4 * cluster + 4)
    torch.manual_seed(0)
    value, gradient = value_and_gradient(InCluster(cluster), embeddings, labels)
    torch.manual_seed(0)
    wanted, by = value_and_gradient(Margin(dim=4), embeddings[:, own], labels)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(gradient[:, own], by)
    gradient[:, own] = 0
    assert (gradient == 0).all()
    check_empty(lambda: InCluster(cluster))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_learners": 3}, "n_learners must share 16 coordinates evenly, at least 2 each, got 3"),
        ({"n_learners": 16}, "at least 2 each, got 16"),
    ],
)
def test_odd_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DivideAndConquer(16, **settings)
