"""Laws that every loss of embeddings obeys; a new loss's test calls `check_loss_laws`, a pair loss's `check_pair_loss_laws` too."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from episodic.core.functional.pairs import References
from episodic.core.losses.loss import AbstractPairLoss, Pairs

# Four unit vectors at 0, 60, 90 and 180 degrees, two of each class: the example computed by hand in the tests.
ANGLES = torch.tensor([0.0, 60.0, 90.0, 180.0], dtype=torch.float64) * math.pi / 180
FOUR = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
FOUR_LABELS = torch.tensor([0, 0, 1, 1])


def batch(classes=5, per_class=4, dim=16, seed=0, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Embeddings that overlap, and their labels in no order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centers = torch.randn(classes, dim, generator=generator, dtype=dtype)
    return 0.8 * centers[labels] + torch.randn(len(labels), dim, generator=generator, dtype=dtype), labels


def value_and_gradient(loss, embeddings: Tensor, labels: Tensor, *more) -> tuple[Tensor, Tensor]:
    x = embeddings.clone().requires_grad_()
    value = loss(x, labels, *more)
    value.backward()
    return value.detach(), x.grad


def check_equal(loss, other, embeddings: Tensor, labels: Tensor, atol=1e-9) -> None:
    """Both have the same value and the same gradient; a loss that is 0 would show nothing."""
    (value, gradient), (wanted, by) = (value_and_gradient(each, embeddings, labels) for each in (loss, other))
    assert value.abs() > 1e-3
    torch.testing.assert_close(value, wanted.to(value.dtype), atol=atol, rtol=1e-7)
    torch.testing.assert_close(gradient, by, atol=atol, rtol=1e-6)


def check_loss_laws(make, *, random=False, renamable=True, scalable=None, signed=False) -> None:
    """`make()` gives the loss, for labels 0 to 4 where it has proxies. `random`: it draws from torch's generator. `renamable`:
    labels are only names, as they are not for a loss with weights a class. `scalable`: the length of embeddings makes no
    difference; None to take a pair loss at its word, and others to be so. `signed`: the loss may be negative.
    """
    if scalable is None:
        loss = make()
        scalable = not isinstance(loss, AbstractPairLoss) or loss.normalize or loss.distance.ignores_length
    embeddings, labels = batch()

    def value(x=embeddings, y=labels):
        torch.manual_seed(1)
        return value_and_gradient(make_seeded(make), x, y)

    before, gradient = value()
    assert before.shape == ()
    assert before.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    if not random:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
        again, moved = value(embeddings[order], labels[order])
        torch.testing.assert_close(again, before)
        torch.testing.assert_close(moved, gradient[order])
        if renamable:
            again, moved = value(y=torch.tensor([3, 17, 4, 0, 9])[labels])
            torch.testing.assert_close(again, before)
    check_precision(make, embeddings, labels)
    check_empty(make)
    check_extremes(make, scalable)
    check_properties(make, random, renamable, scalable, signed)


def make_seeded(make):
    """The loss with the same proxies, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


def check_precision(make, embeddings, labels):
    """bf16 embeddings, and any under autocast, are compared in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = make()
    half = embeddings.bfloat16()
    torch.manual_seed(1)
    expected, by = value_and_gradient(loss, half.float(), labels)
    assert expected.dtype == torch.float32
    torch.manual_seed(1)
    found, gradient = value_and_gradient(loss, half, labels)
    torch.testing.assert_close(found.float(), expected)
    torch.testing.assert_close(gradient.float(), by, atol=1e-2, rtol=2e-2)
    torch.manual_seed(1)
    x = half.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(x, labels)
    found.backward()
    torch.testing.assert_close(found.detach(), expected)
    torch.testing.assert_close(x.grad, by)


def check_empty(make):
    """One class, no two of a class, one item, none, copies: finite, and with a gradient."""
    embeddings, _ = batch(classes=1, per_class=5)
    copies = embeddings[:1].expand(5, -1)
    for x, y in (
        (embeddings, torch.zeros(5, dtype=torch.long)),
        (embeddings, torch.arange(5)),
        (embeddings[:1], torch.zeros(1, dtype=torch.long)),
        (embeddings[:0], torch.zeros(0, dtype=torch.long)),
        (copies, torch.tensor([0, 0, 1, 1, 2])),
        (0 * embeddings, torch.tensor([0, 0, 1, 1, 2])),
    ):
        value, gradient = value_and_gradient(make_seeded(make), x, y)
        assert value.isfinite()
        assert gradient.isfinite().all()


def check_extremes(make, scalable: bool) -> None:
    """Values and gradients are finite for embeddings of any type and length, and for the loss in another type than they have."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for x in extremes(dtype, scalable):
            for y in ([0, 0, 1, 1, 2, 3], [1] * 6, [2]):
                both = max(y) == 3 and x.half().isfinite().all()
                for loss in (make(), make().half()) if both else (make(),):
                    value, gradient = value_and_gradient(loss, x[: len(y)], torch.tensor(y))
                    learned = [p.grad for p in loss.parameters() if p.grad is not None]
                    assert all(found.isfinite().all() for found in (value, gradient, *learned)), (dtype, x[:, 0], y)
                    assert gradient.dtype == dtype


def extremes(dtype: torch.dtype, scalable: bool) -> list[Tensor]:
    """Six vectors each: dead, tiny, short, long and equal ones, and some of each. They are as long as the type allows where length
    makes no difference.
    """
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    info = torch.finfo(dtype)
    longest = info.max if scalable and dtype != torch.float64 else 6e4
    mixed = torch.tensor([0, 1e-4, 6e4, 1, 1, 0], dtype=torch.float64)[:, None] * x / x.abs().max()
    vectors = [0 * x, mixed, 1e-3 * x, x.sign() * info.tiny, x.sign() * longest, x[:1].expand(6, -1)]
    return [each.to(dtype) for each in vectors]


@st.composite
def batches(draw) -> tuple[Tensor, Tensor]:
    """Embeddings in no particular place, of any length, and their labels."""
    labels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=10))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    x = torch.randn(len(labels), 16, generator=generator, dtype=torch.float64)
    return draw(st.sampled_from([0.1, 1.0, 3.0])) * x, torch.tensor(labels)


def check_properties(make, random: bool, renamable: bool, scalable: bool, signed: bool) -> None:
    """What holds for any batch: see `check_loss_laws`."""

    def found(x, y):
        torch.manual_seed(1)
        return value_and_gradient(make_seeded(make), x, y)

    @settings(max_examples=15)  # for each loss and setting
    @given(batches(), st.permutations(range(5)), st.randoms(use_true_random=False))
    def hold(drawn, names, shuffler):
        x, y = drawn
        value, gradient = found(x, y)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert signed or value > -1e-9
        if renamable and not random:
            torch.testing.assert_close(found(x, torch.tensor(names)[y]), (value, gradient))
        if scalable:
            lengths = torch.tensor([shuffler.uniform(0.5, 2) for _ in y], dtype=torch.float64)[:, None]
            again, by = found(lengths * x, y)
            torch.testing.assert_close(again, value)
            torch.testing.assert_close(lengths * by, gradient)
        if not random:
            order = torch.tensor(shuffler.sample(range(len(y)), len(y)))
            torch.testing.assert_close(found(x[order], y[order]), (value, gradient[order]))

    hold()


def check_pair_loss_laws(make, **known) -> None:
    """What a loss of a matrix owes besides: references that are the batch give the loss of the batch, in any order, and
    nothing can be learned from pairs that are not there. `known`: as for `check_loss_laws`.
    """
    check_loss_laws(make, **known)
    loss = make()
    embeddings, labels = batch()
    expected, gradient = value_and_gradient(loss, embeddings, labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    self_index = order.argsort()
    x = embeddings.clone().requires_grad_()
    found = loss(x, labels, References(x[order], labels[order], self_index))
    found.backward()
    torch.testing.assert_close(found.detach(), expected)
    torch.testing.assert_close(x.grad, gradient)
    nothing = torch.zeros(20, 20, dtype=torch.bool)
    x = torch.rand(20, 20, dtype=torch.float64, requires_grad=True)
    value = loss.of_pairs(Pairs(x, nothing, nothing))
    value.backward()
    assert value == 0
    assert (x.grad == 0).all()
