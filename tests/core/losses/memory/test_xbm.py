import copy

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss, CrossBatchMemory

from episodic.core.distances.cosine import Cosine
from episodic.core.losses.contrastive import Contrastive
from episodic.core.losses.memory.xbm import XBM, no_memory
from episodic.core.losses.proxy_nca import ProxyNCA
from tests.core.losses.laws import batch, check_loss_laws, value_and_gradient

SUMMED = {"variant": "xbm", "distance": Cosine(), "negative_margin": 0.5}


def memory(size, settings=SUMMED, start=0, **more):
    return XBM(Contrastive(**settings), 16, size=size, start=start, **more).double()


def batches(*sizes):
    """Overlapping embeddings of three classes, in batches of these sizes."""
    x, y = batch(classes=3, per_class=sum(sizes) // 3 + 1)
    return list(zip(x[: sum(sizes)].split(sizes), y[: sum(sizes)].split(sizes), strict=True))


def test_laws():
    """A memory that each batch of the laws fills anew."""
    check_loss_laws(lambda: XBM(Contrastive(), 16, size=20, start=0))


def test_weight_0_is_the_loss_alone():
    plain, with_memory = Contrastive(), memory(12, {}, weight=0.0)
    for x, y in batches(8, 8, 8):
        (value, gradient), (wanted, by) = (value_and_gradient(each, x, y) for each in (with_memory, plain))
        assert value > 0
        assert torch.equal(value, wanted)
        assert torch.equal(gradient, by)


def test_a_memory_of_the_batch_alone_doubles_the_value_and_adds_half_the_gradient():
    x, y = batch()
    value, gradient = value_and_gradient(memory(20), x, y)
    wanted, by = value_and_gradient(Contrastive(**SUMMED), x, y)
    torch.testing.assert_close(value, 2 * wanted)
    torch.testing.assert_close(gradient, 1.5 * by)


@pytest.mark.parametrize("size", [1, 5, 7, 8, 12, 100])
def test_it_holds_the_last_items_in_order(size):
    loss, seen, labels = memory(size), torch.zeros(0, 16, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    for x, y in batches(4, 4, 1, 6, 1, 1, 3, 9):
        loss(x.requires_grad_(), y).backward()
        seen, labels = torch.cat([seen, x.detach()]), torch.cat([labels, y])
        count = min(len(seen), size)
        oldest_first = (loss.pointer - count + torch.arange(count)) % size
        assert loss.count == count
        assert torch.equal(loss.memory[oldest_first], seen[-size:])
        assert torch.equal(loss.memory_labels[oldest_first], labels[-size:])
        assert not loss.memory[count:].any()
        assert loss.memory.grad_fn is None
        assert not loss.memory.requires_grad


def by_hand(x, y, history, labels, size):
    """The sum of the two terms of `SUMMED`, pair by pair."""

    def term(i, of_class, other, label):
        s = torch.cosine_similarity(x[i], other, dim=0)
        return 1 - s if of_class == label else s * (s > 0.5)

    total = sum(term(i, y[i], x[j], y[j]) for i in range(len(x)) for j in range(len(x)) if i != j)
    n = len(history)
    for i in range(max(0, len(x) - size), len(x)):
        for j in range(max(0, n - size), n):
            if j != n - len(x) + i:
                total = total + 0.7 * term(i, y[i], history[j], labels[j]) * len(x) / min(len(x), size)
    return total / len(x)


@pytest.mark.parametrize("size", [5, 9, 100])
def test_equals_the_sum_over_pairs(size):
    """Batches that fill the memory, run over its end and are larger than it; with a copy in each, which stays a positive."""
    loss = memory(size, weight=0.7)
    history, labels = [], []
    for x, y in batches(4, 4, 7, 2, 6):
        x, y = x.clone(), y.clone()
        x[0], y[0] = x[1], y[1]
        history += list(x)
        labels += list(y)
        value, gradient = value_and_gradient(loss, x, y)
        wanted, by = value_and_gradient(by_hand, x, y, history, labels, size)
        torch.testing.assert_close(value, wanted)
        torch.testing.assert_close(gradient, by)


def test_equals_pytorch_metric_learning():
    ours, theirs = memory(30, {}), CrossBatchMemory(ContrastiveLoss(), 16, memory_size=30)
    for x, y in batches(12, 12, 12, 12):
        (value, gradient), (wanted, by) = (
            value_and_gradient(each, x, y) for each in (ours, lambda x, y: Contrastive()(x, y) + theirs(x, y))
        )
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-6)  # theirs keeps float32
        torch.testing.assert_close(gradient, by, atol=1e-6, rtol=1e-5)


def test_a_resumed_run_is_the_same():
    *before, (x, y) = batches(5, 5, 5, 5)
    whole = memory(12, start=1)
    for each in before:
        whole(*each)
    resumed = memory(12, start=1)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for _ in range(2):
        assert torch.equal(whole(x, y), resumed(x, y))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_first_steps_neither_use_nor_fill_it():
    loss, plain = memory(12, start=2), Contrastive(**SUMMED)
    first, second, third = batches(5, 5, 5)
    assert torch.equal(loss(*first), plain(*first))
    assert torch.equal(loss(*second), plain(*second))
    assert loss.count == 0
    assert loss(*third) > plain(*third)
    assert loss.count == 5


def test_evaluation_neither_uses_nor_fills_it():
    loss, (first, second) = memory(12), batches(5, 5)
    loss(*first)
    before = copy.deepcopy(loss.state_dict())
    assert torch.equal(loss.eval()(*second), Contrastive(**SUMMED)(*second))
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_bfloat16_embeddings_are_kept_in_float32():
    loss, (x, y) = XBM(Contrastive(), 16, size=8, start=0), batches(5)[0]
    assert loss(x.bfloat16(), y).dtype == torch.float32
    assert torch.equal(loss.memory[:5], x.bfloat16().float())


def test_no_memory_is_the_loss():
    loss = Contrastive()
    assert no_memory(loss, 16) is loss


def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match="a memory needs a loss of pairs, such as contrastive, got ProxyNCA"):
        XBM(ProxyNCA(16, 3), 16)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        memory(0)
    with pytest.raises(ValueError, match="start must not be negative, got -1"):
        memory(5, start=-1)
