"""TensorBoard: training curves, and the first episode as a picture (a row a class: support, gap, queries)."""

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
    """Writes `events.out.tfevents*` into a run's folder, for `tensorboard --logdir runs`.

    `step` is where training begins: a resumed run takes back the points after it, a new one shows its first episode, `picture`.
    """

    def __init__(self, folder: Path, step: int, picture: Tensor):
        self._writer = SummaryWriter(str(folder), purge_step=step or None)
        if step == 0:
            self._writer.add_image("episode", picture)

    def training(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def validation(self, step: int, accuracy: float, half_width: float) -> None:
        self._writer.add_scalar("val/accuracy", accuracy, step)
        self._writer.add_scalar("val/ci95", half_width, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def episode_picture(store: ImageStore, indices: EpisodeIndices, most_ways: int = 10, most_items: int = 12) -> Tensor:
    """An episode of `store` as uint8 `[C, height, width]`: a row a class, its support, a gap, its queries."""
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
    """Steps and values of every scalar in the TensorBoard events of a run, by tag; empty where there are none to read."""
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
