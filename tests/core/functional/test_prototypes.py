import pytest
import torch

from episodic.core.functional.prototypes import one_hot, prototypes


def test_prototypes_of_unequal_classes_and_of_none():
    x = torch.tensor([[1.0], [3.0], [10.0]])
    assert prototypes(x, torch.tensor([0, 0, 2]), 3).flatten().tolist() == [2, 0, 10]
    assert one_hot(torch.tensor([-1, 1]), 2).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mean_of_large_half_precision_numbers_is_finite(dtype):
    support = torch.full((1, 4, 2), 6e4, dtype=dtype, requires_grad=True)
    found = prototypes(support, torch.zeros(1, 4, dtype=torch.long), 2)
    found.sum().backward()
    assert found[0, 0].tolist() == pytest.approx([6e4, 6e4], rel=1e-2)
    assert support.grad.isfinite().all()
