"""Faults that were planted in small folders of pictures are found, and classes are too small by the rules of the samplers."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from episodic.data.labels.folds import restricted
from episodic.doctor import duplicates
from episodic.doctor.checks import check_duplicates, check_names, class_needs
from episodic.episodes.incremental import IncrementalEpisodes
from episodic.episodes.sampler import EpisodeSampler
from tests.conftest import random_store
from tests.doctor.examining import examined


def test_files_that_are_no_images_are_all_listed(birds):
    for name in ("train/train1/2.png", "train/train3/0.png", "test/test0/1.png"):
        (birds / name).write_bytes((birds / name).read_bytes()[:60])
    for image in (birds / "val" / "val2").iterdir():
        image.write_text("not a picture")
    found = examined(birds, code=1)
    assert found.keys() == {"files"}
    assert [mark for mark, _, _ in found["files"]] == ["error", "error", "warning", "error"]
    listed = [item["image"] for _, _, items in found["files"] for item in items]
    assert listed == [
        "train/train1/2.png",
        "train/train3/0.png",
        *(f"val/val2/{i}.png" for i in range(6)),
        "-",
        "test/test0/1.png",
    ]
    assert "truncated" in found["files"][0][2][0]["reason"]
    assert found["files"][2][2] == [{"split": "val", "image": "-", "reason": "no image of val2 is left"}]
    skipping = examined(birds, "task.dataset.corrupt=skip")
    assert {mark for mark, _, _ in skipping["files"]} == {"warning"}


def test_what_is_no_image_by_its_name_is_said(birds):
    for name in ("train/train0/notes.txt", "val/photo.xyz", "classes.csv"):
        (birds / name).write_text("x")
    (birds / "test" / "emptyclass").mkdir()
    (_, empty, folders), (mark, text, others) = examined(birds)["files"]
    assert (mark, empty) == ("warning", "folders with nothing in them: 1")
    assert folders == [{"below the folder": "test/emptyclass"}]
    assert text == "files left out because their names are not those of images: 2"
    assert [item["below the folder"] for item in others] == ["train/train0/notes.txt", "val/photo.xyz"]


def test_planted_duplicates_are_found_and_marked_by_where_they_are(birds):
    def plant(source, target, quality=None):
        image = Image.open(birds / source)
        image.save(birds / target, **({"quality": quality, "subsampling": 0} if quality else {}))

    plant("train/train0/0.png", "train/train0/again.png")
    plant("train/train1/1.png", "train/train2/again.png")
    plant("val/val0/3.png", "val/val1/copy.jpg", quality=95)
    inside = examined(birds)["duplicates"]
    assert [mark for mark, _, _ in inside] == ["warning", "warning"]
    plant("train/train3/2.png", "test/test3/leak.png")
    plant("train/train0/5.png", "val/val3/leak.jpg", quality=95)
    Image.new("RGB", (40, 40), "white").save(birds / "val" / "val3" / "blank.png")
    found = examined(birds, code=1)
    assert found.keys() == {"duplicates"}
    identical, copies, flat = found["duplicates"]
    assert identical[0] == copies[0] == "error"
    assert identical[1] == "identical pixels: pairs across splits 1, across classes 1, inside a class 1"
    pairs = [[(item["image"], item["also"]) for item in items] for _, _, items in (identical, copies)]
    assert pairs == [
        [
            ("train/train3/2.png", "test/test3/leak.png"),
            ("train/train1/1.png", "train/train2/again.png"),
            ("train/train0/0.png", "train/train0/again.png"),
        ],
        [("train/train0/5.png", "val/val3/leak.jpg"), ("val/val0/3.png", "val/val1/copy.jpg")],
    ]
    assert (flat[0], flat[2][0]["image"]) == ("warning", "val/val3/blank.png")
    assert [text for _, text, _ in examined(birds, "near=null", code=1)["duplicates"]] == [identical[1], flat[1]]


def test_too_many_alike_images_leave_the_rest_of_the_report(monkeypatch):
    monkeypatch.setattr(duplicates, "near_pairs", functools.partial(duplicates.near_pairs, most=3))
    store = random_store(classes=2, per_class=5, separation=0)
    store.images[1:] = store.images[:1].repeat(9, 1, 1, 1) ^ torch.arange(9, dtype=torch.uint8)[:, None, None, None]
    marks = {finding.text: finding.mark for finding in check_duplicates({"train": store}, 6)}
    assert [mark for text, mark in marks.items() if "more than 3 pairs" in text] == ["warning"]
    assert not any("copies" in text for text in marks)


def test_classes_that_are_too_small_are_named(birds):
    for i in (5, 4, 3):
        (birds / "train" / "train2" / f"{i}.png").unlink()
    (birds / "test" / "test1" / "0.png").unlink()
    found = examined(birds, "task.n_query=5", "task.n_unlabeled=0", code=1)["episodes"]
    assert [(mark, items) for mark, _, items in found] == [
        ("error", [{"split": "train", "class": "train2", "has": "3", "needs": "4"}]),
        ("error", [{"split": "test", "class": "test1", "has": "5", "needs": "6"}]),
    ]
    assert "Ask for fewer, or leave such classes out" in found[0][1]
    dropped = examined(birds, "task.n_query=5", "task.too_small=drop")["episodes"]
    assert [mark for mark, _, _ in dropped] == ["warning", "warning"]
    short = examined(birds, "task.too_small=drop", "task.train.n_way=4", code=1)["episodes"]
    assert "an episode needs 4 classes" in short[0][1]
    assert "leaves 3 of 4 classes" in short[0][1]
    distractors = examined(birds, "task.n_distractors=2", "task.n_unlabeled=1", "task.too_small=drop", code=1)[
        "episodes"
    ]
    assert any("an episode needs 5 classes (n_way=3 + n_distractors=2)" in text for _, text, _ in distractors)


def test_labeled_images_are_counted_apart_in_training_only(birds):
    options = ["task.labeled_fraction=0.5", "task.n_unlabeled=2", "task.n_query=2"]
    assert examined(birds, *options, "task.train.n_query=2") == {}
    [(mark, text, items)] = examined(birds, *options, "task.train.n_query=3", code=1)["episodes"]
    assert mark == "error"
    assert text.startswith("train: 4 of 4 classes have too few")
    assert {(item["has"], item["needs"]) for item in items} == {("3 labeled + 3 unlabeled", "4 labeled + 2 unlabeled")}


def unequal_store(counts):
    """A store with `counts[c]` images of class c, at most 16."""
    return restricted(random_store(classes=len(counts), per_class=16), (np.arange(16) < counts[:, None]).reshape(-1))


@pytest.mark.parametrize("seed", range(20))
def test_classes_are_too_small_by_the_rule_of_the_sampler(seed):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 14, size=9)
    store = unequal_store(counts)
    labels = store.labels
    labeled = random.random(len(labels)) < 0.7 if seed % 2 else None
    shape = {"n_way": 2, "n_shot": 2, "n_query": [1, 3], "n_unlabeled": seed % 3, "n_distractors": 0}
    task = OmegaConf.create({**shape, "imbalanced": seed % 5 == 0, "base_way": 0, "base_query": 0})
    need, has = class_needs(task, task, store, labeled)
    short, present = int(((has < need).any(axis=0) & (counts > 0)).sum()), int((counts > 0).sum())
    settings = {**shape, "imbalanced": task.imbalanced, "labeled": labeled}
    if short:
        with pytest.raises(ValueError, match=f"^{short} of {present} classes have too few items") as refused:
            EpisodeSampler(labels, **settings)
        first = np.flatnonzero((has < need).any(axis=0) & (counts > 0))[0]
        assert f"class {first} has {' + '.join(map(str, has[:, first]))}" in str(refused.value)
    if present - short >= 2:
        assert EpisodeSampler(labels, **settings, too_small="drop").n_classes == present - short


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_base", [5, 9])
def test_classes_are_too_small_by_the_rule_of_incremental_episodes(n_base, seed):
    counts = np.random.default_rng(seed).integers(3, 8 + seed, size=9)
    store = dataclasses.replace(unequal_store(counts), n_base=n_base)
    labels = store.labels
    shape = {"n_way": 2, "n_shot": 1, "n_query": 2 + seed % 2, "n_unlabeled": 0, "n_distractors": 0}
    task = OmegaConf.create({**shape, "imbalanced": False, "base_way": 2, "base_query": 3 - seed % 2})
    need, has = class_needs(task, task, store, None)
    counted = [task.n_way, task.n_shot, task.n_query, task.base_way, task.base_query]
    if (has < need).any():
        with pytest.raises(ValueError, match="classes have too few items"):
            IncrementalEpisodes(labels, n_base, *counted)
    else:
        assert IncrementalEpisodes(labels, n_base, *counted)


def test_names_in_two_splits_or_nearly_so_are_found():
    train, test = random_store(classes=4), random_store(classes=4, split="test")
    train = dataclasses.replace(train, class_names=("wren", "Wren ", "owl", "tit"))
    test = dataclasses.replace(test, class_names=("owl", "TIT", "crow", "jay"))
    both, nearly = check_names({"train": train, "test": test})
    assert (both.mark, [item["class"] for item in both.items]) == ("error", ["owl"])
    assert nearly.mark == "warning"
    assert [(i["split"], i["class"], i["in"], i["also"]) for i in nearly.items] == [
        ("train", "wren", "train", "Wren "),
        ("train", "tit", "test", "TIT"),
    ]
