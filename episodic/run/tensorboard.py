"""The training curves of a run, for TensorBoard, and its first episode as a picture."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from episodic.data.store import ImageStore
from episodic.episodes.indices import EpisodeIndices

Curve = tuple[Shaped[np.ndarray, " point"], Shaped[np.ndarray, " point"]]  # steps, values


class Curves:
    """Writes the training curves of a run into its folder. `tensorboard --logdir runs` shows them.

    **Arguments:** `step`: where training begins. A resumed run takes back the points after it. A new one (step 0) shows its first
    episode, `picture`.
    """

    def __init__(self, folder: Path, step: int, picture: Tensor | None):
        self._writer = SummaryWriter(str(folder), purge_step=step or None)
        if step == 0 and picture is not None:
            self._writer.add_image("episode", picture)

    def training(self, step: int, values: dict[str, float]) -> None:
        """Add a point of training: `values` by name."""
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def validation(self, step: int, accuracy: float, half_width: float) -> None:
        """Add a point of validation: an accuracy, and half the width of its interval."""
        self._writer.add_scalar("val/accuracy", accuracy, step)
        self._writer.add_scalar("val/ci95", half_width, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._writer.close()


def episode_picture(store: ImageStore, indices: EpisodeIndices, most_ways: int = 10, most_items: int = 12) -> Tensor:
    """An episode as one picture, uint8 `[C, height, width]`. Each row has a class: its support items, a gap, its queries.

    **Arguments:** `most_ways` (default 10): rows at most. `most_items` (default 12): support items, and queries, of a row at most.

    >>> from episodic.episodes.sampler import EpisodeSampler
    >>> images, labels = torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> store = ImageStore(images, labels, ("cat", "dog"), tuple("abcdef"), None, (), "pets", "train", "ours")
    >>> episode_picture(store, EpisodeSampler(labels, n_way=2, n_shot=1, n_query=2)[0]).shape
    torch.Size([1, 18, 32])
    """
    rows = []
    for way in range(min(indices.n_way, most_ways)):
        strips = []
        for items, y in ((indices.support, indices.support_y), (indices.query, indices.query_y)):
            images = store.gather(torch.from_numpy(items[y == way][:most_items])).cpu()
            strips.append(torch.nn.functional.pad(torch.cat(list(images), dim=-1), (0, 4, 0, 1), value=128))
        rows.append(torch.cat(strips, dim=-1))
    width = max(row.shape[-1] for row in rows)
    return torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[-1]), value=128) for row in rows], dim=-2)


def read_curves(folder: Path) -> dict[str, Curve]:
    """The steps and values of every curve of a run, by name. It is empty where there are none to read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_curves(Path(folder))
    {}
    """
    if not any(folder.glob("events.out.tfevents*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a while

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1})
    with contextlib.suppress(Exception):  # the reader raises nearly anything on damaged files; what came before is kept
        events.Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = {event.step: event.value for event in events.Scalars(tag)}  # of a resumed run, the later one
        steps = sorted(points)
        curves[tag] = np.array(steps), np.array([points[step] for step in steps])
    return curves
