"""The folder of a run: its configuration, checkpoints, curves and results."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from omegaconf import DictConfig, OmegaConf

from episodic import __version__
from episodic.config.compose import ConfigError
from episodic.config.settings import PARTS
from episodic.config.stored import read_config
from episodic.config.types import check_types
from episodic.run.checkpoint import has_checkpoint, load_checkpoint, load_weights, save_checkpoint
from episodic.run.files import write_atomically

FREE = ("resume", "run", "episodes", "device", "data_dir")  # what a resumed run may change


@runtime_checkable
class Stateful(Protocol):
    """Something whose state is saved and loaded again, such as a training procedure."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of one training. It holds `config.yaml`, the checkpoints `last/` and `best/`, `metrics.json`, and the events of
    TensorBoard.

    >>> import tempfile
    >>> from episodic.config.compose import compose_config
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = Run.open(compose_config("train", [f"run={folder}", "seed=3"]), name="example")
    ...     run.write_metrics({"test/accuracy": 0.5})
    ...     run.config().seed, run.has("best"), sorted(path.name for path in run.folder.iterdir())
    (3, False, ['config.yaml', 'metrics.json'])
    """

    folder: Path

    @staticmethod
    def open(cfg: DictConfig, name: str, free: Sequence[str] = ()) -> Run:
        """The folder to train in, with its `config.yaml` written. It is `cfg.run`; where that is None, it is a new
        `runs/<name>/<time>`, or with `cfg.resume` the newest one there.

        **Arguments:** `free`: further settings that a resumed run may change.

        **Raises:** `ConfigError` where the folder holds a run already and `cfg.resume` is not set, or the run to resume had other
        settings.
        """
        if cfg.run is not None:
            folder = Path(cfg.run)
        else:
            series = Path("runs") / name
            old = sorted(p.parent for p in series.glob("*/config.yaml")) if cfg.resume else []
            folder = old[-1] if old else series / time.strftime("%Y-%m-%d_%H-%M-%S")
            while not old and folder.exists():
                folder = folder.with_name(folder.name + "+")
        run = Run(folder)
        config = folder / "config.yaml"
        if config.exists() and run.has("last"):  # without a checkpoint there is nothing to lose
            if not cfg.resume:
                raise ConfigError(f"{folder} holds a run already: resume=true goes on with it, run=<dir> takes another")
            differ = _differences(run.config(), cfg, (*FREE, *free))
            if differ:
                raise ConfigError(f"{folder} was started with other settings, so it cannot be resumed: {differ}")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(config, OmegaConf.to_yaml(cfg))
        return run

    def config(self) -> DictConfig:
        """The configuration that the run was started with. It is read as data that may come from a stranger: nothing in it is
        trusted.

        **Raises:** `FileNotFoundError` where the folder is no run; `ConfigError` where its `config.yaml` is damaged or another.
        """
        path = self.folder / "config.yaml"
        if not path.is_file():
            why = (
                "it has no config.yaml"
                if self.folder.is_dir()
                else "it is a file"
                if self.folder.exists()
                else "there is no such folder"
            )
            raise FileNotFoundError(
                f"{self.folder} is no run: {why}. python -m episodic.train run={self.folder} makes one"
            )
        config = read_config(path)
        if missing := [part for part in PARTS if part not in config]:
            raise ConfigError(
                f"{self.folder} is no run: its config.yaml has no {missing[0]}, so episodic.train did not write it"
            )
        config.allow_any_target = False
        try:
            check_types(config)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        return config

    def save(self, kind: str, learner: torch.nn.Module, trainer: Stateful, state: dict[str, Any]) -> None:
        """Write the checkpoint `kind`, `"last"` or `"best"`: the learner, the training procedure, and `state`.

        **Raises:** `OSError`.
        """
        save_checkpoint(self.folder / kind, learner.state_dict(), trainer.state_dict(), state)

    def restore(
        self, kind: str, learner: torch.nn.Module, trainer: Stateful | None = None, *, ignore_extra: bool = False
    ) -> dict[str, Any]:
        """Read the checkpoint `kind` into `learner`, and into the training procedure where one is given. Returns its `state`. Where
        it is damaged, the one before it is read.

        **Arguments:** `ignore_extra` (default false): leave out weights that only wrappers of the run had.

        **Raises:** `CheckpointError` where none can be read, or it was made for another model.
        """
        weights, trained, state, warning = load_checkpoint(self.folder / kind)
        if warning:
            print(f"Note: {warning}")
        load_weights(learner, weights, self.folder / kind, ignore_extra)
        if trainer is not None:
            trainer.load_state_dict(trained)
        return state

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the best checkpoint by name, or of the last one where none was validated.

        **Raises:** `CheckpointError` where none can be read.
        """
        weights, _, _, warning = load_checkpoint(self.folder / ("best" if self.has("best") else "last"))
        if warning:
            print(f"Note: {warning}")
        return weights

    def has(self, kind: str) -> bool:
        """Whether the run has a checkpoint `kind`, `"last"` or `"best"`."""
        return has_checkpoint(self.folder / kind)

    def write_metrics(self, metrics: dict[str, Any], name: str = "metrics.json") -> None:
        """Write `metrics` to the JSON file `name`, with the versions of Python and of the packages that made them."""
        # Asked of the installed packages, since importing torchvision takes seconds.
        versions = {name: version(name) for name in ("torch", "torchvision", "numpy")}
        versions |= {"episodic": __version__, "python": platform.python_version()}
        write_atomically(self.folder / name, json.dumps({**metrics, "versions": versions}, indent=2) + "\n")


def _differences(before: DictConfig, now: DictConfig, free: Sequence[str]) -> str:
    flat_before, flat_now = _flat(OmegaConf.to_container(before)), _flat(OmegaConf.to_container(now))
    keys = sorted(k for k in flat_before.keys() | flat_now.keys() if flat_before.get(k) != flat_now.get(k))
    return ", ".join(f"{k} was {flat_before.get(k)}, now {flat_now.get(k)}" for k in keys if k not in free)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, child in tree.items() for k, v in _flat(child, f"{prefix}.{key}" if prefix else key).items()}
