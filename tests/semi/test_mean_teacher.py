import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from episodic import Episode
from episodic.core.backbones.conv4 import Conv4
from episodic.data.augment import Augment, Normalize
from episodic.episodes.sampler import EpisodeSampler
from episodic.learners.learner import AbstractLearner
from episodic.learners.matching import Matching
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.semi.label_propagation import LabelPropagation
from episodic.semi.mean_teacher import MeanTeacher, MetricMeanTeacher, consistency, mean_teacher, ramp_up
from episodic.semi.soft_kmeans import SoftKMeans
from episodic.train.episodes import EpisodicTraining
from episodic.train.objective import Objective
from episodic.train.procedure import Setup
from tests.conftest import random_store, random_task

FP32 = Hardware(torch.device("cpu"), torch.float32)


def small_backbone(seed=0) -> Conv4:
    torch.manual_seed(seed)
    return Conv4(1, 16, widths=[8, 8])


def two_views(seed=0):
    """A task of images with the second view, and its episode."""
    first, second = (random_task(seed=s, n_unlabeled=7, item=(1, 16, 16)) for s in (seed, seed + 100))
    task = dataclasses.replace(first, second_view=second)
    query_y = torch.tensor([0, 1, 2, 3, 0]).expand(3, -1)
    return Episode(task, query_y, torch.arange(4).expand(3, -1))


def train(learner, steps=3, augment=None, seed=0) -> EpisodicTraining:
    store = random_store(per_class=20, seed=3)
    mask = torch.arange(len(store)) % 20 < 8
    counts = {"n_way": 4, "n_shot": 1, "n_query": 2, "n_unlabeled": 3}

    def episodes(count: int, per_step: int) -> EpisodeSampler:
        return EpisodeSampler(store.labels, **counts, episodes=count, episodes_per_batch=per_step, labeled=mask)

    setup = Setup(
        learner=learner,
        store=store,
        normalize=Normalize([0.5], [0.3]),
        optimizer=lambda groups: torch.optim.Adam([{"params": group["params"]} for group in groups], lr=1e-2),
        hardware=FP32,
        episodes=episodes,
        augment=augment or Augment(),
        seed=seed,
    )
    training = EpisodicTraining(setup, steps=99)
    for _ in range(steps):
        training.training_step()
    return training


class Weight(AbstractLearner):
    """A learner as far as averaging goes."""

    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))

    def forward(self, task):
        raise NotImplementedError


def test_the_average_starts_plain_and_then_forgets():
    student = Weight(1)
    nn.init.constant_(student.weight, 10.0)
    teacher = MeanTeacher(student, decay=0.99)
    found = []
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(student.weight, value)
        teacher.after_step()
        found.append(teacher.teacher.weight.item())
    assert found == pytest.approx([5.5, 13 / 3, 4.0])


def test_with_a_constant_decay_it_is_the_average_of_torch():
    """`min(1 - 1 / (t + 1), a)` is a from the first step on where a is at most one half."""
    student = Weight(3, 2)
    ours = MeanTeacher(student, decay=0.4)
    theirs = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.4))
    theirs.update_parameters(student)  # which copies the first time
    for step in range(5):
        torch.manual_seed(step)
        nn.init.normal_(student.weight)
        ours.after_step()
        theirs.update_parameters(student)
    torch.testing.assert_close(ours.teacher.weight, theirs.module.weight)


def test_statistics_of_batch_norm_are_averaged_too_and_counts_copied():
    wrapper = mean_teacher(Prototypical(small_backbone(), temperature=1.0), decay=0.4)
    train(wrapper, steps=1)
    expected = copy.deepcopy(wrapper.teacher.state_dict())
    training = train(wrapper, steps=0)
    training.training_step()
    for name, value in wrapper.learner.state_dict().items():
        mine = wrapper.teacher.state_dict()[name]
        if value.is_floating_point():
            torch.testing.assert_close(mine, 0.4 * expected[name] + 0.6 * value)
        else:
            assert mine == value == 2


@pytest.mark.parametrize(("kind", "expected"), [("mse", 0.1874), ("kl", 0.8403)])
def test_distances_of_the_example(kind, expected):
    student = torch.tensor([[[2.0, 0.0, 0.0]]], requires_grad=True)
    teacher = torch.tensor([[[0.0, 1.0, 0.0]]], requires_grad=True)
    found = consistency(student, teacher, kind)
    assert found.item() == pytest.approx(expected, abs=1e-4)
    found.sum().backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_ramp():
    assert [ramp_up(t, 10) for t in (0, 5, 10, 99)] == pytest.approx([0.006738, 0.286505, 1, 1], abs=1e-6)
    assert ramp_up(0, 0) == 1


def test_consistency_is_the_distance_to_the_teachers_answers_on_the_second_view():
    """Against the pieces called one by one: the student is asked in one batch, the teacher by its own."""
    wrapper = MetricMeanTeacher(Prototypical(small_backbone(), temperature=1.0), weight=3.0, ramp_steps=0).train()
    wrapper.steps += 1
    with torch.no_grad():
        wrapper.teacher.backbone.blocks[0][0].weight.add_(0.1)
    episode = two_views()
    task = episode.task
    prediction = wrapper(task)
    images = torch.cat([task.support, task.query, task.unlabeled], dim=1)
    embeddings = wrapper.learner.backbone(images.flatten(0, 1)).unflatten(0, (3, -1))
    support, _, unlabeled = embeddings.split([8, 5, 7], dim=1)
    centers = support.view(3, 4, 2, -1).mean(2)
    student = (-(torch.cdist(unlabeled, centers) ** 2)).softmax(-1)
    images = torch.cat([task.second_view.support, task.second_view.unlabeled], dim=1)
    embeddings = wrapper.teacher.backbone(images.flatten(0, 1)).unflatten(0, (3, -1))
    centers = embeddings[:, :8].view(3, 4, 2, -1).mean(2)
    teacher = (-(torch.cdist(embeddings[:, 8:], centers) ** 2)).softmax(-1)
    expected = 3 * (student - teacher).square().mean((1, 2))
    torch.testing.assert_close(prediction.auxiliary_losses["consistency"](episode), expected, rtol=1e-4, atol=1e-5)
    loss, _ = Objective().of_episode(wrapper, episode, FP32)
    plain, _ = Objective().of_episode(wrapper.learner, Episode(task, episode.query_y, episode.class_ids), FP32)
    torch.testing.assert_close(loss - expected.mean(), plain, rtol=1e-2, atol=1e-2)  # batch norm saw no unlabeled items


def test_around_label_propagation_it_is_the_propagated_answers_that_agree():
    """Against propagation called by itself, with the unlabeled items in its graph and as its queries."""
    wrapper = MetricMeanTeacher(LabelPropagation(Prototypical(small_backbone())), weight=3.0, ramp_steps=0).train()
    wrapper.steps += 1
    with torch.no_grad():
        wrapper.teacher.learner.backbone.blocks[0][0].weight.add_(0.1)
    episode = two_views()
    student = wrapper.learner.embed(episode.task)
    teacher = wrapper.teacher.embed(
        dataclasses.replace(episode.task.second_view, query=episode.task.second_view.unlabeled)
    )
    answers = [
        side.classify(dataclasses.replace(features, query=features.unlabeled)).logits.softmax(-1)
        for side, features in ((wrapper.learner, student), (wrapper.teacher, teacher))
    ]
    alone = wrapper.learner.classify(dataclasses.replace(student, query=student.unlabeled, unlabeled=None)).logits
    assert (alone.softmax(-1) - answers[0]).abs().max() > 0.05  # without the graph they are others
    expected = 3 * (answers[0] - answers[1]).square().mean((1, 2))
    found = wrapper(episode.task).auxiliary_losses["consistency"](episode)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_without_weight_the_student_learns_as_alone_bit_for_bit():
    alone, wrapper = (
        Prototypical(small_backbone(), temperature=1.0),
        mean_teacher(Prototypical(small_backbone(), temperature=1.0), weight=0, decay=0.9),
    )
    train(alone, augment=Augment(crop_padding=0.1))
    train(wrapper, augment=Augment(crop_padding=0.1))
    student = wrapper.learner.state_dict()
    assert all(torch.equal(value, student[name]) for name, value in alone.state_dict().items())
    assert not torch.equal(wrapper.teacher.backbone.blocks[0][0].weight, student["backbone.blocks.0.0.weight"])


def test_settings_without_effect():
    learner = Prototypical(small_backbone(), temperature=1.0)
    assert mean_teacher(learner).without_effect == mean_teacher(learner, decay=0, ramp_steps=0).without_effect == {}
    assert list(mean_teacher(learner, weight=0).without_effect) == ["ramp_steps", "consistency"]


def test_without_weight_and_decay_it_is_the_learner_itself():
    alone, wrapper = (
        Prototypical(small_backbone(), temperature=1.0),
        mean_teacher(Prototypical(small_backbone(), temperature=1.0), weight=0, decay=0),
    )
    train(alone)
    train(wrapper)
    task = two_views(seed=5).task
    assert torch.equal(wrapper.eval()(task).logits, alone.eval()(task).logits)


def test_without_unlabeled_items_it_trains_as_the_learner_itself():
    wrapper = mean_teacher(Prototypical(small_backbone(), temperature=1.0)).train()
    episode = two_views()
    episode = dataclasses.replace(episode, task=dataclasses.replace(episode.task, unlabeled=None))
    prediction = wrapper(episode.task)
    assert prediction.auxiliary_losses == {}
    assert torch.equal(prediction.logits, wrapper.learner(episode.task).logits)


def test_the_teacher_learns_by_averaging_only():
    wrapper = mean_teacher(Prototypical(small_backbone(), temperature=1.0), ramp_steps=0)
    training = train(wrapper, steps=0)
    held = {id(p) for group in training.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in wrapper.teacher.parameters()}
    loss, _ = Objective().of_episode(wrapper.train(), two_views(), FP32)
    before = copy.deepcopy(wrapper.teacher.state_dict())
    loss.backward()
    assert all(p.grad is None for p in wrapper.teacher.parameters())
    after = wrapper.teacher.state_dict()
    assert all(torch.equal(after[n], v) for n, v in before.items() if "num_batches" not in n)


def test_the_teacher_starts_as_the_student_at_the_first_step():
    wrapper = mean_teacher(Prototypical(small_backbone(), temperature=1.0))
    wrapper.learner.load_state_dict(
        Prototypical(small_backbone(seed=1), temperature=1.0).state_dict()
    )  # as init_from=<run> does
    wrapper.train()(two_views().task)
    assert torch.equal(wrapper.teacher.backbone.blocks[0][0].weight, wrapper.learner.backbone.blocks[0][0].weight)


def test_training_goes_on_from_a_checkpoint_as_if_undisturbed():
    whole, half = (mean_teacher(Prototypical(small_backbone(), temperature=1.0), ramp_steps=4) for _ in range(2))
    train(whole, steps=4)
    before = train(half, steps=2)
    again = mean_teacher(Prototypical(small_backbone(seed=7), temperature=1.0), ramp_steps=4)
    resumed = train(again, steps=0)
    again.load_state_dict(half.state_dict())
    resumed.optimizer.load_state_dict(before.optimizer.state_dict())
    resumed.step = 2
    for _ in range(2):
        resumed.training_step()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("name", ["tpn", "maml", "soft_kmeans"])
def test_any_learner_can_be_taught(name):
    if name == "maml":
        pytest.importorskip("learn2learn")
        from episodic.learners.maml import MAML

        wrapper = mean_teacher(MAML(small_backbone(), n_way=4, inner_steps=1))
    elif name == "tpn":
        from episodic.learners.tpn import TPN

        wrapper = mean_teacher(TPN(Conv4(1, 16, widths=[8, 8], output="map")))
    else:
        wrapper = mean_teacher(SoftKMeans(Prototypical(small_backbone(), temperature=1.0)))
    assert isinstance(wrapper, MetricMeanTeacher) == (name != "maml")
    assert wrapper.capabilities.transductive == (name != "soft_kmeans")
    before = copy.deepcopy(wrapper.teacher.state_dict())
    loss, accuracies = train(wrapper, steps=1).training_step()
    assert loss.isfinite()
    assert 0 <= accuracies <= 1
    assert any(not torch.equal(value, wrapper.teacher.state_dict()[n]) for n, value in before.items())
    wrapper.eval()
    task = two_views().task
    assert torch.equal(wrapper(task).logits, wrapper.teacher(task).logits)


def test_other_wrappers_go_around_the_teacher_in_evaluation():
    wrapper = mean_teacher(Matching(small_backbone()))
    train(wrapper, steps=2)
    task = two_views().task
    around = SoftKMeans(wrapper).eval()(task).logits
    assert torch.equal(around, SoftKMeans(wrapper.teacher)(task).logits)
    assert not torch.equal(around, SoftKMeans(wrapper.learner)(task).logits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1}, "weight must be a number, at least 0, got -1"),
        ({"decay": 1}, "decay must be a number, at least 0 and below 1"),
        ({"consistency": "cosine"}, "one of mse, kl, got 'cosine'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        mean_teacher(Prototypical(small_backbone(), temperature=1.0), **settings)
