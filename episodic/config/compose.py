"""Composes configurations of the files in `conf/`, by Hydra."""

from __future__ import annotations

import functools
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

INNER = ("dataset", "distance")  # groups that are chosen inside a part


class ConfigError(ValueError):
    """A command line or a configuration cannot be used. The message is for the user."""


def conf_dir() -> Path:
    """The folder of the configurations. In a source checkout it is `conf/`; else it is the copy inside the installed package.

    >>> (conf_dir() / "train.yaml").is_file()
    True
    """
    package = Path(__file__).parents[1]
    checkout = package.parent / "conf"
    return checkout if (checkout / "train.yaml").exists() else package / "conf"


@functools.cache
def groups() -> tuple[str, ...]:
    """The groups of choices in `conf/`, by name.

    >>> "learner" in groups()
    True
    """
    return tuple(sorted(path.name for path in conf_dir().iterdir() if path.is_dir()))


def part_groups() -> list[str]:
    """The groups of which every run has a choice: all but those inside a part, and experiments, which are choices of other groups.

    >>> {"learner", "distance", "experiment"} & {*part_groups()}
    {'learner'}
    """
    return [group for group in groups() if group not in (*INNER, "experiment")]


def compose_config(name: str, overrides: list[str]) -> DictConfig:
    """The configuration that `conf/<name>.yaml` and some options make. Options are written as on the command line.

    **Raises:** Hydra's errors for options that do not exist; `config.overrides.composed` says them in plain words.

    >>> cfg = compose_config("train", ["learner=matching", "trainer.steps=10"])
    >>> cfg.trainer.steps, cfg.learner._target_
    (10, 'episodic.learners.matching.Matching')
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(name, overrides=overrides)
