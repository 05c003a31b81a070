"""Time commands for users with pictures of their own, from a cold start: the rows `commands` of the benchmark.

The run is a Conv4 with random weights. The task has five classes of miniImageNet's validation images with five examples each. Each
side is a process of its own, timed from its start to its end, including Python's imports; the table also tells the time that
importing torch takes alone.

- `predict`: `episodic.predict` names 100 pictures. Beside it a plain torch loop (plain_torch.py) takes one picture after the other
  in float32, on as many threads. Both must give each picture the same class.
- `report`: `episodic.report` on `REPORTED` episodes of the validation split, with its page and pictures; the image cache exists
  already. Beside it the plain loop reads and embeds the images of each episode anew and only counts the right answers. It is
  timed on `--peer-episodes` episodes, and the time for as many episodes as ours is computed from that. Both accuracies must agree
  within noise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from benchmark.measuring import DIFFERENT
from episodic.assemble.learner import build_parts
from episodic.config.compose import compose_config
from episodic.data.sets.miniimagenet import MiniImageNet
from episodic.evaluate.tables import table
from episodic.run.checkpoint import save_checkpoint

CLASSES, SHOTS, QUERIES = 5, 5, 20
REPORTED = 2_000  # episodes, the report's default
SPREAD = 0.1  # an upper bound on the standard deviation of the accuracy of a 5-way 1-shot episode
LOOP = str(Path(__file__).with_name("plain_torch.py"))
HEADER = ["command / plain torch loop", "ours, s", "peer, s", "ratio", "of it import torch, s"]


def commands(args: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """`(entries of the JSON, table)` of both commands."""
    dataset = MiniImageNet(args.data_dir)
    listing = dataset.listing("val")
    if listing.items[0][1] is not None:
        raise FileNotFoundError("the comparison needs miniImageNet as image files")
    dataset.store("val")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        weights = untrained_run(folder / "run", args.data_dir)
        lay_out(listing, folder)
        (folder / "val.csv").write_text(split_table(listing))
        torch_alone = statistics.median(process("-c", "import torch")[0] for _ in range(args.repeats))
        rows = {
            "predict, 100 pictures": predicting(folder, weights, args),
            f"report, {REPORTED:,} episodes": reporting(folder, weights, args),
        }
    entries, lines = [], []
    for name, (ours, theirs) in rows.items():
        entry = {"row": f"commands, {name}", "ours": ours, "peer": theirs, "unit": "s", "ratio": theirs / ours}
        entries.append(entry | {"import_torch_s": torch_alone})
        lines.append([name, f"{ours:.3g}", f"{theirs:,.3g}", f"{theirs / ours:.3g}", f"{torch_alone:.3g}"])
    return entries, table(HEADER, lines)


def predicting(folder: Path, weights: str, args: argparse.Namespace) -> tuple[float, float]:
    """Median seconds of our command and of the loop; both name the same pictures."""
    ours, theirs = [], []
    shown = [f"support={folder / 'shots'}", f"query={folder / 'photos'}", f"run={folder / 'run'}"]
    for _ in range(args.repeats):
        ours.append(process("-m", "episodic.predict", *shown, f"out={folder / 'answers.json'}")[0])
        seconds, out = process(LOOP, "predict", weights, str(folder / "shots"), str(folder / "photos"))
        theirs.append(seconds)
        said = {Path(each["file"]).name: each["class"] for each in json.loads((folder / "answers.json").read_text())}
        if said != {file: name for file, name, _ in json.loads(out)}:
            raise SystemExit(f"commands, predict: {DIFFERENT}")
    return statistics.median(ours), statistics.median(theirs)


def reporting(folder: Path, weights: str, args: argparse.Namespace) -> tuple[float, float]:
    """Seconds of our report, and of the loop for as many episodes, extrapolated from few."""
    options = [f"run={folder / 'run'}", "split=val", f"episodes={REPORTED}", f"data_dir={args.data_dir}"]
    ours = statistics.median(
        process("-m", "episodic.report", *options, f"out={folder / 'report'}")[0] for _ in range(args.repeats)
    )
    accuracy = json.loads((folder / "report" / "report.json").read_text())["val/accuracy"]
    few = max(2, args.peer_episodes)
    (one, _), (seconds, out) = (
        process(LOOP, "evaluate", weights, str(folder / "val.csv"), "/", str(n)) for n in (1, few)
    )
    if abs(accuracy - json.loads(out)) > 4 * SPREAD / few**0.5:
        raise SystemExit(f"commands, report: {DIFFERENT}: accuracy {accuracy:.2%} and {json.loads(out):.2%}")
    return ours, one + (seconds - one) / (few - 1) * (REPORTED - 1)


def process(*arguments: str) -> tuple[float, str]:
    """`(seconds, output)` of a fresh Python."""
    started = time.perf_counter()
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return time.perf_counter() - started, done.stdout


def untrained_run(folder: Path, data_dir: str) -> str:
    """Make a run as `episodic.train` leaves it, with random weights; returns the file that holds them."""
    cfg = compose_config(
        "train",
        ["task=miniimagenet_5w1s", "transform=none", "learner.temperature=1", f"run={folder}", f"data_dir={data_dir}"],
    )
    cfg.task.train_classes = 64
    folder.mkdir()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    learner = build_parts(cfg).learner
    optimizer = torch.optim.SGD(learner.parameters())
    kept = {"tensors": {}, "optimizer": optimizer.state_dict()}
    save_checkpoint(folder / "best", learner.state_dict(), kept, {})
    return str(folder / "best" / "model.safetensors")


def lay_out(listing: Any, folder: Path) -> None:
    """Make links to pictures: `shots/<class>/` with five of each class, `photos/` with a hundred others."""
    (folder / "photos").mkdir()
    for label, name in enumerate(listing.class_names[:CLASSES]):
        files = [item[0] for item, y in zip(listing.items, listing.labels, strict=True) if y == label]
        below = folder / "shots" / name
        below.mkdir(parents=True)
        for i, file in enumerate(files[: SHOTS + QUERIES]):
            place = below if i < SHOTS else folder / "photos"
            (place / f"{name}-{i:02}.jpg").symlink_to(Path(file).resolve())


def split_table(listing: Any) -> str:
    rows = zip(listing.items, listing.labels, strict=True)
    return "filename,label\n" + "".join(f"{Path(item[0]).resolve()},{listing.class_names[y]}\n" for item, y in rows)
