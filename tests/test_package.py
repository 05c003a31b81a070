"""The contents page of the package, what it ships, and `episodic.load`."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import episodic
from episodic.assemble.load import load
from episodic.config.compose import ConfigError
from episodic.learners.matching import Matching
from episodic.run.checkpoint import CheckpointError
from tests.command import run_command

ROOT = Path(__file__).parent.parent
TINY = ["task=glyphs_5w1s", "task.dataset.drawings=8", "task.n_query=3", "task.train.n_way=5", "task.train.n_query=3"]
TINY += [
    "task.image_size=16",
    "backbone.widths=[4,4,4,4]",
    "trainer.steps=3",
    "trainer.validate_every=2",
    "trainer.save_every=1",
]
TINY += ["trainer.validation_episodes=5", "episodes=5", "device=cpu", "precision=fp32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps, whose best checkpoint is not its last."""
    place = tmp_path_factory.mktemp("place")
    options = [*TINY, "run=runs/tiny", "learner=matching"]
    code, _, said = run_command("train", *options, cwd=place, environment={"EPISODIC_CACHE": str(place / "cache")})
    assert code == 0, said
    return place / "runs" / "tiny"


def task():
    items = torch.randn(2, 7, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return episodic.Task(items[:, :3], torch.tensor([[0, 1, 2]] * 2), items[:, 3:], 3)


def test_the_contents_page_is_complete():
    assert set(episodic.__all__) == {
        "EpisodeSampler", "EpisodeIndices", "EpisodeCollate", "IncrementalEpisodes", "Task", "Episode", "Prediction",
        "FewShotClassifier", "load", "__version__",
    }  # fmt: skip
    assert episodic.__all__ == sorted(episodic.__all__)
    for name in episodic.__all__:
        assert name in dir(episodic)
        assert getattr(episodic, name) is not None
    names = {}
    exec("from episodic import *", names)
    assert set(episodic.__all__) <= names.keys()


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'FewShotClasifier'"):
        _ = episodic.FewShotClasifier


def test_importing_the_page_loads_neither_hydra_nor_scikit_learn():
    code = "import sys, episodic; dir(episodic); print(sorted({'hydra', 'omegaconf', 'sklearn', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_says_that_it_is_typed_and_has_one_version():
    package = Path(episodic.__file__).parent
    assert (package / "py.typed").read_text() == ""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["episodic"]  # with all files inside
    assert project["project"]["version"] == episodic.__version__


def test_load_gives_the_learner_of_the_best_checkpoint_in_eval_mode(run):
    learner = episodic.load(run, device="cpu")
    assert type(learner).__name__ == "Matching"
    assert not any(module.training for module in learner.modules())
    assert {parameter.device.type for parameter in learner.parameters()} == {"cpu"}
    kept = episodic.assemble.load.Run(run).weights()
    assert all(torch.equal(value, kept[name]) for name, value in learner.state_dict().items())
    first, second = learner(task()).logits, episodic.load(str(run), "cpu")(task()).logits
    assert first.shape == (2, 4, 3)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_load_prefers_the_best_checkpoint_and_does_with_the_last(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    for file in copy.glob("last*/model.safetensors"):
        file.write_bytes(b"damaged")
    best = load(copy, "cpu")
    assert capsys.readouterr().out == ""  # the last one was not even read
    for folder in [*copy.glob("best*"), *copy.glob("last*")]:
        shutil.rmtree(folder)
    shutil.copytree(run / "last", copy / "last")
    last = load(copy, "cpu")
    assert best.state_dict().keys() == last.state_dict().keys()
    assert last(task()).logits.isfinite().all()


def test_load_says_what_is_no_run(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run: there is no such folder\. python -m episodic.train"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no run: it has no config.yaml"):
        load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"is a file, and a run is a folder"):
        load(tmp_path / "file")
    for text, reason in (
        ("a: [", "cannot be read"),
        ("a: 1", "has no augment, backbone"),
        ("[1]", "it holds no mapping"),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=reason):
            load(tmp_path)
    shutil.copy(run / "config.yaml", tmp_path)
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load(tmp_path, "cpu")
    with pytest.raises(ValueError, match="device must be"):
        load(run, "abacus")


def test_load_builds_nothing_of_other_packages_whatever_the_run_says(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    cfg = OmegaConf.load(copy / "config.yaml")
    cfg.learner = {"_target_": "tests.test_package.Stranger"}
    cfg.allow_any_target = True
    OmegaConf.save(cfg, copy / "config.yaml")
    with pytest.raises(ConfigError, match=r"wants to build tests\.test_package\.Stranger"):
        load(copy, "cpu")
    assert isinstance(load(copy, "cpu", allow_any_target=True), Stranger)


class Stranger(Matching):
    """A learner of another package."""
