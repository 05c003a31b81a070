import os

# Tests run side by side, each on a core of its own. Torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

from episodic import Task
from episodic.data.store import ImageStore
from tests.configured import config as config  # fixtures
from tests.configured import pictures as pictures

# Property tests draw the same examples each time, and have as long as they need.
settings.register_profile("episodic", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("episodic")


class Features(nn.Module):
    """A backbone that leaves features as they are."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x


class NextRow(nn.Module):
    """An exchange of each of `n_rows` rows for the next one, in training."""

    def __init__(self, n_rows: int):
        super().__init__()
        self.n_rows = n_rows

    def forward(self, indices):
        return (indices + 1) % self.n_rows if self.training else indices


def random_task(seed=0, episodes=3, n_way=4, n_shot=2, n_query=5, n_unlabeled=0, item=(6,), imbalanced=False) -> Task:
    """Random features; labels class by class, or with unequal shots."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randn(episodes, n, *item, generator=generator)  # noqa: E731
    support_y = torch.arange(n_way).repeat_interleave(n_shot).repeat(episodes, 1)
    if imbalanced:
        support_y = torch.cat([support_y, torch.zeros(episodes, 3, dtype=torch.long)], dim=1)
    unlabeled = draw(n_unlabeled) if n_unlabeled else None
    return Task(draw(support_y.shape[1]), support_y, draw(n_query), n_way, unlabeled)


def random_store(classes=8, per_class=20, channels=1, size=16, split="train", separation=1.0, seed=0) -> ImageStore:
    """Noise around one random pattern a class: easy to learn where `separation` is large."""
    random = np.random.default_rng(seed)
    patterns = random.normal(size=(classes, 1, channels, size, size)) * separation
    pixels = 128 + 40 * (patterns + random.normal(size=(classes, per_class, channels, size, size)))
    images = torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).flatten(0, 1)
    return ImageStore(
        images=images,
        labels=torch.arange(classes).repeat_interleave(per_class),
        class_names=tuple(f"{split}{c}" for c in range(classes)),
        item_names=tuple(f"{split}{c}/{i}" for c in range(classes) for i in range(per_class)),
        super_classes=None,
        super_class_names=(),
        dataset="patterns",
        split=split,
        split_name="made-up",
    )


@pytest.fixture
def store():
    return random_store()


@pytest.fixture
def unchecked():
    """Functions are called as users call them: without the type checker that pytest puts on the package."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
