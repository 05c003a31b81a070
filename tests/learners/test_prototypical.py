import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.nn.functional import cross_entropy

from episodic import Task
from episodic.core.distances.cosine import Cosine
from episodic.core.distances.dot import Dot
from episodic.core.distances.euclidean import Euclidean
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.core.functional.pairs import squared_euclidean
from episodic.core.transforms.unit import Unit
from episodic.learners.matching import Matching
from episodic.learners.prototypical import Prototypical
from tests.conftest import Features, random_task
from tests.learners.laws import DISTANCE_NAMES, DISTANCES, check_laws, similarity_of_pair


def test_laws():
    check_laws(Prototypical(nn.Identity(), 1.0))


def test_hand_computed_example():
    support = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]])
    task = Task(support, torch.tensor([[0, 0, 1, 1]]), torch.tensor([[[1.0, 1.0]]]), n_way=2)
    logits = Prototypical(nn.Identity(), 1.0).classify(task).logits
    torch.testing.assert_close(logits, torch.tensor([[[-1.0, -2.0]]]))
    torch.testing.assert_close(logits.softmax(-1)[0, 0, 0].item(), 0.73106, atol=1e-5, rtol=0)
    torch.testing.assert_close(cross_entropy(logits[0], torch.tensor([0])).item(), 0.31326, atol=1e-5, rtol=0)


def test_equals_an_explicit_loop():
    task = random_task(imbalanced=True)
    logits = Prototypical(nn.Identity(), temperature=3.0).classify(task).logits
    for e in range(3):
        for n in range(4):
            center = task.support[e][task.support_y[e] == n].mean(0)
            for q in range(5):
                torch.testing.assert_close(
                    logits[e, q, n], -((task.query[e, q] - center) ** 2).sum() / 3, atol=1e-4, rtol=1e-4
                )


@pytest.mark.parametrize(("distance", "of_pair"), DISTANCES, ids=DISTANCE_NAMES)
def test_any_distance_equals_an_explicit_loop(distance, of_pair):
    task = random_task(imbalanced=True)
    learner = Prototypical(nn.Identity(), temperature=0.7, distance=distance)
    logits = learner.classify(task).logits
    for e in range(3):
        for n in range(4):
            center = task.support[e][task.support_y[e] == n].mean(0)
            for q in range(5):
                expected = similarity_of_pair(distance, of_pair, task.query[e, q], center) / 0.7
                torch.testing.assert_close(logits[e, q, n], expected, atol=1e-4, rtol=1e-4)
    check_laws(learner)


def test_with_the_cosine_by_hand():
    # Prototypes (4, 0) and (0, 2), query (3, 4): cosines 3/5 and 4/5, over a temperature of 0.1.
    support = torch.tensor([[[3.0, 1.0], [5.0, -1.0], [0.0, 2.0], [0.0, 2.0]]])
    task = Task(support, torch.tensor([[0, 0, 1, 1]]), torch.tensor([[[3.0, 4.0]]]), n_way=2)
    logits = Prototypical(nn.Identity(), temperature=0.1, distance=Cosine()).classify(task).logits
    torch.testing.assert_close(logits, torch.tensor([[[6.0, 8.0]]]))
    torch.testing.assert_close(logits.softmax(-1)[0, 0, 1].item(), 0.88080, atol=1e-5, rtol=0)
    # The inner product, which is no distance, will do as well: 12 and 8.
    logits = Prototypical(nn.Identity(), 1.0, Dot()).classify(task).logits
    torch.testing.assert_close(logits, torch.tensor([[[12.0, 8.0]]]))


def test_the_default_is_minus_the_squared_distance_over_the_temperature_bit_for_bit():
    task = random_task(item=(64,))
    centers = torch.stack([task.support[:, 2 * n : 2 * n + 2].sum(1) / 2 for n in range(4)], dim=1)
    expected = -squared_euclidean(task.query, centers) / 3.0
    assert torch.equal(Prototypical(nn.Identity(), 3.0).classify(task).logits, expected)


def test_decides_as_scikit_learns_nearest_centroid():
    task = random_task(n_query=50)
    answers = Prototypical(nn.Identity(), 1.0).classify(task).logits.argmax(-1)
    for e in range(3):
        peer = NearestCentroid().fit(task.support[e].numpy(), task.support_y[e].numpy())
        assert (peer.predict(task.query[e].numpy()) == answers[e].numpy()).all()


def test_same_softmax_as_the_linear_form():
    task = random_task()
    logits = Prototypical(nn.Identity(), 1.0).classify(task).logits
    centers = torch.stack([task.support[:, 2 * n : 2 * n + 2].mean(1) for n in range(4)], dim=1)
    linear = 2 * task.query @ centers.mT - centers.square().sum(-1)[:, None]
    torch.testing.assert_close(logits.softmax(-1), linear.softmax(-1))


def test_one_constant_added_to_all_embeddings_changes_nothing():
    task = random_task()
    learner = Prototypical(nn.Identity(), 1.0)
    torch.testing.assert_close(
        learner.classify(task.map(lambda x: x + 3)).logits, learner.classify(task).logits, atol=1e-4, rtol=1e-4
    )


def test_one_shot_on_the_unit_sphere_equals_matching():
    # ||a - b||^2 = 2 - 2 cos, so the logits of the two differ by a constant per query.
    task = random_task(n_shot=1).map(lambda x: nn.functional.normalize(x, dim=-1))
    ours = Prototypical(nn.Identity(), 1.0).classify(task).logits.log_softmax(-1)
    torch.testing.assert_close(ours, Matching(nn.Identity(), scale=2.0).classify(task).logits)


def test_maps_are_flattened_and_gradients_reach_support_and_query():
    task = random_task(item=(2, 3, 3))
    leaves = task.support.clone().requires_grad_(), task.query.clone().requires_grad_()
    Prototypical(nn.Identity(), 1.0).forward(Task(leaves[0], task.support_y, leaves[1], 4)).logits.logsumexp(
        -1
    ).sum().backward()
    assert all(leaf.grad.flatten(2).abs().amax(-1).min() > 0 for leaf in leaves)
    flat = random_task(item=(2, 3, 3)).map(lambda x: x.flatten(1))
    logits = Prototypical(nn.Identity(), 1.0).classify(flat).logits
    torch.testing.assert_close(Prototypical(nn.Identity(), 1.0).classify(task).logits, logits)


@pytest.mark.parametrize(
    ("distance", "power"), [(SquaredEuclidean(), 1), (Euclidean(), 0.5), (Cosine(), 0), (Dot(), 1)], ids=repr
)
def test_the_temperature_follows_the_embedding(distance, power):
    """Longer embeddings by a factor, or more coordinates of the same kind, need another temperature; the answers stay soft."""
    for dim in (16, 1600):
        task = random_task(item=(dim,))
        assert torch.equal(
            Prototypical(nn.Identity(), distance=distance).classify(task).logits,
            Prototypical(nn.Identity(), (2 * dim) ** power / 8, distance).classify(task).logits,
        )
    unit = Unit(Features(1600))
    task = random_task(item=(1600,)).map(lambda x: nn.functional.normalize(x, dim=-1))
    assert torch.equal(
        Prototypical(unit, distance=distance).classify(task).logits,
        Prototypical(unit, 0.125, distance).classify(task).logits,
    )


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature must be a number, above 0"):
        Prototypical(nn.Identity(), temperature=0)


def test_the_head_stays_in_float32_under_autocast():
    # 1,600 features far from the origin: in bf16 the distances between them drown in rounding.
    task = random_task(item=(1600,)).map(lambda x: x + 30)
    exact = Prototypical(nn.Identity(), 1.0)(task).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(Prototypical(nn.Identity(), 1.0)(task).logits, exact)
