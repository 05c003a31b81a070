"""The test of the learner, the last of its three files. It compares the learner with a plain loop and with a simpler learner."""

import torch
from soft_neighbors import SoftNeighbors

from episodic import Task
from episodic.learners.prototypical import Prototypical


def random_task(n_shot: int) -> Task:
    """Three episodes of four classes and five queries."""
    draw = lambda n: torch.randn(3, n, 6, generator=torch.Generator().manual_seed(n))  # noqa: E731
    return Task(draw(4 * n_shot), torch.arange(4).repeat_interleave(n_shot).repeat(3, 1), draw(5), n_way=4)


def test_shares_are_those_of_an_explicit_loop():
    task = random_task(n_shot=3)
    shares = SoftNeighbors(torch.nn.Identity(), temperature=2.0).classify(task).logits.softmax(-1)
    for e in range(3):
        for q in range(5):
            weight = torch.zeros(4)
            for s in range(12):
                weight[task.support_y[e, s]] += torch.exp(-(task.query[e, q] - task.support[e, s]).square().sum() / 2)
            torch.testing.assert_close(shares[e, q], weight / weight.sum())


def test_with_one_shot_it_is_a_prototypical_network():
    task = random_task(n_shot=1)
    ours, theirs = (
        kind(torch.nn.Identity(), temperature=1.0).classify(task).logits for kind in (SoftNeighbors, Prototypical)
    )
    torch.testing.assert_close(ours, theirs)
