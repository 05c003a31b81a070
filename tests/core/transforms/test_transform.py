import torch
from torch import nn

from episodic.core.transforms.cl2n import CL2N
from episodic.core.transforms.transform import batch_mean, no_transform
from tests.core.transforms.laws import body


def test_without_a_transform_the_backbone_is_as_it_was():
    backbone = nn.Identity()
    assert no_transform(backbone) is backbone


def test_the_mean_of_maps_is_over_items_and_positions():
    maps = torch.rand(5, 3, 2, 4)
    slow = torch.stack([torch.stack([x[c].mean() for x in maps]).mean() for c in range(3)])
    torch.testing.assert_close(batch_mean(maps), slow)


def test_training_centers_on_the_batch_and_evaluation_on_what_was_fitted():
    transform, x = CL2N(body(3)), torch.rand(8, 3)
    fitted = torch.rand(50, 3)
    transform.fit(fitted)
    other = transform.train()(x)
    torch.testing.assert_close(other, nn.functional.normalize(x - x.mean(0), dim=1))
    torch.testing.assert_close(transform.eval()(x), nn.functional.normalize(x - fitted.mean(0), dim=1))


def test_an_unfitted_transform_gives_no_numbers_in_evaluation():
    assert CL2N(body(3)).eval()(torch.rand(2, 3)).isnan().all()


def test_what_was_fitted_is_kept_with_the_weights():
    transform = CL2N(body(3))
    transform.fit(torch.ones(2, 3))
    again = CL2N(body(3))
    again.load_state_dict(transform.state_dict())
    assert again.mean.tolist() == [1.0, 1.0, 1.0]
