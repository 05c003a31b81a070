import pytest
from omegaconf import DictConfig

from episodic.config.compose import ConfigError
from episodic.config.instantiate import arguments_of, make


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


def test_the_arguments_of_a_target_are_not_asked_of_what_may_not_be_built(tmp_path, monkeypatch):
    (tmp_path / "strange.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="may be built"):
        arguments_of(DictConfig({"_target_": "strange.Thing"}))
    with pytest.raises(SystemExit, match="imported"):
        arguments_of(DictConfig({"_target_": "strange.Thing"}), allow_any_target=True)
    assert arguments_of(DictConfig({"_target_": "episodic.train.schedule.Cosine"})) == {"warmup"}


def test_models_of_torchvision_can_be_built():
    assert make(DictConfig({"_target_": "torchvision.models.squeezenet1_1", "num_classes": 2})).num_classes == 2


def test_the_user_can_opt_in():
    assert make(DictConfig({"_target_": "builtins.dict", "a": 1}), allow_any_target=True) == {"a": 1}


def test_an_error_of_a_constructor_reaches_the_user_as_it_is():
    with pytest.raises(ValueError, match=r"every must be at least 1, got 0$"):
        make(DictConfig({"_target_": "episodic.train.schedule.Step", "every": 0}))
    with pytest.raises(ConfigError, match="unexpected keyword argument 'evry'"):
        make(DictConfig({"_target_": "episodic.train.schedule.Step", "evry": 1}))
