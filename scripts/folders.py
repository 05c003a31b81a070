"""Name a user's pictures: write episodes as folders of PNG files and have them named as `episodic.predict` does.

    python scripts/folders.py run=<dir> [--folders 200] [--shots 1 5] [--unlabeled 0 20] [--semi soft_kmeans] [--json FILE]

Each folder is an episode of the run's test classes (validation classes where there are none): five classes, 1 or 5 examples and 15
queries of each, with and without 20 further pictures of each without names. The table shows the accuracy over the folders beside
the accuracy of `episodic.evaluate` on the very same episodes, which sees no files. `--keep DIR` leaves the first folder of each row
there, to try the command itself.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from episodic.assemble.load import load_parts
from episodic.assemble.predictor import Predictor
from episodic.assemble.task import load_store
from episodic.config.compose import compose_config
from episodic.data.image import class_folders, pictures_in
from episodic.data.store import ImageStore
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.sampler import EpisodeSampler
from episodic.evaluate.intervals import mean_interval, paired_interval
from episodic.evaluate.scoring import evaluate
from episodic.evaluate.tables import percent, table
from episodic.run.run import Run

WAY, QUERY = 5, 15
HEADER = ["shots", "unlabeled a class", "folders", "accuracy of files %", "of episodic.evaluate %", "difference %"]


def write_folder(place: Path, store: ImageStore, episode: EpisodeIndices) -> dict[str, str]:
    """Write an episode as `shots/<class>/`, `photos/` and `more/`; returns the class of each photo."""
    truth = {}
    names = [store.class_names[c].replace("/", "_") for c in episode.class_ids[0]]
    for i, y in zip(episode.support[0], episode.support_y[0], strict=True):
        save(store, i, place / "shots" / names[y] / f"{i}.png")
    for i, y in zip(episode.query[0], episode.query_y[0], strict=True):
        save(store, i, place / "photos" / f"{i}.png")
        truth[f"{i}.png"] = names[y]
    for i in episode.unlabeled[0]:
        save(store, i, place / "more" / f"{i}.png")
    return truth


def save(store: ImageStore, item: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = store.images[int(item)].numpy()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)


def accuracy_of(place: Path, truth: dict[str, str], run: str, semi: str | None) -> float:
    """The accuracy of `episodic.predict support=shots query=photos [unlabeled=more]`."""
    shown = class_folders(place / "shots")
    names = [name for name, files in shown.items() for _ in files]
    classifier = Predictor(run, semi=semi, precision="auto")
    more = pictures_in(place / "more") if semi else None
    classifier.fit([file for files in shown.values() for file in files], names, more)
    photos = pictures_in(place / "photos")
    return float(np.mean([a.label == truth[p.name] for a, p in zip(classifier.answers(photos), photos, strict=True)]))


def compare(run: str, shot: int, unlabeled: int, semi: str | None, folders: int, keep: Path | None) -> dict[str, Any]:
    """Accuracies of the folders of one row, and those of `evaluate` on the same episodes."""
    cfg = Run(Path(run)).config()
    if semi:
        cfg.semi = compose_config("train", [f"semi={semi}"]).semi
    parts = load_parts(cfg, run)
    store = load_store(parts.dataset, cfg.task, "test")
    sampler = EpisodeSampler(store.labels.numpy(), WAY, shot, QUERY, unlabeled, episodes=folders, seed=1)
    whole = evaluate(parts.learner, store, sampler, parts.normalize, parts.hardware)
    files = []
    for i in tqdm(range(folders), desc=f"{shot} shots, {unlabeled} unlabeled", leave=False, disable=None):
        with tempfile.TemporaryDirectory() as place:
            truth = write_folder(Path(place), store, sampler[i])
            if keep and i == 0:
                shutil.copytree(place, keep / f"{shot}-shot-{unlabeled}-unlabeled", dirs_exist_ok=True)
            files.append(accuracy_of(Path(place), truth, run, semi))
    return {
        "shots": shot,
        "unlabeled": unlabeled,
        "semi": semi,
        "files": files,
        "evaluation": whole.accuracies.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run=<dir>", type=lambda text: text.removeprefix("run="))
    parser.add_argument("--folders", type=int, default=200)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--unlabeled", type=int, nargs="+", default=[0, 20])
    parser.add_argument("--semi", default="soft_kmeans", help="the wrapper that uses the pictures without names")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows, lines = [], []
    for shot in args.shots:
        for unlabeled in args.unlabeled:
            semi = args.semi if unlabeled else None
            row = compare(args.run, shot, unlabeled, semi, args.folders, args.keep)
            a, b = np.array(row["files"]), np.array(row["evaluation"])
            intervals = mean_interval(a), mean_interval(b), paired_interval(a, b)
            rows.append(row)
            how = f"{unlabeled} ({semi})" if semi else "0"
            lines.append([str(shot), how, str(args.folders), *map(percent, intervals)])
    print(table(HEADER, lines))
    if args.json:
        args.json.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
