"""Use images of your own, as a folder and as a class of your own.
Both work from Python and from the command line.

A folder `<class>/<image>` is task=folder_5w1s; without an argument one is made, of drawings of 60 letters. A network trains on it
in 100 episodes; the classes are split at random (give {train,val,test}/<class>/ or tables to split them yourself). Prints the
accuracy on the folder's test classes, and that of the same network on handwritten digits, a data set written in the 20 lines of
`Digits`.

    python own_data_set.py [<folder>]
    python -m episodic.train task=folder_5w1s task.dataset.path=<folder> task.channels=1 task.dataset.channels=1 \\
        task.image_size=28 task.dataset.image_size=28 augment=none
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from episodic.assemble.learner import build_parts
from episodic.assemble.task import build_sampler, load_store
from episodic.config.compose import compose_config
from episodic.data.dataset import AbstractDataset
from episodic.data.sets.glyphs import Glyphs
from episodic.data.store import ImageStore, Listing
from episodic.evaluate.scoring import evaluate
from episodic.evaluate.tables import percent
from episodic.train.fit import fit
from episodic.train.setup import build_procedure


class Digits(AbstractDataset):
    """scikit-learn's 1,797 digits: 0 to 4 to train on, 5 to 9 for test. What it says and draws is cached on disk."""

    name, split_name, corrupt = "digits", "halves", "error"
    channels, image_size, mean, std = 1, 28, (0.449,), (0.226,)

    def listing(self, split: str) -> Listing:
        if split == "val":
            raise FileNotFoundError("the digits have no classes for validation")
        target, first = load_digits().target, {"train": 0, "test": 5}[split]
        rows = [i for i in range(len(target)) if first <= target[i] < first + 5]
        labels, classes = [int(target[i]) - first for i in rows], [str(first + label) for label in range(5)]
        names = [f"{i:04}" for i in rows]
        return Listing(rows, labels, classes, item_names=names, stamp="1")  # change the stamp to have them drawn anew

    def render(self, listing: Listing, out: np.ndarray) -> dict[int, str]:
        images = load_digits().images
        for row, i in enumerate(listing.items):
            image = Image.fromarray((images[i] * 255 / 16).astype(np.uint8))
            out[row] = np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR))[None]
        return {}  # all could be read


def draw_folder(folder: Path) -> None:
    """60 letters, 20 pictures each, as `<letter's name>/<number>.png`."""
    letters = Glyphs().store("test")
    for image, label, name in zip(letters.images[:1200], letters.labels, letters.item_names, strict=False):
        (folder / letters.class_names[label]).mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{name}.png")


def main(folder: str) -> None:
    shape = [f"{of}.{what}" for of in ("task", "task.dataset") for what in ("channels=1", "image_size=28")]
    options = [
        f"task.dataset.path={folder}",
        *shape,
        "augment=none",
        "trainer.steps=100",
        "backbone.widths=[32,32,32,32]",
    ]
    cfg = compose_config("train", ["task=folder_5w1s", "task.train.n_way=20", "task.train.n_query=5", *options])
    parts = build_parts(cfg)
    fit(build_procedure(cfg, parts))

    def score(store: ImageStore) -> str:
        tasks = build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream="test", episodes=600)
        return percent(evaluate(parts.learner, store, tasks, parts.normalize, parts.hardware).interval)

    print(f"the folder's test classes: {score(load_store(parts.dataset, cfg.task, 'test'))} %")
    print(f"digits 5 to 9: {score(Digits().store('test'))} %")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        if not sys.argv[1:]:
            draw_folder(Path(made))
        main(sys.argv[1] if sys.argv[1:] else made)
