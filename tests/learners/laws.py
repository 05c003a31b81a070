"""Laws that every learner obeys; a new learner's test calls `check_laws(learner)`."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from episodic import Episode, Task
from episodic.core.distances.cosine import Cosine
from episodic.core.distances.distance import AbstractDistance
from episodic.core.distances.euclidean import Euclidean
from episodic.core.distances.snr import SNR
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.learners.learner import AbstractMetricLearner
from tests.conftest import random_task

# Each beside its formula for two vectors.
DISTANCES: list[tuple[AbstractDistance, Callable[[Tensor, Tensor], Tensor]]] = [
    (SquaredEuclidean(), lambda x, y: ((x - y) ** 2).sum()),
    (Euclidean(), lambda x, y: ((x - y) ** 2).sum().sqrt()),
    (Cosine(), lambda x, y: 1 - cosine_similarity(x, y, dim=0)),
    (SNR(), lambda x, y: (y - x).var(correction=0) / x.var(correction=0)),
]
DISTANCE_NAMES = [repr(distance) for distance, _ in DISTANCES]


def similarity_of_pair(distance: AbstractDistance, of_pair: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor):
    return 1 - of_pair(x, y) if isinstance(distance, Cosine) else -of_pair(x, y)


def check_laws(
    learner: AbstractMetricLearner,
    *,
    item: tuple[int, ...] = (6,),
    transductive: bool = False,
    support_order_matters: bool = False,
    twins_matter: bool = False,
) -> None:
    """`item` is the shape of one embedding. What is said of a learner must be true: one that is called transductive, or
    minds the order of the support or that each of its items is given twice, and gives the same answers anyway is refused.
    """
    assert learner.capabilities.transductive == transductive
    for task in (random_task(item=item), random_task(seed=1, item=item, imbalanced=True)):
        before = log_probabilities(learner, task)
        assert before.shape == (3, 5, 4)
        check_same_call_same_answer(learner, task, before)
        check_class_permutation(learner, task, before)
        check_queries_are_alone(learner, task, before, alone=not transductive)
        check_query_order(learner, task, before)
        check_support_order(learner, task, before, matters=support_order_matters)
        check_twins(learner, task, before, matter=twins_matter)
        check_episodes_are_alone(learner, task, before)
        check_unlabeled_is_ignored(learner, task, before)
        check_losses(learner, task)


def log_probabilities(learner, task: Task):
    prediction = learner.classify(task)
    return prediction.logits.log_softmax(-1)


def check_losses(learner, task):
    """The loss and every term are finite, one an episode, and do not depend on how the classes are numbered."""
    query_y = torch.randint(task.n_way, task.query.shape[:2], generator=torch.Generator().manual_seed(0))
    class_ids = torch.tensor([5, 1, 0, 3]).repeat(len(query_y), 1)
    prediction = learner.classify(task)
    losses = [loss(Episode(task, query_y, class_ids)) for loss in all_losses(prediction)]
    new_name = torch.tensor([2, 0, 3, 1])
    renamed = dataclasses.replace(task, support_y=new_name[task.support_y])
    again = [
        loss(Episode(renamed, new_name[query_y], class_ids[:, [1, 3, 0, 2]]))
        for loss in all_losses(learner.classify(renamed))
    ]
    for a, b in zip(losses, again, strict=True):
        assert a.shape == (len(query_y),)
        assert a.isfinite().all()
        torch.testing.assert_close(a, b)


def all_losses(prediction):
    return [*([prediction.loss] if prediction.loss else []), *prediction.auxiliary_losses.values()]


def check_same_call_same_answer(learner, task, before):
    log_probabilities(learner, random_task(seed=9, item=task.query.shape[2:]))
    assert torch.equal(log_probabilities(learner, task), before)


def check_class_permutation(learner, task, before):
    new_name = torch.tensor([2, 0, 3, 1])
    renamed = dataclasses.replace(task, support_y=new_name[task.support_y])
    torch.testing.assert_close(log_probabilities(learner, renamed)[..., new_name], before)


def check_queries_are_alone(learner, task, before, alone=True):
    single = [log_probabilities(learner, dataclasses.replace(task, query=task.query[:, [q]])) for q in range(5)]
    check_same(torch.cat(single, dim=1), before, alone)


def check_query_order(learner, task, before):
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = dataclasses.replace(task, query=task.query[:, order])
    torch.testing.assert_close(log_probabilities(learner, shuffled), before[:, order])


def check_support_order(learner, task, before, matters=False):
    order = torch.randperm(task.support.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(task, support=task.support[:, order], support_y=task.support_y[:, order])
    check_same(log_probabilities(learner, shuffled), before, not matters)


def check_twins(learner, task, before, matter=False):
    twice = [torch.cat([items, items], dim=1) for items in (task.support, task.support_y)]
    with_twins = dataclasses.replace(task, support=twice[0], support_y=twice[1])
    check_same(log_probabilities(learner, with_twins), before, not matter)


def check_same(after, before, expected):
    if expected:
        torch.testing.assert_close(after, before)
    else:
        assert not torch.allclose(after, before, atol=1e-3, rtol=1e-3)


def check_episodes_are_alone(learner, task, before):
    unlabeled = None if task.unlabeled is None else task.unlabeled[1:2]
    second = Task(task.support[1:2], task.support_y[1:2], task.query[1:2], task.n_way, unlabeled)
    torch.testing.assert_close(log_probabilities(learner, second), before[1:2])


def check_unlabeled_is_ignored(learner, task, before):
    unlabeled = torch.randn(3, 7, *task.query.shape[2:], generator=torch.Generator().manual_seed(0))
    assert torch.equal(log_probabilities(learner, dataclasses.replace(task, unlabeled=unlabeled)), before)
