"""Every option composes, every YAML says what its signature says, and mistakes are answered with names."""

import inspect
import os
import re
import subprocess
import sys

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from episodic import config
from episodic.config.compose import ConfigError, compose_config, conf_dir
from episodic.config.instantiate import make
from episodic.config.overrides import check_overrides

GROUPS = sorted(p.name for p in conf_dir().iterdir() if p.is_dir())
OPTIONS = [(g, p.stem) for g in GROUPS for p in sorted((conf_dir() / g).glob("[!_]*.yaml"))]
# Built objects, and what only they know, that the code passes to a constructor; and what it takes out of the configuration.
FILLED_IN = {"backbone", "learner", "params", "dim", "label_swap", "n_rows", "edges"}
WRAPPED = {"memory": {"loss"}}
TAKEN_OUT = {"loss": {"weight", "rate"}, "sse": {"edges"}}


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o[0] != "dataset"])
def test_every_option_composes(group, option):
    path = ["task.dataset.path=somewhere"] if option.startswith("folder") else []
    cfg = compose_config("train", [f"{group}={option}", *path])
    assert OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def loaded(group, option):
    """The option's own YAML over those of its group that it begins with."""
    node = OmegaConf.load(conf_dir() / group / f"{option}.yaml")
    begins = [name for name in node.get("defaults", []) if isinstance(name, str) and not name.startswith("_")]
    return OmegaConf.merge(*(loaded(group, name) for name in begins), node) if begins else node


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o[0] not in ("task", "experiment")])
def test_yaml_equals_signature(group, option):
    node = loaded(group, option)
    target = get_object(node["_target_"])
    assert target.__module__.split(".")[0] in ("episodic", "torch")
    takes = inspect.signature(target).parameters
    says = {k for k in node if k not in ("defaults", "_target_", "_partial_")} - TAKEN_OUT.get(group, set())
    if target.__module__.startswith("episodic"):
        assert says == set(takes) - FILLED_IN - WRAPPED.get(group, set())
        for key in says:
            default = takes[key].default
            value = OmegaConf.to_container(node)[key]
            free = isinstance(value, str) and ("${" in value or value == "???")
            chosen = group == "augment" or default is inspect.Parameter.empty
            assert free or chosen or value == (list(default) if isinstance(default, tuple) else default), key
    else:
        assert says <= set(takes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lerner=matching"], "unknown option 'lerner'. Did you mean 'learner'[?]\nOptions: .*backbone.*task"),
        (["task=minimagenet"], "unknown task=minimagenet. Did you mean 'miniimagenet_5w.s'[?]\nValid: .*omniglot_5w1s"),
        (["trainer.step=3"], "unknown option 'trainer.step'. Did you mean 'steps'[?]\nOptions: .*validate_every"),
        (["task.n_wai=3"], "unknown option 'task.n_wai'. Did you mean 'n_way'[?]"),
        (["learner=matching", "learner.temperature=2"], "unknown option 'learner.temperature'.*\nOptions: .*scale"),
        (["experiment=nothing"], "unknown experiment=nothing.\nValid: .*protonet_omniglot"),
        (["justaword"], "cannot read 'justaword'; options are written as name=value"),
        (["seed=[1"], r"cannot read 'seed=\[1'"),
    ],
)
def test_a_mistyped_option_is_answered_with_the_valid_names(overrides, message):
    with pytest.raises(ConfigError, match=f"(?s)^{message}") as caught:
        check_overrides("train", overrides)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1,2,3"],
        ["task.n_way=[5,10]"],
        ["+note=x"],
        ["learner=matching", "learner.scale=3"],
        ["task=omniglot_5w1s,glyphs_5w1s"],
    ],
)
def test_what_is_right_passes(overrides):
    check_overrides("train", overrides)
    assert compose_config("train", [o for o in overrides if "," not in o or "[" in o])


def test_a_choice_on_the_command_line_beats_the_task_and_the_experiment():
    assert compose_config("train", ["task=miniimagenet_5w1s"]).augment.flip
    assert not compose_config("train", ["task=miniimagenet_5w1s", "augment=none"]).augment.flip
    assert compose_config("train", ["experiment=protonet_omniglot", "trainer.steps=7"]).trainer.steps == 7


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "torch.os.system",  # a path into torch, a function of another place
        "torch.load",  # unpickles
        "torch.hub.load",
        "torchvision.datasets.utils.download_url",
        "episodic.config.compose.os.system",
        "episodic.nothing.Here",
        "numpy.zeros",
    ],
)
def test_only_known_packages_are_built(target):
    with pytest.raises(ConfigError, match=r"no such target|may be built"):
        make(DictConfig({"_target_": target}))
    with pytest.raises(ConfigError, match=r"no such target|may be built"):
        make(DictConfig({"_target_": "torch.nn.Identity", "inner": [{"x": {"_target_": target}}]}))


def test_what_is_hidden_behind_an_interpolation_is_checked_as_well():
    cfg = DictConfig({"evil": {"_target_": "os.system"}, "node": {"_target_": "torch.nn.Identity", "inner": "${evil}"}})
    with pytest.raises(ConfigError, match=r"wants to call os\.system"):
        make(cfg.node)


def test_models_of_torchvision_can_be_built():
    assert make(DictConfig({"_target_": "torchvision.models.squeezenet1_1", "num_classes": 2})).num_classes == 2


def test_the_user_can_opt_in():
    assert make(DictConfig({"_target_": "builtins.dict", "a": 1}), allow_any_target=True) == {"a": 1}


def test_an_error_of_a_constructor_reaches_the_user_as_it_is():
    with pytest.raises(ValueError, match=r"^every must be at least 1, got 0$"):
        make(DictConfig({"_target_": "episodic.train.schedule.step", "every": 0}))
    with pytest.raises(ConfigError, match="unexpected keyword argument 'evry'"):
        make(DictConfig({"_target_": "episodic.train.schedule.step", "evry": 1}))


def run(*arguments, **environment):
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def test_mistakes_on_the_command_line_end_in_two_lines_without_traceback():
    done = run("episodic.train", "task=minimagenet")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2
    assert done.stderr.startswith("episodic.train: unknown task=minimagenet. Did you mean 'miniimagenet_5w")


def test_help_and_cfg_work():
    assert "protonet_omniglot" in run("episodic.train", "--help").stdout
    shown = run("episodic.train", "--cfg", "job", "learner=matching").stdout
    assert re.search(r"scale: 30\.0", shown)


def test_evaluate_asks_for_a_run(tmp_path):
    assert "which run?" in run("episodic.evaluate").stderr
    assert "is not a run: it has no config.yaml" in run("episodic.evaluate", f"run={tmp_path}").stderr


def test_choices_of_a_users_own_folder_are_known(tmp_path):
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "own.yaml").write_text("_target_: torch.nn.Identity\nsize: 1\n")
    search = f"hydra.searchpath=[file://{tmp_path}]"
    check_overrides("train", [search, "learner=own", "learner.size=2"])
    with pytest.raises(ConfigError, match=r"unknown learner=owm\. Did you mean 'own'"):
        check_overrides("train", [search, "learner=owm"])
    with pytest.raises(ConfigError, match=r"unknown option 'learner\.sise'"):
        check_overrides("train", [search, "learner=own", "learner.sise=2"])
    with pytest.raises(ConfigError, match="unknown learner=own"):
        check_overrides("train", ["learner=own"])


@pytest.mark.parametrize(
    "path",
    [
        *("plain/x", "Photos (1)", "été", "Tom's", 'a"b', "a&b", "c#1", "[x]", "x=y", "a, b", "{a}", "a:b", "$x", "12"),
        *("true", "C:\\x\\", "it\\'s", "a\\\\'b\\", "'"),
    ],
)
def test_paths_may_have_any_names(path):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(config._quoted(config.bare(f"query={path}")))
    assert (parsed.key_or_group, parsed.value()) == ("query", path)


def test_paths_are_taken_as_meant(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert config.bare("run=~/runs/a") == "run=/home/me/runs/a"
    assert config.bare("run='my runs/a'") == "run=my runs/a"
    assert config.bare(r"run='Tom\'s'") == "run=Tom's"
    for other in ("run=null", "seed=~/x", "--help", "episodes=5"):
        assert config._quoted(config.bare(other)) == other
