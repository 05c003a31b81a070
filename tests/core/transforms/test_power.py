import functools

import pytest
import torch

from episodic.core.transforms.power import Power
from tests.core.transforms.laws import body, check


@pytest.mark.parametrize("exponent", [0.3, 0.5])
def test_it_is_a_transform(exponent):
    check(functools.partial(Power, exponent=exponent))


def test_it_is_the_power_of_each_entry_then_centered_then_of_length_one():
    train, x = torch.rand(40, 3) ** 4, torch.tensor([[0.25, 0.0, 1.0], [0.09, 0.04, -0.16]])
    transform = Power(body(3)).eval()
    transform.fit(train)
    rooted = torch.tensor([[0.5, 0.0, 1.0], [0.3, 0.2, -0.4]]) - train.sqrt().mean(0)
    torch.testing.assert_close(transform(x), rooted / rooted.square().sum(1, keepdim=True).sqrt(), atol=2e-3, rtol=0)


def test_an_exponent_of_one_is_another_transform():
    with pytest.raises(ValueError, match=r"exponent must be a number, above 0 and below 1, got 1\.0"):
        Power(body(3), exponent=1.0)
