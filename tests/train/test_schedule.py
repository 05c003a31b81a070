import pytest
import torch

from episodic.train.schedule import Constant, Cosine, Step


def test_step_halves_every_2000_steps():
    factor = Step()
    assert [factor(s, 10_000) for s in (0, 1999, 2000, 4000)] == [1, 1, 0.5, 0.25]
    with pytest.raises(ValueError, match="every must be at least 1"):
        Step(every=0)


def test_cosine_equals_torchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    factor = Cosine()
    for step in range(50):
        assert factor(step, 50) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        peer.step()


def test_warmup_is_linear_and_meets_the_cosine():
    factor = Cosine(warmup=4)
    assert [factor(s, 20) for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_constant():
    assert {Constant()(s, 10) for s in range(10)} == {1.0}


def test_schedules_that_change_nothing_are_refused():
    with pytest.raises(ValueError, match=r"schedule\.every=2000 is never reached in trainer\.steps=2000"):
        Step().check(2000)
    Step().check(2001)
    with pytest.raises(ValueError, match=r"schedule\.warmup=10 is as long as trainer\.steps=10"):
        Cosine(warmup=10).check(10)
    Constant().check(1)


def test_only_the_cosine_depends_on_the_length():
    for schedule in (Constant(), Step(every=3), Cosine()):
        same = all(schedule(step, 20) == schedule(step, 30) for step in range(20))
        assert same is not schedule.follows_length
