import pytest
import torch
from pytorch_metric_learning.losses import GeneralizedLiftedStructureLoss, LiftedStructureLoss

from episodic.core.distances.snr import SNR
from episodic.core.functional.pairs import References, euclidean, unit
from episodic.core.losses.lifted_structure import LiftedStructure
from episodic.core.losses.loss import Pairs
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch, check_equal, check_pair_loss_laws, value_and_gradient

VARIANTS = ("pairs", "generalized")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("settings", [{}, {"distance": SNR(), "normalize": False}])
def test_laws(variant, settings):
    check_pair_loss_laws(lambda: LiftedStructure(variant=variant, **settings))


def test_four_vectors_by_hand():
    assert LiftedStructure()(FOUR, FOUR_LABELS).item() == pytest.approx(2.7779944, abs=1e-7)
    assert LiftedStructure(variant="generalized")(FOUR, FOUR_LABELS).item() == pytest.approx(1.5649160, abs=1e-7)


@pytest.mark.parametrize("margin", [0.3, 1.0, 2.0])
@pytest.mark.parametrize(
    ("variant", "theirs"), [("pairs", LiftedStructureLoss), ("generalized", GeneralizedLiftedStructureLoss)]
)
def test_equals_pytorch_metric_learning(margin, variant, theirs):
    check_equal(LiftedStructure(margin, variant), theirs(neg_margin=margin), *batch())


def test_pairs_equal_the_paper_s_loop_over_unordered_pairs():
    embeddings, _ = batch()
    labels = torch.tensor([0] * 7 + [1] * 6 + [2] * 4 + [3] * 2 + [4])

    def looped(x, y):
        d = euclidean(unit(x), unit(x))
        each = []
        for i in range(20):
            for j in range(i):
                if y[i] == y[j]:
                    near = [(1 - d[i, k]).exp() + (1 - d[j, k]).exp() for k in range(20) if y[k] != y[i]]
                    each.append((d[i, j] + sum(near).log()).relu().square())
        return sum(each) / (2 * len(each))

    check_equal(LiftedStructure(), looped, embeddings, labels)


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_references_take_their_negatives_from_the_anchors_in_any_order(variant):
    embeddings, labels = batch(classes=3, per_class=3)
    references, reference_labels = batch(classes=4, per_class=2, seed=1)

    def looped(x, y):
        d = euclidean(unit(x), unit(references))
        each = []
        for i in range(9):
            negatives = [r for r in range(8) if reference_labels[r] != y[i]]
            positives = [r for r in range(8) if reference_labels[r] == y[i]]
            near = sum((1 - d[i, r]).exp() for r in negatives)
            if variant == "generalized":
                each.append((sum(d[i, r].exp() for r in positives).log() + near.log()).relu())
            else:
                for j in positives:
                    other = sum((1 - d[k, j]).exp() for k in range(9) if y[k] != y[i])
                    each.append((d[i, j] + (near + other).log()).relu().square() / 2)
        return torch.stack(each).mean()

    for order in (torch.arange(8), torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])):
        check_equal(
            lambda x, y, order=order: LiftedStructure(variant=variant)(
                x, y, References(references[order], reference_labels[order])
            ),
            looped,
            embeddings,
            labels,
        )


def test_a_positive_pair_without_negatives_costs_nothing():
    """And counts as a pair: the others' loss is divided among all."""
    matrix = torch.tensor([[0.5, 0.7], [0.9, 0.2]], dtype=torch.float64, requires_grad=True)
    positive = torch.tensor([[True, False], [False, True]])
    alone = LiftedStructure().of_pairs(Pairs(matrix, positive, torch.zeros_like(positive)))
    alone.backward()
    assert alone == 0
    assert (matrix.grad == 0).all()
    some = torch.tensor([[False, True], [False, False]])
    found, gradient = value_and_gradient(
        lambda d, _: LiftedStructure().of_pairs(Pairs(d, positive, some)), matrix.detach(), 0
    )
    first, second = 0.5 + 1 - 0.7, 0.2 + 1 - 0.7  # the negative is of the anchor 0 and of the reference 1
    assert found.item() == pytest.approx((first**2 + second**2) / 4)
    assert gradient.isfinite().all()


@pytest.mark.usefixtures("unchecked")
def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="variant must be one of pairs, generalized, got 'triplets'"):
        LiftedStructure(variant="triplets")
