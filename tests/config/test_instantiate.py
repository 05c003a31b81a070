import re

import pytest
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from episodic.config.compose import ConfigError, conf_dir
from episodic.config.instantiate import arguments_of, check_targets, known_targets, make

SUBPROCESS = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler.SubprocessHandler"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "torch.os.system",  # a path into torch, a function of another place
        "torch.load",  # unpickles
        "torch.hub.load",
        SUBPROCESS,  # a class of torch whose constructor starts a process
        SUBPROCESS.replace("subprocess_handler.Sub", "Sub"),
        "torchvision.datasets.utils.download_url",
        "torchvision.models.squeezenet1_1",
        "episodic.run.files.write_atomically",  # of this package, and no choice
        "episodic.config.compose.os.system",
        "episodic.nothing.Here",
        "numpy.zeros",
        "torch.optim.Adam.step",
        "torch.optim.lr_scheduler.StepLR",
    ],
)
def test_nothing_but_choices_of_the_package_is_built(target):
    with pytest.raises(ConfigError, match=rf"wants to build {re.escape(target)}, which is no choice"):
        make(DictConfig({"_target_": target}))
    with pytest.raises(ConfigError, match=rf"wants to build {re.escape(target)}, which is no choice"):
        make(DictConfig({"_target_": "torch.nn.Identity", "inner": [{"x": {"_target_": target}}]}))


def test_all_that_conf_names_and_all_optimizers_are_known():
    files = [*conf_dir().glob("*/*.yaml")]
    named = {node["_target_"] for node in map(OmegaConf.load, files) if "_target_" in node}
    assert len(named) > 50
    others = known_targets() - named
    assert {"torch.optim.AdamW", "torch.optim.RMSprop"} < others
    assert all(issubclass(get_object(name), torch.optim.Optimizer) for name in others)
    assert isinstance(make(DictConfig({"_target_": "torch.optim.AdamW"}), [torch.ones(1)]), torch.optim.AdamW)


@pytest.mark.parametrize(
    ("node", "refused"),
    [
        ({"learner": {"_target_": "episodic.data.sets.glyphs.Glyphs"}}, "Glyphs, which is no learner"),
        ({"task": {"dataset": {"_target_": "torch.nn.Identity"}}}, "Identity, which is no dataset"),
        ({"loss": {"circle": {"_target_": "episodic.core.distances.snr.SNR"}}}, "SNR, which is no loss"),
        ({"optimizer": {"_target_": "torch.nn.Identity"}}, "Identity, which is no optimizer"),
        (
            {
                "learner": {
                    "_target_": "episodic.learners.prototypical.Prototypical",
                    "distance": {"_target_": "torch.nn.Identity"},
                }
            },
            "Identity, which is no distance",
        ),
    ],
)
def test_each_place_takes_the_choices_of_its_own_group(node, refused):
    with pytest.raises(ConfigError, match=refused):
        check_targets(DictConfig(node))
    check_targets(DictConfig(node), allow_any_target=True)


def test_what_is_hidden_behind_an_interpolation_is_checked_as_well():
    cfg = DictConfig({"evil": {"_target_": "os.system"}, "node": {"_target_": "torch.nn.Identity", "inner": "${evil}"}})
    with pytest.raises(ConfigError, match=r"wants to build os\.system"):
        make(cfg.node)


def test_the_arguments_of_a_target_are_not_asked_of_what_may_not_be_built(tmp_path, monkeypatch):
    (tmp_path / "strange_target.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="no choice"):
        arguments_of(DictConfig({"_target_": "strange_target.Thing"}))
    with pytest.raises(SystemExit, match="imported"):
        arguments_of(DictConfig({"_target_": "strange_target.Thing"}), allow_any_target=True)
    assert arguments_of(DictConfig({"_target_": "episodic.train.schedule.Cosine"})) == {"warmup"}


def test_the_user_can_opt_in():
    assert make(DictConfig({"_target_": "builtins.dict", "a": 1}), allow_any_target=True) == {"a": 1}


def test_an_error_of_a_constructor_reaches_the_user_as_it_is():
    with pytest.raises(ValueError, match=r"every must be at least 1, got 0$"):
        make(DictConfig({"_target_": "episodic.train.schedule.Step", "every": 0}))
    with pytest.raises(ConfigError, match="unexpected keyword argument 'evry'"):
        make(DictConfig({"_target_": "episodic.train.schedule.Step", "evry": 1}))
