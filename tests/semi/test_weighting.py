import pytest
import torch
from torch import nn

from episodic.semi._weighting import SoftWeighting
from tests.conftest import random_task


@pytest.mark.parametrize("item", [(6,), (3, 4, 5)])
def test_weights_are_a_softmax_over_classes_of_each_item_by_itself(item):
    torch.manual_seed(0)
    network = SoftWeighting(item).eval()
    nn.init.normal_(network.rest[-1].weight, std=50)
    task = random_task(n_unlabeled=5, item=item)
    found = network(task.unlabeled, task.support, task.support_y, 4)
    assert found.shape == (3, 5, 4)
    assert found.std() > 0.01
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 5))
    alone = network(task.unlabeled[:, [2]], task.support, task.support_y, 4)
    torch.testing.assert_close(alone, found[:, [2]])


def test_renaming_the_classes_renames_the_weights():
    torch.manual_seed(0)
    network = SoftWeighting((6,)).eval()
    task, new_name = random_task(n_unlabeled=5), torch.tensor([2, 0, 3, 1])
    before = network(task.unlabeled, task.support, task.support_y, 4)
    after = network(task.unlabeled, task.support, new_name[task.support_y], 4)
    torch.testing.assert_close(after[..., new_name], before)


def test_the_first_layer_sees_mean_maps_whatever_the_number_of_support_items():
    torch.manual_seed(0)
    network = SoftWeighting((6,)).eval()
    task = random_task(n_unlabeled=5)
    twice = network(task.unlabeled, task.support.repeat(1, 2, 1), task.support_y.repeat(1, 2), 4)
    torch.testing.assert_close(twice, network(task.unlabeled, task.support, task.support_y, 4))


def test_every_weight_is_learned():
    torch.manual_seed(0)
    for item in ((6,), (3, 4, 5)):
        network = SoftWeighting(item).train()
        task = random_task(n_unlabeled=5, item=item)
        network(task.unlabeled, task.support, task.support_y, 4)[..., 0].square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad.isfinite().all(), name
            if name.endswith("weight"):
                assert parameter.grad.abs().max() > 0, name
