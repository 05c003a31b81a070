import pytest
import torch
from torch.nn.functional import cross_entropy

from episodic.core.losses.schem import SCHEM
from episodic.core.losses.triplet import Triplet
from tests.conftest import NextRow
from tests.core.losses.laws import batch, check_equal, check_loss_laws


def test_laws():
    check_loss_laws(lambda: SCHEM(16, 5), renamable=False, scalable=False)


def test_it_is_all_triplets_and_a_classifier_without_a_bias():
    embeddings, labels = batch()
    loss = SCHEM(16, 5, margin=0.3, classifier_weight=0.7).double()

    def written_out(x, y):
        return Triplet(0.3, "all")(x, y) + 0.7 * cross_entropy(x @ loss.signatures.T, y)

    check_equal(loss, written_out, embeddings, labels)


def test_without_the_classifier_signatures_learn_nothing():
    embeddings, labels = batch()
    loss = SCHEM(16, 5, classifier_weight=0).double()
    loss(embeddings.requires_grad_(), labels).backward()
    assert (loss.signatures.grad == 0).all()


def test_exchanged_labels_are_those_of_both_parts():
    embeddings, labels = batch()
    loss = SCHEM(16, 5, label_swap=NextRow(5)).double()
    torch.testing.assert_close(loss.train()(embeddings, labels), loss.eval()(embeddings, (labels + 1) % 5))


def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="classifier_weight must be at least 0, got -1"):
        SCHEM(16, 5, classifier_weight=-1)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.4, got 0\.\.5"):
        SCHEM(16, 5)(torch.zeros(2, 16), torch.tensor([0, 5]))
