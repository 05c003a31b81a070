import inspect

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from episodic.config.compose import compose_config, conf_dir, part_groups
from episodic.config.help import options_of
from episodic.config.instantiate import make

GROUPS = sorted(p.name for p in conf_dir().iterdir() if p.is_dir())


OPTIONS = [(g, p.stem) for g in GROUPS for p in sorted((conf_dir() / g).glob("[!_]*.yaml"))]


FILLED_IN = {"backbone", "learner", "params", "dim", "label_swap", "n_rows", "edges", "setup"}


WRAPPED = {"memory": {"loss"}}


TAKEN_OUT = {"loss": {"weight", "lr_multiplier"}, "sse": {"edges"}}


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o[0] not in ("dataset", "distance")])
def test_every_option_composes(group, option):
    path = ["task.dataset.path=somewhere"] if option.startswith("folder") else []
    cfg = compose_config("train", [f"{group}={option}", *path])
    assert OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def loaded(group, option):
    """The option's own YAML over those of its group that it begins with; a distance inside it as the object that it describes."""
    node = OmegaConf.load(conf_dir() / group / f"{option}.yaml")
    for base in reversed(node.pop("defaults", [])):
        if isinstance(base, str) and base != "_self_" and "@" not in base:
            node = OmegaConf.merge(loaded(group, base), node)
        elif not isinstance(base, str) and "/distance@distance" in base:
            node.distance = OmegaConf.load(conf_dir() / "distance" / f"{base['/distance@distance']}.yaml")
    return node


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o[0] not in ("task", "experiment")])
def test_yaml_equals_signature(group, option):
    node = loaded(group, option)
    target = get_object(node["_target_"])
    assert target.__module__.split(".")[0] in ("episodic", "torch")
    takes = inspect.signature(target).parameters
    says = {k for k in node if not k.startswith("_")} - TAKEN_OUT.get(group, set())
    if target.__module__.startswith("episodic"):
        assert says == set(takes) - FILLED_IN - WRAPPED.get(group, set())
        for key in says:
            default = takes[key].default
            value = OmegaConf.to_container(node)[key]
            value = make(node[key]) if isinstance(value, dict) and "_target_" in value else value
            free = isinstance(value, str) and ("${" in value or value == "???")
            chosen = (
                group in ("augment", "pretrain") or option in ("finetune", "long") or default is inspect.Parameter.empty
            )
            assert free or chosen or value == (list(default) if isinstance(default, tuple) else default), key
    else:
        assert says <= set(takes)


def test_a_choice_on_the_command_line_beats_the_task_and_the_experiment():
    assert compose_config("train", ["task=miniimagenet_5w1s"]).augment.flip
    assert not compose_config("train", ["task=miniimagenet_5w1s", "augment=none"]).augment.flip
    assert compose_config("train", ["experiment=matching_omniglot", "trainer.steps=7"]).trainer.steps == 7


def test_all_tasks_are_a_data_set_and_a_shape():
    for path in (conf_dir() / "task").glob("[!_]*.yaml"):
        names = [name if isinstance(name, str) else next(iter(name)) for name in OmegaConf.load(path).defaults]
        assert all(name.startswith(("_", "override /")) for name in names), path


@pytest.mark.parametrize("command", ["cross_validate", "demo", "doctor", "evaluate", "predict", "report"])
def test_every_command_takes_every_task(command):
    """A task chooses options of other groups for training; a command that does not train must know these groups all the same."""
    parts = ["learner=prototypical", "semi=supervised", "transform=none"]  # in the place of a run's own
    for task in options_of("task"):
        path = ["task.dataset.path=somewhere"] if task.startswith("folder") else []
        cfg = compose_config(command, [f"task={task}", *path, *([] if command == "doctor" else parts)])
        assert OmegaConf.to_container(cfg.task, resolve=True, throw_on_missing=True)


def test_a_training_has_a_choice_of_every_group_of_parts():
    cfg = compose_config("train", [])
    assert set(part_groups()) == {key for key in cfg if isinstance(OmegaConf.select(cfg, key), DictConfig)}
