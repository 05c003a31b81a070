"""From uint8 images to what a backbone reads, on the device of the images: random changes in training, then normalization."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from episodic.episodes.arguments import flag, number, numbers
from episodic.episodes.share import present_share


class Augment:
    """Random crop, zoom, horizontal flip and color jitter. They are drawn anew for every item, and computed for all items at once.

    **Arguments** (the defaults change nothing):

    - `crop_padding`: zero padding on each side before a crop to the old size at a random place, as a share of the side, so that it
      follows the image size. It is rounded down to whole pixels, at least one.
    - `smallest_crop`: the area of a square crop, which is resized to the old size, as a share of the image's. It is uniform from
      this to 1, and the place is random (torchvision's `RandomResizedCrop` of aspect ratio 1, bilinear).
    - `flip`: mirror left and right with probability one half.
    - `jitter`: brightness, contrast and saturation are each scaled by a factor uniform in `1 - jitter ... 1 + jitter`, in
      this order.

    With a crop padding of 8 pixels in 84 or 4 in 32, true and 0.4 it is the augmentation of Lee et al. (MetaOptNet, CVPR 2019,
    https://arxiv.org/abs/1904.03758); departure: the three color changes come in a fixed order.

    >>> augment = Augment(crop_padding=0.125, flip=True, jitter=0.4)
    >>> augment(torch.rand(2, 3, 32, 32), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(self, crop_padding: float = 0.0, smallest_crop: float = 1.0, flip: bool = False, jitter: float = 0.0):
        note = ", the share of a side (8 pixels of 84 are 0.096)"
        self.crop_padding = number("crop_padding", crop_padding, at_least=0, below=1, note=note)
        self.smallest_crop = number("smallest_crop", smallest_crop, above=0, at_most=1)
        self.flip = flag("flip", flip)
        self.jitter = number("jitter", jitter, at_least=0, below=1)

    def __call__(
        self, images: Float[Tensor, "item channels height width"], generator: torch.Generator
    ) -> Float[Tensor, "item channels height width"]:
        """`images` on the scale 0..1 -> the same, changed. `generator` must live on the CPU; draws are the same on any device."""
        n, channels, height, width = images.shape
        device = images.device
        share = present_share()
        drawn, here = share.whole(n), share.rows(n)
        if self.crop_padding or self.flip:
            p = max(1, int(self.crop_padding * height)) if self.crop_padding else 0
            offsets = torch.randint(-p, p + 1, (2, drawn, 1), generator=generator)[:, here].to(device)
            mirrored = torch.rand(drawn, 1, generator=generator)[here].to(device) < (0.5 if self.flip else 0.0)
            rows = torch.arange(height, device=device) + offsets[0]  # [n, height], outside the image: padding
            columns = torch.arange(width, device=device)
            columns = torch.where(mirrored, columns.flip(0), columns) + offsets[1]
            inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
            place = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]
            taken = images.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, channels, -1))
            images = taken.unflatten(2, (height, width)) * inside[:, None]
        if self.smallest_crop < 1:
            sides = torch.empty(drawn).uniform_(self.smallest_crop, 1, generator=generator).sqrt()
            place = (2 * torch.rand(drawn, 2, generator=generator) - 1) * (1 - sides)[:, None]
            zoom = torch.diag_embed(sides[:, None].expand(-1, 2))
            view = torch.cat([zoom, place[:, :, None]], dim=2)  # what is seen, on a square of -1..1
            grid = affine_grid(view[here].to(device), list(images.shape), align_corners=False)
            images = grid_sample(images, grid, padding_mode="border", align_corners=False)
        if self.jitter:
            low, high = 1 - self.jitter, 1 + self.jitter
            factor = torch.empty(3, drawn, 1, 1, 1).uniform_(low, high, generator=generator)[:, here].to(device)
            images = (images * factor[0]).clamp(0, 1)
            gray = _luma(images).mean((2, 3), keepdim=True)
            images = (gray + (images - gray) * factor[1]).clamp(0, 1)
            if channels == 3:
                gray = _luma(images)
                images = (gray + (images - gray) * factor[2]).clamp(0, 1)
        return images


class Normalize(nn.Module):
    """Turns uint8 images `[item, C, H, W]` into float32 of mean 0 and standard deviation 1. It brings pixels to the scale 0..1,
    then subtracts `mean` and divides by `std`, one number a channel each.

    **Raises:** `ValueError` for numbers of other lengths, or that cannot be, and for images of another type than uint8.

    >>> normalize = Normalize(mean=[0.2], std=[0.4])
    >>> normalize(torch.tensor([[[[51, 255]]]], dtype=torch.uint8))
    tensor([[[[0., 2.]]]])
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        mean, std = numbers("mean", mean), numbers("std", std, above=0)
        if len(mean) != len(std):
            raise ValueError(f"mean and std must have a number for each channel, got {len(mean)} and {len(std)}")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(
        self,
        images: UInt8[Tensor, "item channels height width"],
        augment: Augment | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "item channels height width"]:
        if images.dtype != torch.uint8:
            raise ValueError(
                f"images must be uint8 on the scale 0..255, got {str(images.dtype).removeprefix('torch.')}"
            )
        scaled = images / 255  # float32, and ours to change in place
        if augment is not None:
            scaled = augment(scaled, generator)
        return scaled.sub_(self.mean).div_(self.std)


def _luma(images: Tensor) -> Tensor:
    """Gray value of each pixel (ITU-R 601) `[item, 1, H, W]`."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)
