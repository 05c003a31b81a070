import pytest
import torch
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.losses import NPairsLoss
from torch.nn.functional import cross_entropy

from episodic.core.distances.cosine import Cosine
from episodic.core.distances.euclidean import Euclidean
from episodic.core.functional.pairs import References
from episodic.core.losses.n_pair import NPair
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_loss_laws, value_and_gradient


@pytest.mark.parametrize("settings", [{}, {"l2": 0.0}, {"distance": Cosine()}])
def test_laws(settings):
    check_loss_laws(lambda: NPair(**settings), random=True, scalable=False)  # not of chance, but the order matters


def test_four_vectors_by_hand():
    assert NPair(l2=0.0)(FOUR, FOUR_LABELS).item() == pytest.approx(0.7092660, abs=1e-7)
    assert NPair(l2=0.3)(FOUR, FOUR_LABELS).item() == pytest.approx(1.0092660, abs=1e-7)


@pytest.mark.parametrize("normalize", [False, True])
def test_two_of_each_class_equal_pytorch_metric_learning(normalize):
    theirs = NPairsLoss(distance=DotProductSimilarity(normalize_embeddings=normalize))
    embeddings, labels = batch(per_class=2)
    check_equal(NPair(l2=0.0, normalize=normalize), theirs, embeddings, labels)
    labels = torch.tensor([3, 0, 9, 0, 3, 2, 7, 7, 2, 5])  # 9 and 5 have one item only
    check_equal(NPair(l2=0.0, normalize=normalize), theirs, embeddings, labels)


def test_two_of_each_class_equal_cross_entropy():
    embeddings, _ = batch(per_class=2)
    labels = torch.arange(5).repeat(2)
    check_equal(
        NPair(l2=0.02),
        lambda x, y: cross_entropy(x[:5] @ x[5:].T, y[:5]) + 0.02 * x.square().sum(1).mean(),
        embeddings,
        labels,
    )


def test_more_of_each_class_equal_a_loop():
    def looped(x, y):
        last = {label: max(i for i in range(len(y)) if y[i] == label) for label in y.tolist()}
        each = []
        for i, label in enumerate(y.tolist()):
            if i != last[label]:
                terms = [(x[i] @ (x[last[other]] - x[last[label]])).exp() for other in last if other != label]
                each.append((1 + sum(terms)).log())
        return torch.stack(each).mean()

    check_equal(NPair(l2=0.0), looped, *batch(classes=4, dim=8))


def test_references_that_are_the_batch_change_nothing():
    embeddings, labels = batch()
    expected, gradient = value_and_gradient(NPair(), embeddings, labels)
    x = embeddings.clone().requires_grad_()
    found = NPair()(x, labels, References(x, labels, torch.arange(20)))
    found.backward()
    torch.testing.assert_close(found.detach(), expected)
    torch.testing.assert_close(x.grad, gradient)


def test_other_references_serve_by_the_last_of_each_class():
    embeddings, labels = batch(classes=3, per_class=2)
    references, _ = batch(classes=4, per_class=2, seed=1)
    reference_labels = torch.tensor([3, 1, 2, 0, 1, 0, 2, 3])  # no anchor is of class 3
    serving = torch.stack([references[5], references[4], references[6]])
    check_equal(
        lambda x, y: NPair(l2=0.0)(x, y, References(references, reference_labels)),
        lambda x, y: cross_entropy(x @ serving.T, y),
        embeddings,
        labels,
    )


def test_one_class_has_nothing_to_be_told_from():
    embeddings, _ = batch(classes=1)
    value, gradient = value_and_gradient(NPair(l2=0.0), embeddings, torch.zeros(4, dtype=torch.long))
    assert value == 0
    assert (gradient == 0).all()


def test_long_vectors_do_not_overflow():
    embeddings, labels = batch(dtype=torch.float32)
    value, gradient = value_and_gradient(NPair(), 100 * embeddings, labels)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_a_distance_serves_by_its_similarities():
    embeddings, labels = batch()
    last = torch.stack([(labels == c).nonzero()[-1, 0] for c in range(5)])
    others = torch.cat([(labels == c).nonzero()[:-1, 0] for c in range(5)])
    check_equal(
        NPair(l2=0.0, distance=Euclidean()),
        lambda x, y: cross_entropy(-torch.cdist(x[others], x[last]), y[others]),
        embeddings,
        labels,
    )
