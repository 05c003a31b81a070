import pytest
import torch

from episodic import schedule


def test_step_halves_every_2000_steps():
    factor = schedule.step()
    assert [factor(s, 10_000) for s in (0, 1999, 2000, 4000)] == [1, 1, 0.5, 0.25]
    with pytest.raises(ValueError, match="every must be at least 1"):
        schedule.step(every=0)


def test_cosine_equals_torchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    factor = schedule.cosine()
    for step in range(50):
        assert factor(step, 50) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        peer.step()


def test_warmup_is_linear_and_meets_the_cosine():
    factor = schedule.cosine(warmup=4)
    assert [factor(s, 20) for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_constant():
    assert {schedule.constant()(s, 10) for s in range(10)} == {1.0}
