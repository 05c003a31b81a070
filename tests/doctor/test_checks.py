"""The data doctor on small folders of pictures: faults that were planted are found, and nothing in a clean folder."""

import csv
import dataclasses
import functools
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from episodic.config.compose import ConfigError, compose_config
from episodic.config.paths import prepared
from episodic.data import duplicates
from episodic.data.dataset import SPLITS
from episodic.data.labels.folds import restricted
from episodic.data.store import digest
from episodic.doctor.__main__ import main, with_data
from episodic.doctor.checks import check_duplicates, check_names, class_needs
from episodic.episodes.incremental import IncrementalEpisodes
from episodic.episodes.sampler import EpisodeSampler
from tests.conftest import random_store

SMALL = ["task.n_way=3", "task.n_query=3", "task.train.n_way=3", "task.train.n_query=3", "task.image_size=32",
         "task.dataset.image_size=32"]  # fmt: skip


def picture(seed):
    """A smooth random color image of 40 x 40."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, size=(14, 14, 3)).astype(np.uint8))
    return coarse.resize((40, 40), Image.Resampling.BICUBIC)


@pytest.fixture
def birds(tmp_path, monkeypatch):
    """Three splits of four classes with six different pictures each, in a folder whose name Hydra would not read unquoted."""
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "my birds, {1}"
    for i in range(72):
        split, c = SPLITS[i // 24], i // 6 % 4
        target = folder / split / f"{split}{c}"
        target.mkdir(parents=True, exist_ok=True)
        picture(i).save(target / f"{i % 6}.png")
    return folder


def examined(folder, *options, code=0):
    """The findings that are not ok, by section: `[(mark, text, items)]`."""
    out = folder.parent / "report.json"
    cfg = compose_config("doctor", prepared([f"data={folder}", *SMALL, f"out={out}", *options], with_data))
    if code:
        with pytest.raises(SystemExit) as stop:
            main(cfg)
        assert stop.value.code == code
    else:
        main(cfg)
    findings = json.loads(out.read_text())["findings"]
    assert any(f["mark"] == "error" for f in findings) == (code == 1)
    bad = [f for f in findings if f["mark"] != "ok"]
    return {
        s: [(f["mark"], f["text"], f["items"]) for f in bad if f["section"] == s] for s in {f["section"] for f in bad}
    }


def test_nothing_is_found_in_a_clean_folder(birds, capsys):
    assert examined(birds) == {}
    output = capsys.readouterr().out
    assert output.splitlines()[2].split() == ["train", "24", "4", "-", "6", "/", "6", "/", "6", "all", "alike"]
    assert output.endswith("\nerror: 0, warning: 0, ok: 12\n")


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


def test_what_the_data_set_refuses_is_an_error_said_once(birds):
    (birds / "val" / "val0").rename(birds / "val" / "train0")
    [(mark, text, _)] = examined(birds, code=1)["files"]
    assert mark == "error"
    assert "train and val share 1 classes, e.g. train0" in text


def test_a_split_that_another_stands_in_for_is_said_and_not_taken_for_a_leak(birds):
    for file in sorted((birds / "val").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    assert examined(birds).keys() == {"files"}
    (mark, text, _), (_, empty, _) = examined(birds)["files"]
    assert empty == "folders with nothing in them: 1"
    assert mark == "warning"
    assert text.startswith("val: train classes stand in for it, since ")
    assert "has no val images" in text


def test_what_is_no_image_by_its_name_is_said(birds):
    for name in ("train/train0/notes.txt", "val/photo.xyz", "classes.csv"):
        (birds / name).write_text("x")
    (birds / "test" / "emptyclass").mkdir()
    (_, empty, folders), (mark, text, others) = examined(birds)["files"]
    assert (mark, empty) == ("warning", "folders with nothing in them: 1")
    assert folders == [{"below the folder": "test/emptyclass"}]
    assert text == "files left out, by their names no images: 2"
    assert [item["below the folder"] for item in others] == ["train/train0/notes.txt", "val/photo.xyz"]


def saved_run(folder, data, **more):
    """A run as its folder has it, trained on `data`."""
    folder.mkdir()
    cfg = compose_config("train", ["task=folder_5w1s", f"task.dataset.path='{data}'"])
    for key, value in more.items():
        OmegaConf.update(cfg, key, value, merge=False)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    return folder


def test_classes_that_a_run_was_trained_on_are_found(birds, tmp_path):
    assert examined(birds, f"run={saved_run(tmp_path / 'clean', birds)}") == {}
    other = tmp_path / "other"
    for split in SPLITS:
        for name in ("test1", "owl") if split == "train" else (f"{split}9",):
            (other / split / name).mkdir(parents=True)
            picture(99).save(other / split / name / "0.png")
    leaky = saved_run(tmp_path / "leaky", other)
    [(mark, text, items)] = examined(birds, f"run={leaky}", code=1)["run"]
    assert mark == "error"
    assert "was trained on 2 classes; of the 4 test classes, 1 are among them" in text
    assert [(item["split"], item["class"]) for item in items] == [("test", "test1")]
    after = saved_run(tmp_path / "after", birds, init_from=str(leaky))
    assert [items for _, _, items in examined(birds, f"run={after}", code=1)["run"]] == [items]
    lost = saved_run(tmp_path / "lost", birds, init_from=str(tmp_path / "gone"))
    [(mark, text, _)] = examined(birds, f"run={lost}")["run"]
    assert (mark, "gone is not a run" in text) == ("warning", True)
    network = {"_target_": "episodic.core.backbones.pretrained.Pretrained", "name": "resnet18", "weights": "default"}
    pretrained = saved_run(tmp_path / "pretrained", birds, backbone=network)
    [(mark, text, _)] = examined(birds, f"run={pretrained}")["run"]
    assert (mark, "weights=default" in text) == ("warning", True)


def test_a_run_whose_data_changed_or_are_gone_is_compared_by_its_hash(birds, tmp_path):
    metrics = json.dumps({"train/class_hash": digest(*(f"test{i}" for i in range(4)))})
    for name, data, said in (
        ("changed", birds, "the data have changed since"),
        ("gone", "/gone", "/gone is no folder"),
    ):
        run = saved_run(tmp_path / name, data)
        (run / "metrics.json").write_text(metrics)
        (_, known, _), (mark, text, _) = examined(birds, f"run={run}", code=1)["run"]
        assert said in known
        assert mark == "error"
        assert "trained on the very classes of test" in text


def test_the_list_as_csv_has_a_line_for_each_image(birds, tmp_path):
    for i in range(3):
        (birds / "train" / "train0" / f"{i}.png").write_text("no picture, but text")
    cfg = compose_config("doctor", prepared([f"data={birds}", *SMALL, f"out={tmp_path / 'report.csv'}"], with_data))
    with pytest.raises(SystemExit):
        main(cfg)
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    bad = [row for row in rows if row["mark"] == "error" and row["section"] == "files"]
    assert [row["image"] for row in bad] == [f"train/train0/{i}.png" for i in range(3)]
    assert {row["section"] for row in rows} == {"files", "classes", "episodes", "duplicates"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["near=17"], "near must be a number of bits in 0..16, or null, got 17"),
        (["near=many"], "near must be a number of bits"),
        (["out=report.txt"], "out must be a file .json or .csv in a folder that is there, got report.txt"),
        (["out=nowhere/report.csv"], "in a folder that is there, got nowhere/report.csv"),
        (["run=nowhere"], "nowhere is not a run"),
        (["task.dataset.corrupt=hide"], "task.dataset.corrupt must be error or skip, got 'hide'"),
        (["task.n_shot=few"], "task.n_shot must be an integer or a range"),
        (["task.within_super_class=true"], "has no super-classes"),
    ],
)
def test_bad_options_are_refused(birds, options, message):
    with pytest.raises((ConfigError, FileNotFoundError), match=message):
        main(compose_config("doctor", prepared([f"data={birds}", *SMALL, *options], with_data)))


def test_data_stands_for_the_task_of_a_folder():
    assert with_data(["task=omniglot_5w1s", "near=3"]) == ["task=omniglot_5w1s", "near=3"]
    assert with_data(["data=a b", "task=folder_5w5s"])[-1] == "task.dataset.path=a b"
    cfg = compose_config("doctor", prepared(["data=it's {1}, a=b"], with_data))
    assert cfg.task.dataset.path == cfg.data == "it's {1}, a=b"
    for wrong in ([], ["near=3"], ["data="], ["data=x", "task=omniglot_5w1s"]):
        with pytest.raises(ConfigError, match="data=<dir>"):
            with_data(wrong)


def test_the_exit_code_tells_faulty_data_and_bad_input_apart(birds):
    (birds / "test" / "test0" / "0.png").write_text("")
    for arguments, code, said in (
        ([f"data={birds}", *SMALL], 1, r"\n  test +test/test0/0\.png +the file is empty"),
        (["data=nowhere"], 2, r"^episodic\.doctor: .*nowhere is no folder"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "episodic.doctor", *arguments], capture_output=True, text=True, timeout=200,
            cwd=birds.parent, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == code
        assert re.search(said, done.stdout if code == 1 else done.stderr)
        assert "Traceback" not in done.stderr
