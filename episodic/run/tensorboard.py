"""The training curves of a run, for TensorBoard, and its first episode as a picture."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary

from episodic.data.store import ImageStore
from episodic.episodes.indices import EpisodeIndices
from episodic.run.distributed import is_first

Curve = tuple[Shaped[np.ndarray, " point"], Shaped[np.ndarray, " point"]]  # steps, values


class Curves:
    """Writes the training curves of a run into its folder. `tensorboard --logdir runs` shows them.

    Points are written when they are added, so an error is raised to whoever adds one. (`SummaryWriter` of torch writes them in a
    thread, where nobody catches it.) Of several processes the first alone writes.

    **Arguments:** `step`: where training begins. A resumed run takes back the points after it. A new one (step 0) shows its first
    episode, `picture`.

    **Raises:** `OSError` here and in all methods but `close`.
    """

    def __init__(self, folder: Path, step: int, picture: Tensor | None):
        self._writer = None
        if not is_first():
            return
        name = f"events.out.tfevents.{time.time():.9f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(open(folder / name, "xb"))  # noqa: SIM115 - closed by `close`
        self._write(Event(step=step, file_version="brain.Event:2"))
        if step:
            # It takes back the points from this step on.
            self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        elif picture is not None:
            self._write(Event(step=0, summary=summary.image("episode", picture, dataformats="CHW")))

    def training(self, step: int, values: dict[str, float]) -> None:
        """Add a point of training: `values` by name."""
        for name, value in values.items():
            self._write(Event(step=step, summary=summary.scalar(f"train/{name}", value)))

    def validation(self, step: int, accuracy: float, half_width: float) -> None:
        """Add a point of validation: an accuracy, and half the width of its interval."""
        self._write(Event(step=step, summary=summary.scalar("val/accuracy", accuracy)))
        self._write(Event(step=step, summary=summary.scalar("val/ci95", half_width)))

    def _write(self, event: Event) -> None:
        if self._writer is None:
            return
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        """Close the file. All points are in it already."""
        if self._writer is None:
            return
        with contextlib.suppress(OSError):  # told when the point was added
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
    logger = logging.getLogger("tensorboard")
    before = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every training that was resumed
    try:
        events.Reload()
    except Exception:  # the reader raises nearly anything on damaged files; what came before is kept
        pass
    finally:
        logger.setLevel(before)
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = {event.step: event.value for event in events.Scalars(tag)}  # of a resumed run, the later one
        steps = sorted(points)
        curves[tag] = np.array(steps), np.array([points[step] for step in steps])
    return curves
