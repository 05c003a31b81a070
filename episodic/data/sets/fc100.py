"""FC100: CIFAR-100 in 12/4/4 super-classes."""

from __future__ import annotations

from episodic.data.sources.cifar100 import AbstractCIFAR100
from episodic.data.sources.tables import class_lists


class FC100(AbstractCIFAR100):
    """Fewshot-CIFAR100: the classes of CIFAR-100, divided by super-class into 60 for training, 20 for validation and 20 for test.
    Each class has 600 color images of 32x32 pixels: 36,000/12,000/12,000 in all.

    Oreshkin, Rodríguez López, Lacoste, "TADAM: Task dependent adaptive metric for improved few-shot learning", 2018,
    https://arxiv.org/abs/1805.10123. Whole super-classes (CIFAR-100's coarse labels) go to one split, 12/4/4 of them, so
    that test classes have no close relatives in training. The paper's text says five super-classes each for validation
    and test; its appendix and the authors' code have four, as here.

    It is read from torchvision's `cifar-100-python` folder or its archive, or from folders of classes.

    **Arguments:**

    - `root`: the folder that holds one of these; default `$EPISODIC_DATA`, else a folder in the user's cache.
    - `image_size`: side of the images, in pixels. Default 32, as published; another size is interpolated.
    - `download`: fetch CIFAR-100 through torchvision (161 MB) where it is missing. Default False.
    - `corrupt`: `"error"` or `"skip"` images that cannot be read. Default `"error"`.

    **Raises:** by `store`: `FileNotFoundError` where the data are not on disk; `ValueError` for wrong classes, or a
    pickle that is damaged or holds more than arrays.

    >>> dataset = FC100("/data")  # reads nothing yet; dataset.store("train") does
    >>> len(dataset.classes("val"))
    20
    """

    name = "fc100"
    split_name = "tadam"
    _source = "FC100"

    def classes(self, split: str) -> dict[str, str]:
        return {name: group for group, names in class_lists("fc100")[split].items() for name in names}
