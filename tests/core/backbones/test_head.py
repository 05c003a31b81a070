import pytest
import torch
from torch import nn

from episodic.core.backbones.conv4 import Conv4
from episodic.core.backbones.head import LinearHead, no_head
from tests.conftest import Features


def test_embeddings_are_linear_in_the_flattened_features():
    body = Features(2, 3, 1)
    head = LinearHead(body, 5)
    assert head.shape == (5,)
    x = torch.randn(4, 2, 3, 1)
    torch.testing.assert_close(head(x), nn.functional.linear(x.flatten(1), head.head.weight, head.head.bias))
    assert no_head(body) is body


def test_a_head_reaches_below_zero_and_gives_length_one_where_asked():
    torch.manual_seed(0)
    conv, images = Conv4(1, 16).eval(), torch.randn(6, 1, 16, 16)
    assert (conv(images) >= 0).all()
    assert (LinearHead(conv, 8)(images) < 0).any()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lengths = LinearHead(conv, 8, normalize=True)(images).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(6))
    sliced = LinearHead(conv, 8, normalize=True, slices=4)(images)
    torch.testing.assert_close(sliced.view(6, 4, 2).norm(dim=-1), torch.ones(6, 4))


def test_no_dimensions_are_refused():
    with pytest.raises(ValueError, match="embedding_dim must be at least 1, and a multiple of slices, got 0 and 1"):
        LinearHead(Features(6), 0)


def test_slices_are_for_normalized_embeddings():
    assert LinearHead(Features(8), 12, slices=3).without_effect.keys() == {"slices"}
    assert LinearHead(Features(8), 12, normalize=True, slices=3).without_effect == {}
