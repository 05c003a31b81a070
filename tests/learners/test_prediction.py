import dataclasses
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from episodic import Episode, Prediction
from episodic.learners.prediction import mean_cross_entropy
from tests.conftest import random_task


def answered(n_base=0):
    """Logits and an episode of 3 tasks of 5 queries, unequal episodes, labels drawn at random."""
    generator = torch.Generator().manual_seed(0)
    task = dataclasses.replace(random_task(), n_base=n_base)
    logits = 5 * torch.randn(3, 5, 4 + n_base, generator=generator)
    query_y = torch.randint(4 + n_base, (3, 5), generator=generator)
    return logits, Episode(task, query_y, torch.arange(4).expand(3, -1))


@pytest.mark.parametrize("n_base", [0, 3])
def test_without_a_loss_of_its_own_it_is_the_cross_entropy_of_the_logits(n_base):
    logits, episode = answered(n_base)
    found = Prediction(logits).own_loss(episode)
    assert found.shape == (3,)
    for e in range(3):
        each = [cross_entropy(logits[e, q], episode.query_y[e, q]) for q in range(5)]
        torch.testing.assert_close(found[e], sum(each) / 5)


def test_cross_entropy_from_its_definition():
    logits, episode = answered()
    found = mean_cross_entropy(logits, episode.query_y)
    for e in range(3):
        total = 0.0
        for q in range(5):
            row = logits[e, q].tolist()
            total += math.log(sum(math.exp(z) for z in row)) - row[episode.query_y[e, q]]
        assert found[e].item() == pytest.approx(total / 5, rel=1e-5)


def test_a_loss_of_its_own_is_asked_with_the_whole_episode_and_auxiliary_losses_are_not_in_it():
    logits, episode = answered()
    asked = []

    def loss(given):
        asked.append(given)
        return torch.tensor([1.0, 2.0, 3.0])

    prediction = Prediction(logits, loss, {"far": lambda _: torch.full((3,), 1e6)})
    assert prediction.own_loss(episode).tolist() == [1.0, 2.0, 3.0]
    assert asked == [episode]
    assert Prediction(logits).auxiliary_losses == {}


def test_half_precision_is_scored_in_float32():
    logits, episode = answered()
    half = logits.bfloat16()
    found = mean_cross_entropy(half, episode.query_y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, mean_cross_entropy(half.float(), episode.query_y))


def test_the_gradient_of_an_episode_is_that_of_its_own_queries():
    logits, episode = answered()
    logits.requires_grad_()
    Prediction(logits).own_loss(episode)[1].backward()
    assert logits.grad[1].abs().sum() > 0
    assert not logits.grad[[0, 2]].any()


def test_a_prediction_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Prediction(torch.zeros(1, 1, 2)).logits = torch.ones(1, 1, 2)
