"""Configurations, composed by Hydra of the files in `conf/`."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig


class ConfigError(ValueError):
    """A command line or configuration that cannot be used; the message is for the user."""


def conf_dir() -> Path:
    """The folder of configurations: `conf/` of a source checkout, else the copy inside the installed package."""
    package = Path(__file__).parents[1]
    checkout = package.parent / "conf"
    return checkout if (checkout / "train.yaml").exists() else package / "conf"


def compose_config(name: str, overrides: list[str]) -> DictConfig:
    """The configuration `conf/<name>.yaml` with `overrides`, without Hydra's own part."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(name, overrides=overrides)
