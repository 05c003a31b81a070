import pytest
import torch
from pytorch_metric_learning.distances import SNRDistance
from pytorch_metric_learning.losses import ContrastiveLoss

from episodic.core.distances.cosine import Cosine
from episodic.core.distances.dot import Dot
from episodic.core.distances.snr import SNR
from episodic.core.losses.contrastive import Contrastive
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_pair_loss_laws


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"variant": "squared"},
        {"variant": "xbm", "distance": Cosine(), "negative_margin": 0.5},
        {"distance": SNR(), "normalize": False},
    ],
)
def test_laws(settings):
    check_pair_loss_laws(lambda: Contrastive(**settings))


def test_four_vectors_by_hand():
    assert Contrastive()(FOUR, FOUR_LABELS).item() == pytest.approx(1.689469, abs=1e-6)
    assert Contrastive(variant="squared")(FOUR, FOUR_LABELS).item() == pytest.approx(0.2693894, abs=1e-7)
    xbm = Contrastive(variant="xbm", distance=Cosine(), negative_margin=0.5)
    assert xbm(FOUR, FOUR_LABELS).item() == pytest.approx(1.1830127, abs=1e-7)


@pytest.mark.parametrize("margins", [(0.0, 1.0), (0.3, 0.9), (0.2, 1.6)])
def test_equals_pytorch_metric_learning(margins):
    embeddings, labels = batch()
    check_equal(Contrastive(*margins), ContrastiveLoss(*margins), embeddings, labels)
    theirs = ContrastiveLoss(*margins, distance=SNRDistance(normalize_embeddings=False))
    check_equal(Contrastive(*margins, distance=SNR(), normalize=False), theirs, embeddings, labels)


@pytest.mark.parametrize("variant", ["hinge", "squared"])
def test_swapped_pairs_are_negatives(variant):
    """With a probability of 1 all pairs are negatives, as of items that are each a class of their own; with one half about half."""
    embeddings, labels = batch()
    alone = Contrastive(variant=variant)(embeddings, torch.arange(len(labels)))
    torch.testing.assert_close(Contrastive(variant=variant, rho=1.0)(embeddings, labels), alone)
    ones, same = (
        torch.zeros(200, 2),
        torch.zeros(200, dtype=torch.long),
    )  # all pairs are positive, and at a distance of 0
    torch.manual_seed(0)
    squared = Contrastive(variant="squared", rho=0.5, normalize=False)(ones, same)
    assert squared.item() == pytest.approx(0.5 / 2, abs=0.01)  # half of the pairs at 1/2 (1 - 0)^2


def test_length_matters_only_where_it_is_kept():
    embeddings, labels = batch()
    torch.testing.assert_close(Contrastive()(7 * embeddings, labels), Contrastive()(embeddings, labels))
    raw = Contrastive(normalize=False)
    assert not torch.allclose(raw(7 * embeddings, labels), raw(embeddings, labels))


@pytest.mark.usefixtures("unchecked")
def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="variant must be one of hinge, squared, xbm, got 'cubic'"):
        Contrastive(variant="cubic")
    with pytest.raises(
        ValueError, match=r"Contrastive needs distances, and Dot\(\) cannot be read as one: take euclid"
    ):
        Contrastive(distance=Dot())


def test_the_variant_xbm_has_no_positive_margin():
    assert Contrastive().without_effect == {}
    settings = {"variant": "xbm", "distance": Cosine(), "negative_margin": 0.5}
    loss = Contrastive(**settings)
    assert "positive_margin" in loss.without_effect
    check_equal(loss, Contrastive(positive_margin=0.3, **settings), *batch())
