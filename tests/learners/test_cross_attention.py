import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from episodic import Episode, Task
from episodic.core.backbones.conv4 import Conv4
from episodic.core.backbones.resnet12 import ResNet12
from episodic.learners import cross_attention
from episodic.learners.cross_attention import CrossAttention, PairAttention
from tests.conftest import Features, NextRow, random_task
from tests.learners.laws import check_laws

MAP = (8, 3, 4)


def can(shape=MAP, seed=0, **settings):
    torch.manual_seed(seed)
    learner = CrossAttention(Features(*shape), n_classes=7, **settings)
    nn.init.uniform_(learner.attention.norm.running_mean, -0.1, 0.1)
    nn.init.uniform_(learner.attention.norm.weight, 0.5, 2)
    return learner.eval()


def test_laws():
    check_laws(can(), item=MAP)


def test_equals_the_published_formula_written_out_pair_by_pair():
    """Every correlation matrix R and every attended map made in full, for each query and class; answers and losses."""
    learner, task = can(), random_task(item=MAP, imbalanced=True)
    module = learner.attention
    query_y = torch.tensor([[0, 3, 1, 1, 2]] * 3)
    class_ids = torch.tensor([[6, 2, 0, 1]] * 3)
    prediction = learner.classify(task)

    def attention(r):  # [m, m] -> [m]
        kernel = module.excite(module.norm(module.squeeze(r.mean(0))[None]).relu())[0]
        return 1 + ((r * kernel).mean(1) / 0.025).softmax(0)

    for e in range(3):
        nearest, among_all = [], []
        for q in range(5):
            attended_query, class_means = [], []
            for n in range(4):
                p = task.support[e][task.support_y[e] == n].mean(0).flatten(1)
                x = task.query[e, q].flatten(1)
                r = normalize(p, dim=0).T @ normalize(x, dim=0)
                on_class, on_query = attention(r), attention(r.T)
                assert on_class.sum().item() == pytest.approx(13, abs=1e-4)
                p, x = p * on_class, x * on_query
                attended_query.append(x)
                class_means.append(p.mean(1))
                score = 7 * torch.cosine_similarity(p.mean(1), x.mean(1), dim=0)
                torch.testing.assert_close(prediction.logits[e, q, n], score, rtol=1e-4, atol=1e-5)
            for i in range(12):
                scores = [
                    7 * torch.cosine_similarity(x[:, i], c, dim=0)
                    for x, c in zip(attended_query, class_means, strict=True)
                ]
                nearest.append(cross_entropy(torch.stack(scores), query_y[e, q]))
                own = attended_query[query_y[e, q]][:, i]
                among_all.append(cross_entropy(learner.classifier(own), class_ids[e, query_y[e, q]]))
        episode = Episode(task, query_y, class_ids)
        torch.testing.assert_close(prediction.loss(episode)[e], 0.5 * torch.stack(nearest).mean(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(prediction.auxiliary_losses["global"](episode)[e], torch.stack(among_all).mean())


def test_maps_that_are_constant_over_positions_give_even_attention_and_plain_cosines():
    task = random_task(item=(8, 1, 1)).map(lambda x: x.expand(-1, 8, 3, 4))
    learner = can()
    on_class, on_query = learner.attention(task.support.flatten(3), task.query.flatten(3))
    torch.testing.assert_close(on_class, torch.full_like(on_class, 1 + 1 / 12))
    torch.testing.assert_close(on_query, torch.full_like(on_query, 1 + 1 / 12))
    centers = task.support[..., 0, 0].unflatten(1, (4, 2)).mean(2)
    plain = 7 * torch.cosine_similarity(task.query[:, :, None, :, 0, 0], centers[:, None], dim=-1)
    torch.testing.assert_close(learner.classify(task).logits, plain)


def test_a_kernel_of_zero_gives_even_attention_on_any_map():
    learner, task = can(), random_task(item=MAP)
    nn.init.zeros_(learner.attention.excite.weight), nn.init.zeros_(learner.attention.excite.bias)
    on_class, _ = learner.attention(task.support.flatten(3), task.query.flatten(3))
    torch.testing.assert_close(on_class, torch.full_like(on_class, 1 + 1 / 12))


def test_the_kernel_is_tied_to_positions():
    learner, task = can(), random_task(item=MAP)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(task, query=task.query.flatten(3)[..., order].unflatten(-1, (3, 4)))
    assert not torch.allclose(learner.classify(task).logits, learner.classify(shuffled).logits, atol=1e-3)


def test_parameters_are_those_of_the_paper():
    assert sum(p.numel() for p in PairAttention(36, 0.025).parameters()) == 486
    with torch.device("meta"):
        learner = CrossAttention(ResNet12(variant="can", output="map"), n_classes=64)
    assert learner.backbone.shape == (512, 6, 6)
    assert sum(p.numel() for p in learner.parameters()) == 8_037_696 + 486 + 32_832


def test_transductive_rounds_equal_an_explicit_loop():
    learner, inductive = can(candidates=0.4), can()
    task = random_task(item=MAP, n_query=11, imbalanced=True)
    assert learner.capabilities.transductive
    logits = learner.classify(task).logits

    def answers(e, support, y):
        return inductive.classify(Task(support[None], y[None], task.query[e : e + 1], 4)).logits[0]

    for e in range(3):
        answer = answers(e, task.support[e], task.support_y[e])
        for count in (4, 8):  # int(0.4 * 11) = 4, then twice as many; 12 would be more than there are
            confidence, label = answer.max(-1)
            best = confidence.argsort(descending=True)[:count]
            answer = answers(
                e, torch.cat([task.support[e], task.query[e][best]]), torch.cat([task.support_y[e], label[best]])
            )
        torch.testing.assert_close(logits[e], answer, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits, inductive.classify(task).logits, atol=1e-3)


def test_laws_of_the_transductive_form():
    check_laws(can(candidates=0.4), item=MAP, transductive=True, twins_matter=True)


def test_transductive_without_candidates_or_in_training_is_the_inductive_learner():
    task = random_task(item=MAP, n_query=2)
    torch.testing.assert_close(can(candidates=0.4).classify(task).logits, can().classify(task).logits)
    task = random_task(item=MAP, n_query=10)
    torch.testing.assert_close(can(candidates=0.4).train().classify(task).logits, can().train().classify(task).logits)


def test_large_episodes_are_answered_in_pieces(monkeypatch):
    learner, task = can(), random_task(item=MAP, n_query=13)
    whole = learner.classify(task)
    episode = Episode(task, torch.arange(13).expand(3, -1) % 4, torch.arange(4).expand(3, -1))
    monkeypatch.setattr(cross_attention, "PAIRS", 3 * 4 * 5)
    pieces = learner.classify(task)
    torch.testing.assert_close(pieces.logits, whole.logits)
    torch.testing.assert_close(pieces.loss(episode), whole.loss(episode))


def test_training_reaches_every_weight():
    learner = CrossAttention(Conv4(1, 20, (4, 4), output="map"), n_classes=7).train()
    task = random_task(item=(1, 20, 20))
    prediction = learner(task)
    episode = Episode(task, torch.arange(5).expand(3, -1) % 4, torch.tensor([[6, 2, 0, 1]] * 3))
    (prediction.loss(episode) + prediction.auxiliary_losses["global"](episode)).sum().backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad.isfinite().all(), name
        if name.endswith("weight"):
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (64,)}, r"of at least 2 positions, but .* \[64\]: take backbone\.output=map"),
        ({"shape": (64, 1, 1)}, r"of at least 2 positions, but .* \[64, 1, 1\]: take"),
        ({"scale": 0}, "scale must be a number, above 0, got 0"),
        ({"candidates": 35}, "candidates must be a number, at least 0 and at most 1, a share of the queries, got 35"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        can(**settings)


def test_exchanged_rows_are_those_of_the_labels_drawn_in_training():
    task, class_ids = random_task(item=MAP), torch.tensor([[6, 2, 0, 1]] * 3)
    episode = Episode(task, torch.tensor([[0, 3, 1, 1, 2]] * 3), class_ids)
    learner, rolled = can(label_swap=NextRow(7)).train(), can().train()
    with torch.no_grad():
        for mine, its in zip(rolled.classifier.parameters(), learner.classifier.parameters(), strict=True):
            mine.copy_(its.roll(-1, 0))
    found, expected = (each.classify(task).auxiliary_losses["global"](episode) for each in (learner, rolled))
    torch.testing.assert_close(found, expected)
