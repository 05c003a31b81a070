"""The command end to end on small pictures: what it prints, what it writes, and fifty ways to use it wrongly."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from episodic.assemble.classifier import FewShotClassifier
from tests.assemble.small import small_run
from tests.command import run_command

RANDOM = np.random.default_rng(0)


def pictures(folder: Path, n: int, tone: int) -> list[Path]:
    folder.mkdir(parents=True)
    for i in range(n):
        pixels = RANDOM.normal(tone, 15, size=(20, 20)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three classes that differ in their gray, a run of few weights, and all that can be wrong with files."""
    folder = tmp_path_factory.mktemp("place")
    for name, tone in (("dark", 40), ("gray", 128), ("bright", 220)):
        pictures(folder / "shots" / name, 3, tone)
        pictures(folder / "one" / name, 1, tone)
        pictures(folder / "photos" / name, 4, tone)
        pictures(folder / "more" / name, 2, tone)
    pictures(folder / "single" / "dark", 2, 40)
    pictures(folder / "loose", 2, 40)
    for name in ("empty", "emptyclass/a", "text", "ruined/a", "ruined/b"):
        (folder / name).mkdir(parents=True)
    for name in ("text/a.png", "ruined/a/1.png", "ruined/b/1.png", "photos/broken.png", "shots/gray/broken.jpg"):
        (folder / name).write_text("no picture")
    (folder / "foreign.safetensors").write_text("foreign")
    trained = small_run(folder / "trained")
    features = RANDOM.normal(size=(4, 3))
    FewShotClassifier(device="cpu").fit(features, [1, 1, 2, 2]).save(folder / "features.safetensors")
    FewShotClassifier(trained, device="cpu").fit(
        [folder / "one" / name / "0.png" for name in ("dark", "gray")], ["dark", "gray"]
    ).save(folder / "fitted.safetensors")
    return folder


@pytest.fixture
def predict(place, monkeypatch):
    """`predict(options) -> (exit code, what was printed)`, in `place`."""
    monkeypatch.chdir(place)

    def called(*options):
        code, out, err = run_command("predict", "device=cpu", *options, cwd=place)
        return code, out + err

    return called


def test_the_table_lines_up_and_out_says_the_same(predict, place):
    code, printed = predict("support=shots", "query=photos", "run=trained", "out=answers.json", "abstain=0.9")
    assert code == 0, printed
    lines = printed.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("file "))
    starts = [lines[header].index(word) for word in ("file", "class", "probability", "nearest")]
    records = json.loads((place / "answers.json").read_text())
    answered = [record for record in records if "error" not in record]
    assert [r["file"] for r in records] == sorted(r["file"] for r in records)
    assert len(answered) == 12
    assert records[[r["file"] for r in records].index("photos/broken.png")]["error"] == "it is not an image"
    for line, record in zip(lines[header + 2 :], answered, strict=False):
        cells = [
            line[a:b].strip() for a, b in zip(starts, [*starts[1:], starts[3] + len(record["nearest"])], strict=True)
        ]
        assert cells == [record["file"], record["class"], f"{record['probability']:.3f}", record["nearest"]]
        assert line.endswith("unsure") == record["abstain"] == (record["probability"] < 0.9)
        assert record["class"] == Path(record["file"]).parent.name
    assert printed.count("1 picture could not be read") == 2
    assert "  photos/broken.png: it is not an image" in printed
    assert "  shots/gray/broken.jpg: it is not an image" in printed


def test_answers_are_those_of_the_classifier(predict, place):
    options = ["support=shots", "query=photos", "run=trained", "unlabeled=more", "semi=soft_kmeans", "out=answers.csv"]
    code, printed = predict(*options, "semi.soft_kmeans.steps=2", "learner.temperature=2.0")
    assert code == 0, printed
    shots = [p for p in sorted((place / "shots").rglob("*.png"))]
    classifier = FewShotClassifier(
        "trained", learner="prototypical", semi="soft_kmeans",
        options=("semi.soft_kmeans.steps=2", "learner.temperature=2.0"), device="cpu",
    )  # fmt: skip
    classifier.fit(shots, [p.parent.name for p in shots], sorted((place / "more").rglob("*.png")))
    with open(place / "answers.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["error"]]
    assert len(rows) == 12
    for row, answer in zip(rows, classifier.answers([row["file"] for row in rows]), strict=True):
        assert float(row["probability"]) == pytest.approx(answer.probability, abs=1e-4)
        assert (row["class"], row["abstain"]) == (answer.label, "False")
        assert place / row["nearest"] == shots[answer.nearest]


def test_files_that_are_no_pictures_by_their_names_are_told(predict, place):
    shutil.copytree(place / "photos" / "dark", place / "mixed")
    for name in ("notes.txt", "IMG_1.heic", ".hidden"):
        (place / "mixed" / name).write_text("x")
    code, printed = predict("support=one", "query=mixed", "run=trained")
    assert code == 0, printed
    assert "Note: 1 left out of mixed, whose names are not those of pictures: notes.txt." in printed
    assert "  mixed/IMG_1.heic: Pillow cannot read HEIC: convert it to JPEG" in printed


def test_folders_may_have_any_names(predict, place):
    name = "a, b/Tom's [x]=y {1} #2 (é) & $5"
    shutil.copytree(place / "one", place / name / "shots")
    shutil.copytree(place / "photos" / "dark", place / name / "photos")
    code, printed = predict(f"support={name}/shots", f"query={name}/photos", "run=trained", f"out={name}/out.json")
    assert code == 0, printed
    assert len(json.loads((place / name / "out.json").read_text())) == 4


def test_a_wrapper_goes_around_that_of_the_run(predict, place):
    options = ["support=shots", "query=photos", "run=trained", "unlabeled=more"]
    for semi, out in (("soft_kmeans", "alone.json"), ("[saved,soft_kmeans]", "around.json")):
        code, printed = predict(*options, f"semi={semi}", f"out={out}")
        assert code == 0, printed
    assert (place / "alone.json").read_text() == (place / "around.json").read_text()  # the run has none of its own


def test_a_saved_file_answers_alike_and_takes_new_examples(predict, place):
    first = predict(
        "support=shots", "query=photos", "run=trained", "save=kept.safetensors", "out=1.json", "abstain=auto"
    )
    second = predict("query=photos", "model=kept.safetensors", "out=2.json")
    assert (first[0], second[0]) == (0, 0), first[1] + second[1]
    assert (place / "1.json").read_text() == (place / "2.json").read_text()
    code, printed = predict("support=one", "query=photos/dark/0.png", "model=kept.safetensors", "abstain=0")
    assert code == 0
    assert "one/dark/0.png" in printed


def test_random_weights_and_turned_gray_values_are_warned_of(predict, place):
    small = ["task.image_size=16", "task.channels=1"]
    code, printed = predict("support=one", "query=photos/dark", "backbone=conv4", *small)
    assert code == 0, printed
    assert printed.startswith("Warning: the backbone's weights are random")
    assert "Note" not in printed
    turned = place / "turned"
    for path in (place / "one").rglob("*.png"):  # white but for a little, where the model knows black but for a little
        (turned / path.parent.name).mkdir(parents=True)
        Image.fromarray(np.full((16, 16), 250 - RANDOM.integers(9), dtype=np.uint8)).save(
            turned / path.parent.name / "0.png"
        )
    bright = ["task=omniglot_5w1s", "task.image_size=16"]
    options = ["support=turned", "query=turned/dark", "backbone=conv4", *bright]
    assert "invert=true turns them around" in predict(*options)[1]
    assert "turns them around" not in predict(*options, "invert=true")[1]


@pytest.mark.parametrize(
    "options",
    [
        ["abstain=auto", "max_error=0.3"],
        ["semi=label_propagation", "semi.label_propagation.transductive=true"],
        ["semi=supervised"],
        ["task.dataset.resize=squash"],
    ],
)
def test_options_that_change_answers_are_taken(predict, options):
    code, printed = predict("support=shots", "query=photos/dark", "run=trained", *options)
    assert code == 0, printed


def test_a_seed_counts_where_weights_are_drawn(predict, place):
    small = ["task.image_size=16", "task.channels=1", "backbone=conv4", "support=one", "query=photos/gray"]
    for seed, out in ((None, "none.json"), (0, "0.json"), (1, "1.json")):
        code, printed = predict(*small, f"out={out}", *([] if seed is None else [f"seed={seed}"]))
        assert code == 0, printed
    none, zero, one = ((place / name).read_text() for name in ("none.json", "0.json", "1.json"))
    assert none == zero != one


def test_the_command_is_a_module_that_runs(place):
    """A real process, as a user starts it."""
    command = [
        sys.executable,
        "-m",
        "episodic.predict",
        "support=shots",
        "query=photos/dark",
        "run=trained",
        "device=cpu",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=place, env=environment)
    assert done.returncode == 0, done.stderr
    assert "photos/dark/0.png" in done.stdout


GOOD = {"support": "shots", "query": "photos", "run": "trained"}
BAD = [
    ({"run": None}, "which model? run=<dir> that episodic.train made, model=<file> that save= wrote, or backbone=resnet50"),
    ({"run": "gone"}, "gone is no run: there is no such folder"),
    ({"run": "shots"}, "shots is no run: it has no config.yaml"),
    ({"support": None}, "which examples? support=<dir>"),
    ({"query": None}, "which pictures? query="),
    ({"support": "gone"}, "gone is no folder; expected <folder>/<class name>/<picture>"),
    ({"support": "one/dark/0.png"}, "0.png is no folder"),
    ({"support": "empty"}, "empty has no class folders"),
    ({"support": "emptyclass"}, "emptyclass/a has no pictures: add some"),
    ({"support": "loose"}, "loose has pictures that are in no class, e.g. 0.png"),
    ({"support": "single"}, "at least two classes are needed"),
    ({"support": "ruined"}, "no picture of class a can be read: ruined/a/1.png: it is not an image"),
    ({"query": "gone"}, "there is no folder or picture gone"),
    ({"query": "empty"}, "empty has no pictures"),
    ({"query": "text"}, "none of the 1 pictures in text can be read: it is not an image"),
    ({"query": "foreign.safetensors"}, "none of the 1 pictures"),
    ({"unlabeled": "gone"}, "there is no folder or picture gone"),
    ({"unlabeled": "more"}, "nothing uses the unlabeled items: choose a wrapper"),
    ({"out": "answers.txt"}, "out must be a file .json or .csv, got answers.txt"),
    ({"out": "gone/answers.json"}, "cannot be written: it must be a file in a folder that is there"),
    ({"save": "kept.pt"}, "save must be a file .safetensors, got kept.pt"),
    ({"abstain": "often"}, "abstain must be a number, auto or null, got 'often'"),
    ({"abstain": "1.2"}, "abstain must be a number, at least 0 and at most 1"),
    ({"abstain": "auto", "support": "one"}, "each class has one only: give a number, abstain=0.6, or more examples"),
    ({"abstain": "auto", "max_error": "-1"}, "max_error must be a number, at least 0 and below 1, a share"),
    ({"semi": "soft_means"}, "unknown semi=soft_means. Did you mean 'soft_kmeans'?"),
    ({"semi": "masked_soft_kmeans"}, "has no weights for mask.0.bias"),
    ({"qury": "photos"}, "unknown option 'qury'. Did you mean 'query'?"),
    ({"learner.heat": "2"}, "unknown option 'learner.heat'"),
    ({"backbone": "resnet50"}, "give one of run=, backbone= and model=, not run and backbone"),
    ({"run": None, "backbone": "resnet5"}, "unknown backbone=resnet5"),
    ({"run": None, "backbone": "resnet50", "backbone.weights": "gone.pth"}, "there is no file gone.pth"),
    ({"run": None, "backbone": "conv4", "learner": "maml"}, "has weights that only training gives"),
    ({"run": None, "model": "gone.safetensors"}, "gone.safetensors"),
    ({"run": None, "model": "foreign.safetensors", "support": None}, "is no whole file that FewShotClassifier.save wrote"),
    ({"run": None, "model": "features.safetensors", "support": None}, "compares features, not pictures"),
    ({"run": None, "model": "fitted.safetensors", "semi": "soft_kmeans"}, "has a semi of its own: leave semi out"),
    ({"run": None, "model": "fitted.safetensors", "support": None, "abstain": "0.5"}, "abstain= goes with support="),
    ({"run": None, "model": "fitted.safetensors", "support": None, "invert": "true"}, "invert= goes with support="),
    ({"run": None, "model": "fitted.safetensors", "support": None, "unlabeled": "more"}, "unlabeled= goes with support="),
    ({"device": "tpu9"}, "device must be auto, cpu"),
    ({"precision": "fp8"}, "precision must be"),
    ({"semi": "soft_kmeans"}, "semi=soft_kmeans would have no effect here: SoftKMeans uses further pictures"),
    ({"max_error": "0.2"}, "max_error would have no effect here: it goes with abstain=auto"),
    ({"max_error": "0.2", "abstain": "0.5"}, "max_error would have no effect here"),
    ({"seed": "1"}, "seed would have no effect here: all weights come from run=trained"),
    ({"run": None, "model": "fitted.safetensors", "seed": "1"}, "seed would have no effect here: all weights come from model="),
    ({"augment": "crop_flip"}, "augment would have no effect here: only training changes pictures at random"),
    ({"data_dir": "photos"}, "data_dir would have no effect here: no data set is read"),
    ({"trainer": "dml"}, "trainer would have no effect here: nothing is trained"),
    ({"task.n_way": "3"}, "task.n_way would have no effect here: no episodes are drawn"),
    ({"task.train.n_way": "3"}, "task.train.n_way would have no effect here: no episodes are drawn"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda value: str(value)[:60])
def test_what_cannot_be_used_is_answered_in_a_line(predict, changes, message):
    options = [f"{name}={value}" for name, value in {**GOOD, **changes}.items() if value is not None]
    code, printed = predict(*options)
    assert code == 2, printed
    assert message in printed
    assert "Traceback" not in printed
    said = [line for line in printed.splitlines() if line.startswith("episodic.predict: ")]
    assert len(said) == 1
