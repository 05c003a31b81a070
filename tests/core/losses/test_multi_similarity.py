import math

import pytest
import torch
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner

from episodic.core.distances.snr import SNR
from episodic.core.functional.pairs import References, masks
from episodic.core.losses.loss import Pairs
from episodic.core.losses.multi_similarity import MultiSimilarity
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_pair_loss_laws


@pytest.mark.parametrize("settings", [{}, {"epsilon": None}, {"distance": SNR(), "normalize": False, "beta": 2.0}])
def test_laws(settings):
    check_pair_loss_laws(lambda: MultiSimilarity(**settings))


def test_four_vectors_by_hand():
    assert MultiSimilarity(epsilon=None)(FOUR, FOUR_LABELS).item() == pytest.approx(0.6846149, abs=1e-7)
    assert MultiSimilarity(beta=40)(FOUR, FOUR_LABELS).item() == pytest.approx(0.4338138, abs=1e-7)


def test_pairs_that_mining_keeps_of_four_vectors():
    similarity = (FOUR @ FOUR.T).requires_grad_()
    MultiSimilarity().of_pairs(Pairs(similarity, *masks(FOUR_LABELS, FOUR_LABELS, torch.arange(4)))).backward()
    assert (similarity.grad < 0).nonzero().tolist() == [[1, 0], [2, 3]]
    assert (similarity.grad > 0).nonzero().tolist() == [[1, 2], [2, 0], [2, 1]]


@pytest.mark.parametrize("epsilon", [None, 0.1, 0.5, -0.2])
def test_equals_pytorch_metric_learning(epsilon):
    settings = {"alpha": 3.0, "beta": 20.0, "base": 0.4}
    theirs = MultiSimilarityLoss(**settings)
    mine = (lambda x, y: None) if epsilon is None else MultiSimilarityMiner(epsilon)
    for embeddings, labels in (batch(), batch(classes=12, per_class=2, dim=4)):
        check_equal(
            MultiSimilarity(**settings, epsilon=epsilon), lambda x, y: theirs(x, y, mine(x, y)), embeddings, labels
        )


def test_a_wide_epsilon_keeps_all():
    check_equal(MultiSimilarity(epsilon=2.0), MultiSimilarity(epsilon=None), *batch())


def test_one_positive_and_one_negative():
    similarity = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    expected = math.log1p(math.exp(2 * 0.2)) / 2 + math.log1p(math.exp(50 * 0.2)) / 50
    of_pair = MultiSimilarity().of_pairs(
        Pairs(similarity, torch.tensor([[True, False]]), torch.tensor([[False, True]]))
    )
    assert of_pair.item() == pytest.approx(expected)


def test_anchors_without_a_positive_count_as_zero_when_mining():
    embeddings, labels = batch()
    lone = torch.cat([embeddings, -embeddings[:1]]), torch.cat([labels, torch.tensor([9])])
    loss = MultiSimilarity()
    alone = loss(embeddings, labels, References(*lone, torch.arange(20))) * 20 / 21
    torch.testing.assert_close(loss(*lone), alone)


def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match=r"alpha and beta must be above 0, got 2\.0 and 0"):
        MultiSimilarity(beta=0)
