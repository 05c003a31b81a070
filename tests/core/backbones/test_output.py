import pytest
import torch

from episodic.core.backbones._output import check_images, checked_input, embed, embedding_shape


@pytest.mark.parametrize("output", ["average", "flatten", "map"])
def test_the_shape_is_that_of_what_comes_out(output):
    maps = torch.randn(2, 5, 3, 3)
    found = embed(maps, output)
    assert found.shape[1:] == embedding_shape(5, 3, output)
    wanted = {"average": maps.mean((2, 3)), "flatten": maps.reshape(2, -1), "map": maps}
    assert torch.equal(found, wanted[output])


@pytest.mark.parametrize(
    ("check", "arguments", "message"),
    [
        (checked_input, ("Conv4", 0, 84), "in_channels must be an integer, at least 1"),
        (checked_input, ("Conv4", 3, 15, 16), "Conv4 needs image_size of at least 16, .*, got 15"),
        (check_images, (torch.zeros(2, 3, 8, 9), 3, 8), r"built for images \[item, 3, 8, 8\], got \[2, 3, 8, 9\]"),
    ],
)
def test_what_cannot_be_is_refused(check, arguments, message):
    with pytest.raises(ValueError, match=message):
        check(*arguments)


def test_what_can_be_passes():
    assert checked_input("Conv4", 1, 16, 16) == (1, 16)
    check_images(torch.zeros(2, 3, 8, 8), 3, 8)
