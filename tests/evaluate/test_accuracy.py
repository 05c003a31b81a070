import torch

from episodic.evaluate.accuracy import accuracy, incremental_accuracies, unlabeled_accuracies


def test_accuracy_is_a_share_per_episode():
    logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert accuracy(logits, torch.tensor([[0, 1], [1, 1]])).tolist() == [1.0, 0.0]


def test_incremental_accuracies_by_hand():
    # two new classes, then three base classes; queries of classes 0, 1 and base 0, 2
    logits = torch.tensor(
        [
            [[9.0, 0, 0, 0, 0], [5, 4, 6, 0, 0], [8, 0, 3, 2, 1], [0, 0, 1, 2, 3]]
        ]  # right; wrong alone too; lost to new; right
    )
    values = incremental_accuracies(logits, torch.tensor([[0, 1, 2, 4]]), n_way=2)
    assert {name: value.item() for name, value in values.items()} == {
        "novel": 0.5, "base": 0.5, "novel alone": 0.5, "base alone": 1.0,
        "delta novel": 0.0, "delta base": -0.5, "delta": -0.25,
    }  # fmt: skip


def test_how_unlabeled_items_were_used():
    """A right one, one taken for another class, one not taken, and a distractor that is."""
    taken = torch.tensor([[[0.6, 0.2], [0.3, 0.1], [0.0, 0.0], [0.0, 0.8]], [[0.0, 0.0]] * 4])
    y = torch.tensor([[0, 1, 0, -1], [0, 1, 0, -1]])
    found = unlabeled_accuracies(taken, y)
    torch.testing.assert_close(found["unlabeled accuracy"], torch.tensor([1 / 3, 0.0]))
    torch.testing.assert_close(found["unlabeled purity"], torch.tensor([0.7 / 2.0, 1.0]))
