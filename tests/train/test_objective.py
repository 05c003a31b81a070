import pytest
import torch
from pytorch_metric_learning.losses import CircleLoss, ProxyAnchorLoss
from torch import nn
from torch.nn.functional import cross_entropy

from episodic import Episode, Task
from episodic.core.losses.circle import Circle
from episodic.core.losses.contrastive import Contrastive
from episodic.core.losses.loss import AbstractLoss
from episodic.learners.maml import MAML
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.semi.mean_teacher import MetricMeanTeacher
from episodic.train.loop import objective
from episodic.train.objective import WithLosses
from tests.conftest import Features, random_task

FP32 = Hardware(torch.device("cpu"), torch.float32)


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
    own, recorder, contrastive = Prototypical(Features(6)), Recorder(), Contrastive()
    learner = WithLosses(own, {"recorder": recorder, "contrastive": contrastive}, {"recorder": 0.5, "contrastive": 3})
    full = WithLosses(own, {"recorder": recorder}, {"recorder": 0.5, "cross_entropy": 0.25})
    given = episode()
    items = torch.cat([given.task.support, given.task.query], dim=1).flatten(0, 1)
    labels = torch.tensor([11, 11, 5, 5, 7, 7, 3, 3, 11, 5, 7, 3, 3, 3, 3, 11, 11, 2, 2, 8, 8, 11, 11, 3, 2, 8])
    alone, _ = objective(learner.train(), given, FP32)
    torch.testing.assert_close(alone, 0.5 * items.sum() + 3 * contrastive(items, labels))
    assert torch.equal(recorder.seen[0], items)
    assert torch.equal(recorder.seen[1], labels)
    both, _ = objective(full.train(), given, FP32)
    logits = own(given.task).logits
    torch.testing.assert_close(
        both, 0.25 * cross_entropy(logits.flatten(0, 1), given.query_y.flatten()) + 0.5 * items.sum()
    )


def test_losses_of_pytorch_metric_learning_can_stand_among_the_losses():
    own = Prototypical(Features(6))
    losses = [
        WithLosses(own, {"circle": loss}, {"circle": 2.0}).train() for loss in (Circle(), CircleLoss(m=0.4, gamma=80))
    ]
    ours, theirs = (objective(learner, episode(), FP32)[0] for learner in losses)
    torch.testing.assert_close(ours, theirs)
    proxies = ProxyAnchorLoss(num_classes=12, embedding_size=6)
    learner = WithLosses(own, {"proxies": proxies}, {"proxies": 1.0}, {"proxies": 30.0})
    assert learner.learned_parameters()[1] == {"params": [proxies.proxies], "rate": 30.0}


def test_base_queries_have_their_own_labels():
    class Answers(Prototypical):
        incremental = True

        def classify(self, features):
            prediction = super().classify(features)
            return type(prediction)(nn.functional.pad(prediction.logits, (0, features.n_base)))

    recorder = Recorder()
    learner = WithLosses(Answers(Features(6)), {"recorder": recorder}, {"recorder": 1.0})
    objective(learner.train(), episode(n_base=9), FP32)
    assert recorder.seen[1].view(2, -1)[:, -1].tolist() == [6, 6]


def test_answers_are_the_learners():
    own, task = Prototypical(Features(6)), random_task()
    learner = WithLosses(own, {"contrastive": Contrastive()}, {"contrastive": 1.0})
    assert torch.equal(learner.eval()(task).logits, own(task).logits)
    assert not learner(task).auxiliary_losses
    assert learner(task).loss is None
    assert torch.equal(learner.train()(task).logits, own(task).logits)


def test_weights_of_a_loss_learn_at_their_own_rate():
    class Owner(Recorder):
        def __init__(self):
            super().__init__()
            self.proxies = nn.Parameter(torch.ones(2))

    backbone = nn.Linear(6, 3)
    losses = {"recorder": Recorder(), "owner": Owner(), "other": Owner()}
    learner = WithLosses(Prototypical(backbone), losses, dict.fromkeys(losses, 1.0), {"owner": 50.0})
    groups = learner.learned_parameters()
    assert [group["rate"] for group in groups] == [1.0, 50.0, 1.0]
    assert groups[0]["params"] == list(backbone.parameters())
    assert groups[1]["params"] == [learner.losses["owner"].proxies]


def test_learners_that_have_no_embeddings_or_train_otherwise_are_refused():
    for learner in (MAML(Features(6), n_way=4), MetricMeanTeacher(Prototypical(Features(6)))):
        with pytest.raises(ValueError, match=rf"loss=\[contrastive\] needs .*{type(learner).__name__} does not"):
            WithLosses(learner, {"contrastive": Contrastive()}, {"contrastive": 1.0})
