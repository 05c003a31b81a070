"""Laws that every wrapper obeys; a new wrapper's test calls `check_wrapper_laws`."""

import copy
import dataclasses
from collections.abc import Callable

import torch

from episodic import Episode, Task
from episodic.learners.learner import AbstractMetricLearner
from episodic.learners.prototypical import Prototypical
from tests.conftest import Features, random_task
from tests.learners.laws import (
    check_class_permutation,
    check_episodes_are_alone,
    check_queries_are_alone,
    check_query_order,
    check_same,
    log_probabilities,
)


def tasks(item=(6,)):
    """Tasks of 4 ways with unlabeled items near the classes and far from them: equal shots, then unequal ones."""
    for task in (
        random_task(n_unlabeled=11, item=item),
        random_task(seed=1, n_unlabeled=11, item=item, imbalanced=True),
    ):
        near = torch.cat([task.support[:, :7], task.query[:, :4]], dim=1)
        yield dataclasses.replace(task, unlabeled=near + 0.5 * task.unlabeled)


def check_wrapper_laws(
    wrap: Callable[[AbstractMetricLearner], AbstractMetricLearner],
    null: Callable[[AbstractMetricLearner], AbstractMetricLearner],
    *,
    item: tuple[int, ...] = (6,),
    transductive: bool = False,
) -> None:
    """`wrap` puts the wrapper around a learner, `null` does so in the setting that must change nothing."""
    learner = Prototypical(Features(*item)).eval()
    wrapper = wrap(learner).eval()
    assert wrapper.capabilities.transductive == transductive
    assert wrapper.capabilities.uses_unlabeled
    assert wrapper.backbone is learner.backbone
    for task in tasks(item):
        check_unlabeled_matter(wrapper, task)
        before = log_probabilities(wrapper, task)
        assert before.shape == (3, 5, 4)
        assert before.isfinite().all()
        check_is_the_learner_without_unlabeled(wrapper, learner, task, transductive)
        check_is_the_learner(null(learner).eval(), learner, task)
        check_same_call_same_answer(wrapper, task, before)
        check_class_permutation(wrapper, task, before)
        check_unlabeled_order(wrapper, task, before)
        check_queries_are_alone(wrapper, task, before, alone=not transductive)
        check_query_order(wrapper, task, before)
        check_episodes_are_alone(wrapper, task, before)
        check_labels_are_kept(wrapper, task)
        check_what_was_taken(wrapper, task)
        check_odd_unlabeled(wrapper, task)
        check_gradients(wrap(learner), task)


def check_is_the_learner_without_unlabeled(wrapper, learner, task, transductive):
    if not transductive:
        check_is_the_learner(wrapper, learner, dataclasses.replace(task, unlabeled=None))


def check_is_the_learner(wrapper, learner, task):
    assert torch.equal(wrapper.classify(task).logits, learner.classify(task).logits)


def check_same_call_same_answer(wrapper, task, before):
    state = copy.deepcopy(wrapper.state_dict())
    log_probabilities(wrapper, random_task(seed=9, item=task.query.shape[2:], n_unlabeled=3))
    assert torch.equal(log_probabilities(wrapper, task), before)
    assert all(torch.equal(value, state[name]) for name, value in wrapper.state_dict().items())


def check_unlabeled_matter(wrapper, task):
    other = dataclasses.replace(task, unlabeled=task.unlabeled.flip(0).roll(1, 0) + 0.1)
    check_same(log_probabilities(wrapper, other), log_probabilities(wrapper, task), expected=False)


def check_unlabeled_order(wrapper, task, before):
    order = torch.randperm(task.unlabeled.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(task, unlabeled=task.unlabeled[:, order])
    torch.testing.assert_close(log_probabilities(wrapper, shuffled), before)
    taken, again = wrapper.classify(task).unlabeled, wrapper.classify(shuffled).unlabeled
    torch.testing.assert_close(again, taken[:, order])


def check_labels_are_kept(wrapper, task):
    """Asked about the support itself, well apart, the wrapper answers with its labels whatever the unlabeled items are."""
    apart = torch.eye(4)[task.support_y][..., None] * 20
    support = 0.1 * task.support.flatten(2)
    support[..., :4] += apart.squeeze(-1)
    support = support.unflatten(-1, task.support.shape[2:])
    asked = dataclasses.replace(task, support=support, query=support)
    assert torch.equal(wrapper.classify(asked).logits.argmax(-1), task.support_y)


def check_what_was_taken(wrapper, task):
    taken = wrapper.classify(task).unlabeled
    assert taken.shape == (*task.unlabeled.shape[:2], task.n_way)
    assert (taken >= 0).all()
    assert (taken.sum(-1) <= 1 + 1e-5).all()
    new_name = torch.tensor([2, 0, 3, 1])
    renamed = dataclasses.replace(task, support_y=new_name[task.support_y])
    torch.testing.assert_close(wrapper.classify(renamed).unlabeled[..., new_name], taken)


def check_odd_unlabeled(wrapper, task):
    """One item, items that are all equal, items of the support, items far away: finite answers."""
    odd = (task.unlabeled[:, :1], task.unlabeled[:, :1].repeat_interleave(5, 1), task.support, 1e3 * task.unlabeled)
    for unlabeled in odd:
        assert log_probabilities(wrapper, dataclasses.replace(task, unlabeled=unlabeled)).isfinite().all()


def check_gradients(wrapper, task):
    """In training every part that is learned gets a finite gradient."""
    wrapper.train()
    support, query, unlabeled = (x.clone().requires_grad_() for x in (task.support, task.query, task.unlabeled))
    prediction = wrapper.classify(dataclasses.replace(task, support=support, query=query, unlabeled=unlabeled))
    losses = [prediction.logits.log_softmax(-1)[..., 0].sum(), *all_terms(prediction, task)]
    sum(losses).backward()
    for tensor in (support, query, *wrapper.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert support.grad.abs().sum() > 0
    wrapper.zero_grad()


def all_terms(prediction, task: Task):
    query_y = torch.arange(task.query.shape[1]).remainder(task.n_way).expand(task.query.shape[:2])
    episode = Episode(task, query_y, torch.arange(task.n_way).expand(len(query_y), -1))
    losses = [*([prediction.loss] if prediction.loss else []), *prediction.auxiliary_losses.values()]
    return [loss(episode).sum() for loss in losses]
