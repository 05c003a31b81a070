"""`python -m episodic.report run=<dir> [against=<dir>] [task=...] [episodes=2000] [split=test] [out=<dir>]`.

Measures a run and writes a page about it, with its figures as PNG files. With `against=<dir>` a second run is measured on the same
episodes and compared with the first.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from episodic.assemble.learner import Parts
from episodic.assemble.load import load_parts, with_saved_parts
from episodic.assemble.task import episode_shape, load_store
from episodic.config.command import command
from episodic.config.compose import ConfigError
from episodic.config.paths import unquoted
from episodic.data.dataset import SPLITS
from episodic.data.store import ImageStore
from episodic.episodes.source import Episodes
from episodic.evaluate.manifest import episodes_of
from episodic.evaluate.tables import percent, protocol, record
from episodic.report.facts import caution, facts, protocols, summary
from episodic.report.measurements import Measurements, measure
from episodic.report.page import Report, build_page
from episodic.report.plane import Plane, plane
from episodic.report.plots import CLASS_COLORS
from episodic.run.files import write_atomically
from episodic.run.run import Run
from episodic.run.tensorboard import read_curves

UNREAD = {
    "augment": "a report trains nothing, and only training changes images at random",
    **dict.fromkeys(("optimizer", "schedule", "pretrain", "trainer"), "a report trains nothing"),
    "task.labeled_fraction": "a report trains nothing",
    "task.labeled_seed": "a report trains nothing",
    "task.train": "a report trains nothing, and it measures episodes of the shape that task.n_way, task.n_shot, ... say",
}


def main(cfg: DictConfig) -> None:
    """Measure the run, and the run `against` where one is named, and write the page and its pictures."""
    if cfg.split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {cfg.split!r}")
    parts, out = load_parts(cfg, cfg.run), Path(cfg.out or Path(cfg.run) / "report")
    if cfg.out is None and out.is_symlink():  # a run may come from a stranger
        raise ConfigError(f"{out} is a link to {out.resolve()}: to write the report there, give out={out.resolve()}")
    with writing(out):  # better refused now than after minutes
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    rival = load_parts(cfg, cfg.against, as_saved=True) if cfg.against else None
    store = load_store(parts.dataset, cfg.task, cfg.split)
    episodes = episodes_of(cfg, store)
    name = Path(cfg.run).resolve().name
    measured = {name: measured_by(parts, store, episodes)}
    if rival:
        other = Path(cfg.against).resolve().name
        measured[other if other != name else f"{cfg.against} (against)"] = measured_by(rival, store, episodes)
    ours = measured[name].evaluation
    metrics = {"run": str(cfg.run), "seed": cfg.seed} | record(ours, store, episode_shape(cfg.task))
    with writing(out):
        Run(out).write_metrics(metrics, "report.json")
    versions = json.loads((out / "report.json").read_text())["versions"]
    options = [unquoted(o) for o in HydraConfig.get().overrides.task if o != "transform=saved"]
    page, pictures = build_page(
        Report(
            title=f"{summary(cfg, cfg.run)}: {percent(ours.interval)} %",
            protocol=f"{protocol(episode_shape(cfg.task), ours.transductive)}; {len(ours.accuracies):,} episodes of "
            f"{store.dataset} {store.split}",
            caution=caution(cfg, store),
            facts=facts(cfg, parts),
            store=store,
            measured=measured,
            curves=read_curves(Path(cfg.run)),
            protocols=protocols(Run(Path(cfg.run)).config(), allow_any_target=cfg.allow_any_target),
            plane=plane_of(parts, store, measured[name]),
            command=shlex.join(["python", "-m", "episodic.report", *options]),
            made={
                "episodes": f"{len(ours.accuracies):,}, hash {ours.episodes_hash}",
                "classes": f"{len(store.class_names):,} ({store.split_name}, {store.class_hash})",
                "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
            },
        )
    )
    with writing(out):
        for picture in pictures:
            write_atomically(out / f"{picture.name}.png", picture.light)
            write_atomically(out / f"{picture.name}-dark.png", picture.dark)
        write_atomically(out / "report.html", page)
    print(f"{summary(cfg, cfg.run)}: {percent(ours.interval)} %\n{out / 'report.html'}")


def measured_by(parts: Parts, store: ImageStore, episodes: Episodes) -> Measurements:
    return measure(parts.learner, store, episodes, parts.normalize, parts.hardware, progress=True)


def plane_of(parts: Parts, store: ImageStore, measured: Measurements) -> Plane | None:
    """Embeddings of up to ten classes. They are chosen at even ranks from the hardest to the easiest."""
    order = measured.counts.hardest
    ranks = np.linspace(0, len(order) - 1, min(len(CLASS_COLORS), len(order))).round().astype(int)
    return plane(parts.learner, store, order[ranks].tolist(), parts.normalize, parts.hardware)


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn an error of writing into one that names the folder and says what to do.

    **Raises:** `OSError`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"the report cannot be written to {out} ({reason}); out=<dir> takes another folder") from None


if __name__ == "__main__":
    command("report", main, with_saved_parts, UNREAD)
