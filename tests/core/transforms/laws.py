"""What every transform must do."""

import torch
from torch import nn

from tests.conftest import Features


def body(*shape: int) -> nn.Module:
    """A backbone that gives its input."""
    return Features(*shape)


def check(transform: type) -> None:
    """Maps are transformed position by position, in float32 whatever the precision, and gradients are finite, also at 0."""
    torch.manual_seed(0)
    maps = torch.rand(6, 4, 3, 2) + 0.1
    on_maps, on_vectors = transform(body(4, 3, 2)), transform(body(4))
    assert on_maps.shape == (4, 3, 2)
    rows = maps.permute(0, 2, 3, 1).reshape(-1, 4)
    torch.testing.assert_close(on_maps(maps).permute(0, 2, 3, 1).reshape(-1, 4), on_vectors(rows))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert on_vectors(rows.bfloat16()).dtype == torch.float32
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, -1.0]], requires_grad=True)
    (on_vectors(x) * torch.randn(2, 4)).sum().backward()
    assert x.grad.isfinite().all()
