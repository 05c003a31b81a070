import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import conv2d, cross_entropy, relu
from torch.utils.flop_counter import FlopCounterMode

from episodic import Episode, Task
from episodic.config.compose import compose_config
from episodic.core.backbones.conv4 import Conv4
from episodic.learners import relation as relation_module
from episodic.learners.relation import Relation, RelationModule
from tests.conftest import Features, random_task
from tests.learners.laws import check_laws

MAP = (6, 5, 5)


def relation(shape=MAP, seed=0, **settings):
    """In evaluation mode, with weights and statistics that no two channels share."""
    torch.manual_seed(seed)
    learner = Relation(Features(*shape), **settings)
    for module in learner.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.Linear):  # the published start leaves all scores near 1
            nn.init.normal_(module.weight)
    return learner.eval()


def as_episode(task, query_y=None):
    query_y = torch.arange(task.query.shape[1]).expand(len(task.query), -1) % task.n_way if query_y is None else query_y
    return Episode(task, query_y, torch.arange(task.n_way).expand(len(query_y), -1))


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_laws(loss):
    check_laws(relation(loss=loss), item=MAP, twins_matter=True)


@pytest.mark.parametrize("shape", [(4, 11, 12), MAP, (4, 7, 7), (4, 1, 1)])
@pytest.mark.parametrize("training", [False, True])
def test_equals_every_pair_concatenated_in_an_explicit_loop(shape, training):
    # In float64: biases before batch norm have a gradient of 0, which is rounding and nothing else.
    learner = relation(shape).train(training).double()
    task = random_task(item=shape, imbalanced=True).map(Tensor.double)
    module, padding = learner.relation, 0 if shape[1] > 9 else 1
    norms = [layer for layer in module.rest if isinstance(layer, nn.BatchNorm2d)]
    second = next(layer for layer in module.rest if isinstance(layer, nn.Conv2d))
    to_8, to_1 = (layer for layer in module.rest if isinstance(layer, nn.Linear))

    def plain(task):
        pairs = []
        for e in range(3):
            for q in range(5):
                for n in range(4):
                    class_map = sum(
                        x for x, y in zip(task.support[e], task.support_y[e].tolist(), strict=True) if y == n
                    )
                    pairs.append(torch.cat([class_map, task.query[e, q]]))
        x = torch.stack(pairs)
        for convolution, norm in zip((module.first, second), norms, strict=True):
            x = relu(norm(conv2d(x, convolution.weight, convolution.bias, padding=padding)))
            x = nn.functional.max_pool2d(x, 2) if x.shape[-1] > 1 else x
        return to_1(relu(to_8(x.flatten(1)))).view(3, 5, 4)

    def answer(score):
        leaves = [task.support.clone().requires_grad_(), task.query.clone().requires_grad_()]
        scores = score(dataclasses.replace(task, support=leaves[0], query=leaves[1]))
        learner.zero_grad()
        scores.sigmoid().square().sum().backward()
        return scores.detach(), *[x.grad.clone() for x in (*leaves, *learner.parameters())]

    fast, slow = answer(lambda task: learner.classify(task).logits), answer(plain)
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_squared_error_counts_every_pair_once():
    # A score of 0.2 everywhere, in 5-way: (4 * 0.04 + 0.64) / 5 = 0.16.
    learner, task = relation(), random_task(item=MAP, n_way=5)
    last = learner.relation.rest[-1]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, math.log(0.2 / 0.8))
    loss = learner.classify(task).loss(as_episode(task))
    torch.testing.assert_close(loss, torch.full((3,), 0.16))


def test_squared_error_of_the_right_answers_is_zero():
    learner, task = relation(), random_task(item=MAP)
    query_y = torch.tensor([[0, 3, 1, 1, 2]] * 3)
    certain = 100 * (query_y[..., None] == torch.arange(4)).float() - 50
    learner.relation.forward = lambda classes, queries: certain
    assert learner.classify(task).loss(as_episode(task, query_y)).max() < 1e-12


def test_losses_equal_their_formulas():
    task = random_task(item=MAP)
    query_y = torch.tensor([[0, 3, 1, 1, 2], [1, 1, 1, 1, 1], [3, 2, 1, 0, 0]])
    prediction = relation().classify(task)
    r, loss = prediction.logits.sigmoid(), prediction.loss(as_episode(task, query_y))
    for e in range(3):
        errors = [(r[e, q, n] - float(query_y[e, q] == n)) ** 2 for q in range(5) for n in range(4)]
        torch.testing.assert_close(loss[e], sum(errors) / 20)
    other = relation(loss="cross_entropy").classify(task)
    assert other.loss is None  # the objective then takes the cross-entropy of the logits
    assert torch.equal(other.logits, prediction.logits)
    assert cross_entropy(other.logits.flatten(0, 1), query_y.flatten()).isfinite()


def test_published_networks():
    """Encoder and relation module for 84 pixels and for 28: shapes, parameters, start."""
    for channels, image_size, side, parameters in ((3, 84, 19, 115_601), (1, 28, 5, 111_505)):
        encoder = Conv4(channels, image_size, output="map", pools=2, unpadded=2)
        assert encoder.shape == (64, side, side)
        learner = Relation(encoder)
        assert sum(p.numel() for p in learner.relation.parameters()) == parameters
        seen = []
        for layer in learner.relation.rest:
            layer.register_forward_hook(lambda layer, inputs, output, seen=seen: seen.append(tuple(output.shape[1:])))
        task = random_task(item=(channels, image_size, image_size), episodes=1, n_way=2, n_shot=1, n_query=2)
        assert learner(task).logits.shape == (1, 2, 2)
        sides = {19: [17, 8, 8, 6, 6, 3, 3], 5: [5, 2, 2, 2, 2, 1, 1]}[side]
        assert seen == [*[(64, s, s) for s in sides], (64 * sides[-1] ** 2,), (8,), (8,), (1,)]
    first, to_8 = learner.relation.first, learner.relation.rest[-3]
    assert first.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    assert to_8.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert torch.equal(to_8.bias, torch.ones(8))
    assert torch.equal(first.bias, torch.zeros(64))


@pytest.mark.parametrize("shape", [(8, 1, 1), (8, 2, 2), (8, 3, 3), (8, 8, 8), (8, 9, 9), (8, 10, 10), (8, 2, 20)])
def test_maps_of_any_size(shape):
    classes, queries = torch.randn(2, 4, *shape), torch.randn(2, 3, *shape)
    assert RelationModule(*shape)(classes, queries).shape == (2, 3, 4)


def test_class_maps_are_sums_so_the_same_support_twice_is_another_answer():
    learner, task = relation(), random_task(item=MAP)
    twice = dataclasses.replace(task, support=task.support.repeat(1, 2, 1, 1, 1), support_y=task.support_y.repeat(1, 2))
    answer = learner.classify(twice).logits
    assert not torch.allclose(answer, learner.classify(task).logits, atol=1e-2)
    halved = dataclasses.replace(twice, support=twice.support / 2)
    torch.testing.assert_close(learner.classify(halved).logits, learner.classify(task).logits)


def test_the_first_convolution_sees_no_pair():
    module = RelationModule(*MAP).eval()
    classes, queries = torch.randn(2, 10, *MAP), torch.randn(2, 30, *MAP)
    with FlopCounterMode(display=False) as counter:
        module(classes, queries)
    by_convolution = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    first, second = 2 * 9 * 6 * 64 * 25, 2 * 9 * 64 * 64 * 4
    assert by_convolution == 2 * ((10 + 30) * first + 10 * 30 * second)


def test_large_episodes_are_answered_in_pieces(monkeypatch):
    learner, task = relation(), random_task(item=MAP, n_query=13)
    whole, in_training = learner.classify(task).logits, relation().train().classify(task).logits
    monkeypatch.setattr(relation_module, "PAIRS", 3 * 4 * 5)
    sizes = []
    learner.relation.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[1]))
    torch.testing.assert_close(learner.classify(task).logits, whole)
    assert sizes == [5, 5, 3]
    assert torch.equal(relation().train().classify(task).logits, in_training)


def test_training_keeps_few_maps_of_each_pair():
    """Kept for the gradient: the sum of both maps, its norm, and what is pooled; nothing of 2 C channels a pair."""
    learner = Relation(Features(64, 5, 5))
    task = random_task(item=(64, 5, 5), n_query=20)
    kept = {}
    with saved_tensors_hooks(lambda x: kept.__setitem__(x.data_ptr(), x.numel() * x.element_size()) or x, lambda x: x):
        learner.classify(task)
    pair_map = 3 * 20 * 4 * 64 * 25 * 4
    assert sum(kept.values()) < 4 * pair_map


def test_training_reaches_every_weight():
    torch.manual_seed(0)
    learner = Relation(Conv4(1, 28, (4, 4), output="map")).train()
    task = random_task(item=(1, 28, 28))
    learner(task).loss(as_episode(task)).sum().backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad.isfinite().all(), name
        if name.endswith("weight"):
            assert parameter.grad.abs().max() > 0, name


def test_in_training_batch_norm_sees_all_pairs_and_in_evaluation_none():
    learner, task = relation(), random_task(item=MAP)
    alone = Task(task.support, task.support_y, task.query[:, :1], 4)
    torch.testing.assert_close(learner.classify(alone).logits, learner.classify(task).logits[:, :1])
    learner.train()
    assert not torch.allclose(learner.classify(alone).logits, learner.classify(task).logits[:, :1], atol=1e-3)


@pytest.mark.usefixtures("unchecked")
def test_needs_maps_and_a_known_loss():
    with pytest.raises(ValueError, match=r"looks at maps .*of shape \[64\]: take backbone\.output=map"):
        Relation(Conv4(1, 28))
    with pytest.raises(ValueError, match="loss must be one of squared_error, cross_entropy, got 'mse'"):
        Relation(Features(*MAP), loss="mse")


def test_its_configuration_asks_for_maps_and_for_tasks_as_they_are_tested():
    cfg = compose_config("train", ["learner=relation"])
    assert cfg.backbone.output == "map"
    assert (cfg.task.train.n_way, cfg.task.train.n_query) == (5, 15)
