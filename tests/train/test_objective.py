import dataclasses

import pytest
import torch
from pytorch_metric_learning.losses import CircleLoss, ProxyAnchorLoss
from torch import nn
from torch.nn.functional import cross_entropy

from episodic import Episode, Prediction, Task
from episodic.core.losses.circle import Circle
from episodic.core.losses.contrastive import Contrastive
from episodic.core.losses.divide_and_conquer import DivideAndConquer
from episodic.core.losses.loss import AbstractLoss
from episodic.core.losses.margin import Margin
from episodic.core.losses.memory.xbm import XBM
from episodic.data.augment import Augment
from episodic.episodes.task import gather_episode
from episodic.learners.learner import Capabilities
from episodic.learners.maml import MAML
from episodic.learners.prototypical import Prototypical
from episodic.semi.mean_teacher import MetricMeanTeacher
from episodic.train.objective import Objective
from tests.conftest import Features, random_store, random_task
from tests.train.training import FP32, PLAIN, conv4, episodic_of


class Recorder(AbstractLoss):
    """The sum of the embeddings, which it keeps with their labels."""

    def forward(self, embeddings, labels):
        self.seen = embeddings.detach(), labels
        return embeddings.sum()


def episode(n_base=0) -> Episode:
    task = random_task(episodes=2)
    query_y = torch.tensor([[0, 1, 2, 3, 3], [1, 1, 0, 2, 3]])
    if n_base:
        query_y = query_y.clone()
        query_y[:, -1] = 4 + 6
        task = Task(task.support, task.support_y, task.query, 4, n_base=n_base)
    return Episode(task, query_y, torch.tensor([[11, 5, 7, 3], [3, 11, 2, 8]]))


def test_the_loss_is_the_weighted_sum_of_the_learners_and_of_the_embeddings_with_their_labels_in_the_data_set():
    learner, recorder, contrastive = Prototypical(Features(6)).train(), Recorder(), Contrastive()
    losses = {"recorder": recorder, "contrastive": contrastive}
    alone = Objective(losses, {"recorder": 0.5, "contrastive": 3}, own_weight=None)
    both = Objective({"recorder": recorder}, {"recorder": 0.5}, own_weight=0.25)
    given = episode()
    items = torch.cat([given.task.support, given.task.query], dim=1).flatten(0, 1)
    labels = torch.tensor([11, 11, 5, 5, 7, 7, 3, 3, 11, 5, 7, 3, 3, 3, 3, 11, 11, 2, 2, 8, 8, 11, 11, 3, 2, 8])
    found, _ = alone.of_episode(learner, given, FP32)
    torch.testing.assert_close(found, 0.5 * items.sum() + 3 * contrastive(items, labels))
    assert torch.equal(recorder.seen[0], items)
    assert torch.equal(recorder.seen[1], labels)
    found, _ = both.of_episode(learner, given, FP32)
    own = cross_entropy(learner(given.task).logits.flatten(0, 1), given.query_y.flatten())
    torch.testing.assert_close(found, 0.25 * own + 0.5 * items.sum())


def test_the_weight_of_the_learners_own_loss_counts_alone_too():
    learner, given = Prototypical(Features(6)), episode()
    whole, half = (Objective(own_weight=weight).of_episode(learner, given, FP32)[0] for weight in (1.0, 0.5))
    torch.testing.assert_close(half, whole / 2)


def test_losses_of_pytorch_metric_learning_can_stand_among_the_losses():
    learner = Prototypical(Features(6))
    ours, theirs = (
        Objective({"circle": loss}, {"circle": 2.0}, None).of_episode(learner, episode(), FP32)[0]
        for loss in (Circle(), CircleLoss(m=0.4, gamma=80))
    )
    torch.testing.assert_close(ours, theirs)
    proxies = ProxyAnchorLoss(num_classes=12, embedding_size=6)
    objective = Objective({"proxies": proxies}, lr_multipliers={"proxies": 30.0})
    assert objective.parameter_groups([])[0] == {"params": [proxies.proxies], "lr_multiplier": 30.0}


def test_weight_decay_is_for_matrices_alone():
    """One step of plain descent at a rate of 1 on a loss of 0: what shrinks is what decays."""
    torch.manual_seed(0)
    network, margin = (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
        Margin(triplets="all", learn_beta=True, n_classes=3),
    )
    groups = Objective({"margin": margin}).parameter_groups(list(network.parameters()))
    optimizer = torch.optim.SGD(groups, lr=1.0, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in [*network.named_parameters(), *margin.named_parameters()]}
    for parameter in (*network.parameters(), *margin.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in [*network.named_parameters(), *margin.named_parameters()]:
        torch.testing.assert_close(parameter, before[name] * (0.5 if name == "0.weight" else 1.0))


def test_base_queries_have_their_own_labels():
    class Answers(Prototypical):
        capabilities = Capabilities(incremental=True)

        def classify(self, features):
            prediction = super().classify(features)
            return type(prediction)(nn.functional.pad(prediction.logits, (0, features.n_base)))

    recorder = Recorder()
    Objective({"recorder": recorder}, own_weight=None).of_episode(Answers(Features(6)), episode(n_base=9), FP32)
    assert recorder.seen[1].view(2, -1)[:, -1].tolist() == [6, 6]


def test_weights_of_a_loss_learn_at_their_own_rate():
    class Owner(Recorder):
        def __init__(self):
            super().__init__()
            self.proxies = nn.Parameter(torch.ones(2))

    backbone = nn.Linear(6, 3)
    objective = Objective({"recorder": Recorder(), "owner": Owner(), "other": Owner()}, lr_multipliers={"owner": 50.0})
    groups = objective.parameter_groups(list(backbone.parameters()))
    assert [group["lr_multiplier"] for group in groups] == [1.0, 1.0, 50.0, 1.0]
    assert groups[0]["params"] + groups[1]["params"] == list(backbone.parameters())
    assert groups[2]["params"] == [objective.losses["owner"].proxies]


def test_learners_that_have_no_embeddings_or_train_otherwise_are_refused():
    objective = Objective({"contrastive": Contrastive()})
    for learner in (MAML(Features(6), n_way=4), MetricMeanTeacher(Prototypical(Features(6)))):
        with pytest.raises(ValueError, match=rf"loss=\[contrastive\] needs .*{type(learner).__name__} does not"):
            objective.check(learner, "episodes", steps=10)


def test_losses_that_could_do_nothing_are_refused():
    learner = Prototypical(Features(8))
    sliced = Objective({"divide_and_conquer": DivideAndConquer(8, 2)})
    with pytest.raises(ValueError, match="it needs trainer=divide_and_conquer"):
        sliced.check(learner, "dml", steps=10)
    late = Objective({"contrastive": XBM(Contrastive(), dim=8, start=10)})
    with pytest.raises(ValueError, match=r"memory\.start=10 is not before the last of trainer\.steps=10"):
        late.check(learner, "dml", steps=10)
    late.check(learner, "dml", steps=11)


def test_episodes_stacked_in_a_step_are_averaged():
    store = random_store()
    training = episodic_of(store, episodes_per_step=2, learner=Prototypical(conv4()).eval(), augment=Augment())
    batch = training.source.batch(0)
    losses = []
    for rows in (slice(0, 1), slice(1, 2), slice(0, 2)):
        episode = gather_episode(batch[rows], store.gather, "cpu")
        losses.append(
            Objective().of_episode(
                training.setup.learner, dataclasses.replace(episode, task=episode.task.map(PLAIN)), FP32
            )[0]
        )
    torch.testing.assert_close(losses[2], (losses[0] + losses[1]) / 2)


def test_auxiliary_terms_are_added():
    class WithTerm(Prototypical):
        def classify(self, features: Task) -> Prediction:
            prediction = super().classify(features)
            return Prediction(prediction.logits, auxiliary_losses={"extra": lambda episode: torch.tensor([1.0, 3.0])})

    store = random_store()
    losses = []
    for learner in (Prototypical(nn.Flatten()), WithTerm(nn.Flatten())):
        learner.dummy = nn.Parameter(torch.zeros(1))
        training = episodic_of(store, episodes_per_step=2, learner=learner)
        episode = gather_episode(training.source.batch(0), store.gather, "cpu")
        losses.append(
            Objective().of_episode(
                training.setup.learner, dataclasses.replace(episode, task=episode.task.map(PLAIN)), FP32
            )[0]
        )
    torch.testing.assert_close(losses[1] - losses[0], torch.tensor(2.0))


def test_a_learner_may_bring_its_own_loss():
    class Squared(Prototypical):
        def classify(self, features: Task) -> Prediction:
            prediction = super().classify(features)
            right = lambda e: nn.functional.one_hot(e.query_y, 3)  # noqa: E731
            return Prediction(prediction.logits, loss=lambda e: ((prediction.logits - right(e)) ** 2).mean((1, 2)))

    store = random_store()
    training = episodic_of(store, episodes_per_step=2, learner=Squared(conv4()))
    episode = gather_episode(training.source.batch(0), store.gather, "cpu")
    episode = dataclasses.replace(episode, task=episode.task.map(PLAIN))
    logits = training.setup.learner(episode.task).logits
    expected = ((logits - nn.functional.one_hot(episode.query_y, 3)) ** 2).mean()
    torch.testing.assert_close(Objective().of_episode(training.setup.learner, episode, FP32)[0], expected)
