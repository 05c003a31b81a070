import torch

from episodic.core.functional.prototypes import one_hot, prototypes


def test_prototypes_of_unequal_classes_and_of_none():
    x = torch.tensor([[1.0], [3.0], [10.0]])
    assert prototypes(x, torch.tensor([0, 0, 2]), 3).flatten().tolist() == [2, 0, 10]
    assert one_hot(torch.tensor([-1, 1]), 2).tolist() == [[0, 0], [0, 1]]
