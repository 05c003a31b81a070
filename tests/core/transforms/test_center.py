import torch

from episodic.core.transforms.center import Center
from tests.core.transforms.laws import body, check


def test_it_is_a_transform():
    check(Center)


def test_it_moves_the_origin_and_keeps_every_distance():
    x = torch.rand(6, 4)
    transform = Center(body(4)).eval()
    transform.fit(x)
    torch.testing.assert_close(transform(x).mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cdist(transform(x), transform(x)), torch.cdist(x, x), atol=1e-5, rtol=1e-5)
