import pytest
import torch
from torchvision.transforms.v2 import functional as peer

from episodic.data.augment import Augment, Normalize


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_defaults_change_nothing():
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(Augment()(images, generator()), images)


def test_every_crop_is_a_shifted_and_maybe_mirrored_copy():
    images = torch.rand(40, 2, 6, 5)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    shifts = set()
    for image, frame in zip(Augment(crop_padding=0.34, flip=True)(images, generator()), padded, strict=True):
        matches = [
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            if torch.equal(image, window(frame, top, left, mirrored))
        ]
        assert len(matches) == 1
        shifts.add(matches[0])
    assert len(shifts) > 20, "items must be changed independently"


def window(frame, top, left, mirrored):
    crop = frame[:, top : top + 6, left : left + 5]
    return crop.flip(-1) if mirrored else crop


@pytest.mark.parametrize(("size", "pixels"), [(84, 8), (32, 3), (28, 2), (8, 1)])
def test_the_padding_follows_the_size_of_images(size, pixels):
    images = torch.ones(200, 1, size, size)
    dark = (Augment(crop_padding=0.1)(images, generator()) == 0).flatten(1, 2)
    assert dark.all(2).sum(1).max() == pixels


def test_a_zoom_is_a_crop_of_torchvision_resized():
    """Images whose pixels say where they are: a crop keeps this linear, and torchvision resizes the same crop to the same."""
    side = 32
    column = torch.arange(side).expand(side, side).float() / side
    images = torch.stack([column, column.T])[None].expand(50, -1, -1, -1)
    zoomed = Augment(smallest_crop=0.25)(images, generator())
    scales = zoomed[:, 0, 0, 17] - zoomed[:, 0, 0, 16]  # between neighbors, as a share of one column
    lengths = scales * side * side
    assert side / 2 - 1e-3 <= lengths.min() <= lengths.max() <= side + 1e-3
    assert lengths.std() > 2
    areas = (lengths / side).square()
    assert 0.55 < areas.mean() < 0.7  # uniform from 1/4 to 1
    for image, length in zip(zoomed, lengths, strict=True):
        left, top = ((image[axis, 16, 16] * side + 0.5 - length * 16.5 / side).item() for axis in (0, 1))
        grid = torch.arange(side) + 0.5
        expected = (left + grid * length / side - 0.5) / side
        inside = (expected > 0) & (expected < (side - 1) / side)
        torch.testing.assert_close(image[0, 16][inside], expected[inside], atol=1e-4, rtol=0)
        for start in (left, top):
            assert -1e-3 <= start <= side - length + 1e-3
    whole = peer.resized_crop(images[:1], 4, 6, 20, 20, [side, side], antialias=False)
    torch.testing.assert_close(whole[0, 0, 16, 17] - whole[0, 0, 16, 16], torch.tensor(20 / side / side))


def test_jitter_equals_torchvisions_three_changes_in_order():
    images = torch.rand(5, 3, 6, 6)
    jittered = Augment(jitter=0.4)(images, generator())
    factor = torch.empty(3, 5, 1, 1, 1).uniform_(0.6, 1.4, generator=generator()).flatten(1)
    for i in range(5):
        expected = peer.adjust_brightness(images[i], factor[0, i].item())
        expected = peer.adjust_contrast(expected, factor[1, i].item())
        expected = peer.adjust_saturation(expected, factor[2, i].item())
        torch.testing.assert_close(jittered[i], expected, atol=2e-3, rtol=0)  # theirs rounds the weights of gray


def test_same_generator_same_result():
    images = torch.rand(4, 3, 8, 8)
    augment = Augment(0.25, 0.5, True, 0.4)
    assert torch.equal(augment(images, generator(3)), augment(images, generator(3)))
    assert not torch.equal(augment(images, generator(3)), augment(images, generator(4)))


@pytest.mark.parametrize(
    ("name", "value"), [("crop_padding", -1), ("crop_padding", 8), ("jitter", 1.0), ("jitter", -0.1)]
)
def test_bad_settings(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*, at least 0.*, got {value}"):
        Augment(**{name: value})


def test_normalize_is_less_mean_over_std():
    images = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    expected = torch.tensor([[[[-1.0, 1.0]], [[0.0, 0.4]]]])
    torch.testing.assert_close(Normalize([0.5, 0.2], [0.5, 0.5])(images), expected)
    with pytest.raises(ValueError, match="std must be a flat list of finite numbers, above 0"):
        Normalize([0.5], [0.0])


def test_other_numbers_than_bytes_are_not_read_as_bytes():
    normalize = Normalize([0.5], [0.5])
    with pytest.raises(ValueError, match=r"images must be uint8 on the scale 0\.\.255, got float32"):
        Normalize.forward.__wrapped__(normalize, torch.rand(2, 1, 4, 4))
