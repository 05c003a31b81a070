"""The folder of a run: its configuration, checkpoints, curves and results."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from omegaconf import DictConfig, OmegaConf

from episodic import __version__
from episodic.config.compose import ConfigError, part_groups
from episodic.config.stored import read_tree, stored_config
from episodic.config.types import check_types
from episodic.run.checkpoint import CheckpointError, has_checkpoint, load_checkpoint, load_weights, save_checkpoint
from episodic.run.distributed import from_first, is_first
from episodic.run.files import file_name, write_atomically
from episodic.run.lock import WriterLock

FREE = ("resume", "run", "episodes", "device", "data_dir", "allow_any_target")  # what a resumed run may change
CHECKPOINTS = ("last", "best", "last-previous", "best-previous")
EVALUATIONS = "evaluations"  # the folder of the scores that `episodic.evaluate` wrote
OPTIONS = "options"  # beside the settings in `config.yaml`: the options of the command line that made them


@runtime_checkable
class Stateful(Protocol):
    """Something whose state is saved and loaded again, such as a training procedure."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of one training. It holds `config.yaml`, the checkpoints `last/` and `best/`, `metrics.json`, what later
    evaluations found in `evaluations/`, and the events of TensorBoard. Of several processes the first alone writes.

    **Arguments:** `lock` (default none): that of whoever trains there, which `Run.open` takes.

    >>> import tempfile
    >>> from episodic.config.compose import compose_config
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cfg = compose_config("train", [f"run={folder}", "seed=3"])
    ...     with Run.open(cfg, name="example") as run:
    ...         run.write_config(cfg, ["seed=3"])
    ...         run.write_metrics({"test/accuracy": 0.5})
    ...     run.config().seed, run.has("best"), sorted(path.name for path in run.folder.glob("[!.]*"))
    (3, False, ['config.yaml', 'metrics.json'])
    """

    folder: Path
    lock: WriterLock | None = dataclasses.field(default=None, repr=False, compare=False)

    @staticmethod
    @contextlib.contextmanager
    def open(cfg: DictConfig, name: str, free: Sequence[str] = ()) -> Iterator[Run]:
        """The folder to train in. While it is entered, no one else trains there. It is `cfg.run`; where that is None, it is a new
        `runs/<name>/<time>`.

        **Arguments:** `free`: further settings that a resumed run may change.

        **Raises:** `ConfigError` where the folder holds a run already and `cfg.resume` is not set, where the run to resume is not
        there, has no configuration or had other settings, and where another process trains there.
        """
        locks: list[WriterLock] = []

        def claimed() -> Path:
            folder = new_folder(Path("runs") / name) if cfg.run is None else Path(cfg.run)
            run = Run(folder)
            if cfg.resume:
                run.check_can_be_resumed()
            locks.append(held.enter_context(WriterLock(folder)))
            run._refuse_links()
            if cfg.resume:
                differ = _differences(run.config(), cfg, (*FREE, *free))
                if differ:
                    raise ConfigError(f"{folder} was started with other settings, so it cannot be resumed: {differ}")
            elif run.has("last") or run.has("best"):  # without a checkpoint there is nothing to lose
                run.check_can_be_resumed()
                raise ConfigError(f"{folder} holds a run already: resume=true goes on with it, run=<dir> takes another")
            return folder

        with contextlib.ExitStack() as held:
            yield Run(from_first(claimed), *locks)

    def check_can_be_resumed(self) -> None:
        """Make sure that there is a run whose settings are known.

        **Raises:** `ConfigError` where the folder holds no run, or its configuration is lost.
        """
        if (self.folder / "config.yaml").is_file():
            return
        if self.has("last") or self.has("best"):
            raise ConfigError(
                f"{self.folder} has checkpoints but no config.yaml: put that file back to go on with the run, or take another "
                "run=<dir>"
            )
        raise ConfigError(f"{self.folder} holds no run to go on with: leave resume=true out to start one there")

    def _refuse_links(self) -> None:
        """Refuse checkpoints that are links. Saving renames them, and then two names would lead to one folder."""
        for path in self.folder.iterdir():
            if path.name in CHECKPOINTS and path.is_symlink():
                raise ConfigError(f"{path} is a link, and training replaces it: put the folder itself in its place")

    def write_config(self, cfg: DictConfig, options: Sequence[str]) -> None:
        """Write `config.yaml`: the settings of the run, and the `options` of the command line that made them.

        **Raises:** `ConfigError` for settings that could not be read back, such as those that ask for the environment; `OSError`.
        """
        stored_config(OmegaConf.to_container(cfg), self.folder / "config.yaml")
        text = OmegaConf.to_yaml(cfg) + OmegaConf.to_yaml(OmegaConf.create({OPTIONS: list(options)}))
        self._write("config.yaml", text)

    def config(self) -> DictConfig:
        """The configuration that the run was started with. It is read as data that may come from a stranger: nothing in it is
        trusted.

        **Raises:** `FileNotFoundError` where the folder is no run; `ConfigError` where its `config.yaml` is damaged or another.
        """
        tree = self._tree()
        if missing := [part for part in part_groups() if part not in tree]:
            told = f"its config.yaml has no {', '.join(missing)}, so episodic.train did not write it"
            raise ConfigError(f"{self.folder} is no run: {told}")
        tree.pop(OPTIONS, None)
        source = self.folder / "config.yaml"
        config = stored_config(tree, source)
        config.allow_any_target = False
        try:
            check_types(config)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        return config

    def options(self) -> list[str]:
        """The options of the command line that the run was started with, as they were typed. They may come from a stranger as well.

        **Raises:** as `config`.
        """
        options = self._tree().get(OPTIONS)
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise ConfigError(
                f"{self.folder / 'config.yaml'} does not say how the run was started, as a list {OPTIONS}: the run cannot be "
                "resumed, and run=<dir> starts another"
            )
        return options

    def _tree(self) -> dict[str, Any]:
        path = self.folder / "config.yaml"
        if not path.is_file():
            kind = "it is a file" if self.folder.exists() else "there is no such folder"
            why = "it has no config.yaml" if self.folder.is_dir() else kind
            told = f"{why}. python -m episodic.train run={self.folder} makes one"
            raise FileNotFoundError(f"{self.folder} is no run: {told}")
        return read_tree(path)

    def save(self, kind: str, learner: torch.nn.Module, trainer: Stateful, state: dict[str, Any]) -> None:
        """Write the checkpoint `kind`, `"last"` or `"best"`: the learner, the training procedure, and `state`.

        **Raises:** `OSError`.
        """
        if not is_first():
            return
        if self.lock:
            self.lock.check()
        save_checkpoint(self.folder / kind, learner.state_dict(), trainer.state_dict(), state)

    def restore(
        self,
        kind: str,
        learner: torch.nn.Module,
        trainer: Stateful | None = None,
        *,
        ignore_extra: bool = False,
        may_lack: Collection[str] = (),
    ) -> dict[str, Any]:
        """Read the checkpoint `kind` into `learner`, and into the training procedure where one is given. Returns its `state`. Where
        it is damaged, the one before it is read.

        **Arguments:** `ignore_extra` (default false): leave out weights that only wrappers of the run had. `may_lack` (default
        none): names of weights that the checkpoint need not have.

        **Raises:** `CheckpointError` where none can be read, or it was made for another model.
        """
        weights, trained, state, warning = load_checkpoint(self.folder / kind)
        if warning:
            print(f"Note: {warning}")
        load_weights(learner, weights, self.folder / kind, ignore_extra, may_lack)
        if trainer is not None:
            try:
                trainer.load_state_dict(trained)
            except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
                raise CheckpointError(f"{self.folder / kind} does not fit this training: {error!r:.200}") from None
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

    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`, which training writes at its end; empty where there is none that can be read."""
        try:
            found = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_metrics(self, metrics: dict[str, Any], name: str = "metrics.json") -> None:
        """Write `metrics` to the JSON file `name`, with the versions of Python and of the packages that made them."""
        # Asked of the installed packages, since importing torchvision takes seconds.
        versions = {name: version(name) for name in ("torch", "torchvision", "numpy")}
        versions |= {"episodic": __version__, "python": platform.python_version()}
        self._write(name, json.dumps({**metrics, "versions": versions}, indent=2) + "\n")

    def write_evaluation(self, metrics: dict[str, Any], options: Sequence[str]) -> Path:
        """Write the scores of an evaluation to a new file in `evaluations`, which the time and the `options` of the command name.
        Earlier ones stay. Returns the file.

        **Raises:** `ConfigError` where `evaluations` is a link, which would lead out of the run; `OSError`.
        """
        place = self.folder / EVALUATIONS
        if place.is_symlink():
            raise ConfigError(f"{place} is a link, and evaluations are written into it: put a folder in its place")
        others = [option for option in options if not option.startswith("run=")]
        name = file_name(",".join([time.strftime("%Y-%m-%d_%H-%M-%S"), *others]))

        def claimed() -> str:
            place.mkdir(exist_ok=True)
            path = place / f"{name}.json"
            while True:
                try:
                    path.open("x").close()  # making it is what decides, where several begin in one second
                    return f"{EVALUATIONS}/{path.name}"
                except FileExistsError:
                    path = path.with_name(f"{path.stem}+.json")

        file = from_first(claimed)
        self.write_metrics({**metrics, "options": list(options), "date": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
        return self.folder / file

    def evaluations(self) -> list[Path]:
        """The files of all evaluations, the newest last."""
        return sorted((self.folder / EVALUATIONS).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)

    def _write(self, name: str, text: str) -> None:
        if not is_first():
            return
        if self.lock:
            self.lock.check()
        write_atomically(self.folder / name, text)


def new_folder(series: Path) -> Path:
    """A new folder `<series>/<time>`. Making it is what decides, where several begin in one second."""
    folder = series / time.strftime("%Y-%m-%d_%H-%M-%S")
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            folder = folder.with_name(folder.name + "+")


def _differences(before: DictConfig, now: DictConfig, free: Sequence[str]) -> str:
    flat_before, flat_now = _flat(OmegaConf.to_container(before)), _flat(OmegaConf.to_container(now))
    keys = sorted(k for k in flat_before.keys() | flat_now.keys() if flat_before.get(k) != flat_now.get(k))
    return ", ".join(f"{k} was {flat_before.get(k)}, now {flat_now.get(k)}" for k in keys if k not in free)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, child in tree.items() for k, v in _flat(child, f"{prefix}.{key}" if prefix else key).items()}
