import copy
import functools

import pytest
import torch
from torch import distributed, nn

from episodic.evaluate.scoring import evaluate
from episodic.learners.maml import MAML
from episodic.learners.prototypical import Prototypical
from episodic.run.distributed import dealt, from_all
from episodic.run.replica import Replica
from tests.conftest import random_store
from tests.together import in_processes
from tests.train.training import conv4, episodic_of


class Norm(nn.Sequential):
    """Batch norm alone, as a backbone."""


def learner_of(backbone):
    return Prototypical(backbone).train()


@pytest.mark.parametrize("form", ["vectors", "maps", "channels_last", "bf16", "without weights", "cumulative"])
def test_batch_norm_is_that_of_the_whole_batch_forward_and_backward(form, tmp_path):
    """In shares of two and three items. torch's own batch norm has the whole batch."""
    torch.manual_seed(0)
    kind, shape = (nn.BatchNorm1d, (5, 6)) if form == "vectors" else (nn.BatchNorm2d, (5, 6, 4, 4))
    x, upstream = (3 * torch.randn(shape) + torch.arange(6.0).view(-1, *[1] * (len(shape) - 2)) for _ in range(2))
    if form == "bf16":
        x, upstream = x.bfloat16(), upstream.bfloat16()
    if form == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    norm = kind(6, affine=form != "without weights", momentum=None if form == "cumulative" else 0.3)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)

    def passed(norm, rows):
        part = x[rows].detach().requires_grad_()
        y = norm(part)
        y.backward(upstream[rows])
        return y.detach(), part.grad, [p.grad for p in norm.parameters()], dict(norm.named_buffers())

    def work(number):
        module = copy.deepcopy(norm)
        Replica(learner_of(nn.Sequential(module)), sync_batch_norm=True)
        with dealt(5, "items") as share:
            passed(module, share.slice)
            for parameter in module.parameters():
                parameter.grad = None
            return passed(module, share.slice)

    whole = copy.deepcopy(norm)
    passed(whole, slice(None))
    for parameter in whole.parameters():
        parameter.grad = None
    y, gradient, weights, buffers = passed(whole, slice(None))
    found = in_processes(2, work, tmp_path)
    close = dict(atol=0.03, rtol=0.02) if form == "bf16" else dict(atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat([part[0] for part in found]), y, **close)
    torch.testing.assert_close(torch.cat([part[1] for part in found]), gradient, **close)
    for number, weight in enumerate(weights):
        torch.testing.assert_close(found[0][2][number] + found[1][2][number], weight, **close)
    for part in found:
        for name, buffer in part[3].items():
            torch.testing.assert_close(buffer, buffers[name])


def test_in_evaluation_it_is_torchs_own(tmp_path):
    x, norm = torch.randn(4, 3, 2, 2), nn.BatchNorm2d(3)
    expected = norm.eval()(x).detach()

    def work(number):
        learner = learner_of(nn.Sequential(norm))
        Replica(learner, sync_batch_norm=True)
        return learner.eval().backbone(x).detach()

    for y in in_processes(2, work, tmp_path):
        torch.testing.assert_close(y, expected)


def test_by_process_statistics_are_averaged(tmp_path):
    x = torch.randn(4, 3, 2, 2)

    def work(number):
        norm = nn.BatchNorm2d(3)
        replica = Replica(learner_of(nn.Sequential(norm)), sync_batch_norm=False)
        y = norm(x[2 * number : 2 * number + 2])
        replica.finish()
        return y.detach(), norm.running_mean, norm.running_var

    found = in_processes(2, work, tmp_path)
    alone = [nn.BatchNorm2d(3) for _ in found]
    for number, (y, mean, variance) in enumerate(found):
        torch.testing.assert_close(y, alone[number](x[2 * number : 2 * number + 2]).detach())
        assert torch.equal(mean, found[0][1])
        assert torch.equal(variance, found[0][2])
    torch.testing.assert_close(found[0][1], (alone[0].running_mean + alone[1].running_mean) / 2)
    torch.testing.assert_close(found[0][2], (alone[0].running_var + alone[1].running_var) / 2)


def test_a_network_that_sees_one_episode_at_a_time_counts_them_in_the_order_of_one_process(tmp_path):
    pytest.importorskip("learn2learn")
    store = random_store()

    def norms(training):
        training.training_step()
        learner = training.setup.learner
        evaluate(learner, store, training.setup.episodes(4, 1), training.setup.normalize, training.setup.hardware)
        training.training_step()
        return {k: v for k, v in training.setup.learner.state_dict().items() if "running" in k or "num_batches" in k}

    def training():
        # Not Adam, which makes whole steps of the roundings that are the gradient of a bias before batch norm.
        descent = functools.partial(torch.optim.SGD, lr=0.01)
        return episodic_of(store, MAML(conv4(), n_way=3, inner_steps=2), episodes_per_step=3, optimizer=descent)

    expected = norms(training())
    for found in in_processes(2, lambda number: norms(training()), tmp_path):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)


def test_processes_drop_other_units_in_a_backbone_and_draw_alike_elsewhere(tmp_path):
    def work(number):
        learner = learner_of(nn.Sequential(nn.Dropout(0.5)))
        replica = Replica(learner, sync_batch_norm=True)
        seen = []
        for seed in (1, 2, 1):
            torch.manual_seed(seed)
            replica.begin(seed)
            masks = [learner.backbone(torch.ones(50)) for _ in range(2)]
            seen.append((*masks, torch.rand(3)))
        return seen

    first, second = in_processes(2, work, tmp_path)
    for one, other in zip(first, second, strict=True):
        assert not torch.equal(one[0], other[0])
        assert not torch.equal(one[0], one[1])
        assert torch.equal(one[2], other[2])
    assert all(torch.equal(a, b) for a, b in zip(first[0], first[2], strict=True))  # they depend on the seed alone
    torch.manual_seed(1)
    assert torch.equal(first[0][2], torch.rand(3))  # as in one process, where the backbone draws nothing


def test_one_process_changes_nothing():
    learner = learner_of(conv4())
    kinds = [type(module) for module in learner.modules()]
    replica = Replica(learner, sync_batch_norm=True)
    replica.begin(0), replica.finish()
    assert [type(module) for module in learner.modules()] == kinds
    assert not distributed.is_initialized()
    assert from_all(1) == [1]
