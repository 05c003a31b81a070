"""CIFAR-FS: CIFAR-100 in 64/16/20 classes."""

from __future__ import annotations

from episodic.data.sources.cifar100 import AbstractCIFAR100
from episodic.data.sources.tables import class_lists


class CIFARFS(AbstractCIFAR100):
    """CIFAR-FS: the classes of CIFAR-100, divided at random into 64 for training, 16 for validation and 20 for test. Each class
    has 600 color images of 32x32 pixels: 38,400/9,600/12,000 in all.

    Bertinetto et al., "Meta-learning with differentiable closed-form solvers", 2019, https://arxiv.org/abs/1805.08136.
    The classes were drawn at random, so relatives of a test class are in training (FC100 keeps super-classes apart).
    Super-classes are the coarse labels of CIFAR-100; one can occur in all three splits.

    It is read from torchvision's `cifar-100-python` folder or its archive, or from folders of classes. If Bertinetto's
    `splits/bertinetto/<split>.txt` lies beside these folders, it must list the same classes.

    **Arguments:**

    - `root`: the folder that holds one of these; default `$EPISODIC_DATA`, else a folder in the user's cache.
    - `image_size`: side of the images, in pixels. Default 32, as published; another size is interpolated.
    - `download`: fetch CIFAR-100 through torchvision (161 MB) where it is missing. Default False.
    - `corrupt`: `"error"` or `"skip"` images that cannot be read. Default `"error"`.

    **Raises:** by `store`: `FileNotFoundError` where the data are not on disk; `ValueError` for wrong classes, or a
    pickle that is damaged or holds more than arrays.

    >>> dataset = CIFARFS("/data")  # reads nothing yet; dataset.store("train") does
    >>> dataset.name, dataset.channels, dataset.image_size
    ('cifarfs', 3, 32)
    """

    name = "cifarfs"
    split_name = "bertinetto"
    _source = "CIFAR-FS"

    def classes(self, split: str) -> dict[str, str]:
        coarse = class_lists("fc100")
        above = {
            name: group for part in ("train", "val", "test") for group in coarse[part] for name in coarse[part][group]
        }
        return {name: above[name] for name in class_lists("cifarfs")[split]}
