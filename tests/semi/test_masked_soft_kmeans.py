import numpy as np
import pytest
import torch
from scipy import stats

from episodic.learners.prototypical import Prototypical
from episodic.semi.masked_soft_kmeans import MaskedSoftKMeans, normalized_distances, statistics
from episodic.semi.soft_kmeans import SoftKMeans
from tests.conftest import Features, random_task
from tests.semi.laws import check_wrapper_laws
from tests.semi.test_soft_kmeans import line


def with_threshold(beta, gamma, **settings) -> MaskedSoftKMeans:
    """The MLP replaced by a constant."""
    wrapper = MaskedSoftKMeans(Prototypical(Features(1), temperature=1.0), **settings)
    torch.nn.init.zeros_(wrapper.mask[2].weight)
    with torch.no_grad():
        wrapper.mask[2].bias.copy_(torch.tensor([beta, gamma]).log())
    return wrapper


def test_laws():
    check_wrapper_laws(MaskedSoftKMeans, lambda learner: MaskedSoftKMeans(learner, steps=0))
    check_wrapper_laws(
        lambda learner: MaskedSoftKMeans(learner, steps=2), lambda learner: MaskedSoftKMeans(learner, steps=0)
    )


@pytest.mark.parametrize(
    ("power", "refined"), [(0, (0.500335, 4.999776)), (1, (0.419868, 4.245489)), (2, (0.343467, 3.911725))]
)
def test_the_example_worked_out_by_hand(power, refined):
    task = line([0.0, 4.0], [1.0, 3.0, 8.0], [0.0])
    prediction = with_threshold(1.0, 1.0, mask_power=power).classify(task)
    torch.testing.assert_close(prediction.logits, -(torch.tensor([[refined]]) ** 2), atol=2e-5, rtol=1e-5)
    if power == 1:
        mask = torch.tensor([[0.723014, 0.490386], [0.653653, 0.707778], [0.168738, 0.300240]])
        z = with_threshold(1.0, 1.0, mask_power=0).classify(task).unlabeled
        torch.testing.assert_close(prediction.unlabeled, mask[None] * z, atol=1e-5, rtol=0)


def test_statistics_are_those_of_scipy_and_of_the_example():
    distances = torch.rand(3, 11, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = distances.numpy()
    kurtosis = stats.kurtosis(x, 1, fisher=True, bias=True)
    expected = np.stack([x.min(1), x.max(1), x.var(1), stats.skew(x, 1, bias=True), kurtosis], -1)
    np.testing.assert_allclose(statistics(distances).numpy(), expected)
    by_hand = normalized_distances(torch.tensor([[[1.0, 9.0], [9.0, 1.0], [64.0, 16.0]]]))
    found = statistics(by_hand)
    expected = torch.tensor(
        [[0.040541, 2.594595, 1.288897, 0.664073, -1.5], [0.115385, 1.846154, 0.5, -0.081428, -1.5]]
    )
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


def test_a_high_threshold_is_soft_kmeans():
    task = line([0.0, 4.0], [1.0, 3.0, 8.0], [0.5])
    plain = SoftKMeans(Prototypical(Features(1), temperature=1.0)).classify(task).logits
    torch.testing.assert_close(with_threshold(1e6, 1.0).classify(task).logits, plain)


def test_the_scale_of_the_features_does_not_move_the_mask():
    task = line([0.0, 4.0], [1.0, 3.0, 8.0], [0.5])
    large = line([0.0, 40.0], [10.0, 30.0, 80.0], [5.0])
    masks = []
    for t, temperature in ((task, 1.0), (large, 100.0)):
        settings = {"temperature": temperature}
        masks.append(with_threshold(0.7, 2.0, **settings).classify(t).unlabeled)
    torch.testing.assert_close(masks[0], masks[1])


def test_training_starts_near_one_and_moves_the_mask():
    wrapper = MaskedSoftKMeans(Prototypical(Features(6), temperature=1.0))
    task = random_task(n_unlabeled=9)
    found = wrapper.mask(statistics(torch.rand(3, 9, 4)))
    assert found.abs().max() < 0.05
    wrapper.classify(task).logits[0, 0, 0].backward()
    assert wrapper.mask[2].weight.grad.abs().sum() > 0


def test_a_power_that_makes_no_sense():
    with pytest.raises(ValueError, match="mask_power must be an integer, at least 0"):
        MaskedSoftKMeans(Prototypical(Features(1), temperature=1.0), mask_power=-1)


def test_without_steps_no_other_setting_has_an_effect():
    learner = Prototypical(Features(6), temperature=1.0)
    assert MaskedSoftKMeans(learner, steps=0).without_effect.keys() == {"temperature", "distance", "mask_power"}
    assert MaskedSoftKMeans(learner).without_effect == {}
