"""Several trainings by one command, such as `python -m episodic.train -m learner=prototypical,matching seed=0,1,2`. Hydra starts
them; here is where their runs lie, how a sweep that was stopped goes on, and the table at its end.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from episodic.config.compose import ConfigError
from episodic.config.overrides import check_overrides, given_options, in_full
from episodic.config.paths import quoted, unquoted
from episodic.config.stored import read_tree
from episodic.config.terminal import printable
from episodic.evaluate.tables import table
from episodic.run.distributed import launched
from episodic.run.files import file_name, write_atomically
from episodic.run.lock import WriterLock
from episodic.run.run import Run, new_folder
from episodic.train.resume import OF_THE_COMMAND, checked_options, newest_folder, with_saved_options
from episodic.train.session import say, train

FLAGS = ("-m", "--multirun")
OPTIONS, TABLE, LOG, FAILED = "sweep.yaml", "sweep.json", "log.txt", "failed.txt"  # files of a sweep, and of its runs
METRICS = {"accuracy": "accuracy %", "recall@1": "Recall@1 %"}


class Sweep:
    """The sweep that a command line asks for, if it does. While it is entered, no one else trains in its folder. This holds
    `sweep.yaml`, the options that it was started with; a folder for each of its runs, named by the options that differ; and
    `sweep.json`, the numbers of its table.

    >>> with Sweep() as sweep:
    ...     sweep.prepare(["seed=1", "run=runs/a"])  # one training
    ['seed=1', 'run=runs/a']
    """

    def __init__(self):
        self.folder: Path | None = None
        self.names: list[str] = []
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()

    def prepare(self, arguments: list[str]) -> list[str]:
        """The arguments of a command line, completed for Hydra: those of a single training by `with_saved_options`.

        **Raises:** `ConfigError` for a sweep without anything to sweep over, for a folder that holds a sweep already or, with
        `resume=true`, another one, and what `with_saved_options` raises.
        """
        flagged = any(argument in FLAGS for argument in arguments)
        given = given_options(unquoted(argument) for argument in arguments)
        resume = given.get("resume", "").lower() == "true"
        folder = Path(given["run"]) if given.get("run", "null") != "null" else None
        if resume and folder is None:
            folder = newest_folder(Path("runs"), ("config.yaml", OPTIONS))
            if (folder.parent / OPTIONS).is_file():  # one of its runs is newer than a sweep
                folder = folder.parent
        if not flagged and not (resume and (folder / OPTIONS).is_file()):
            return with_saved_options(arguments)
        if launched():
            raise ConfigError("-m trains one run after the other: start it by python, without torchrun")
        own = [a for a in arguments if a not in FLAGS and not re.match(r"(run|resume)=", a)]
        of_command = [option for option in own if OF_THE_COMMAND.match(option)]
        options = [option for option in own if option not in of_command]
        if resume:
            options = self._saved(folder, options)
        launcher = given.get("hydra/launcher", "basic")
        _check_launcher(launcher)
        complete = [in_full(option) for option in options]
        check_overrides("train", complete)
        fixed = [o.input_line.partition("=")[0] for o in _parsed(complete) if not o.is_sweep_override()]
        if len(fixed) == len(complete):
            raise ConfigError("-m trains a run for each value of an option that has several, and none has: seed=0,1,2")
        if not resume and folder is not None and any((folder / name).exists() for name in (OPTIONS, "config.yaml")):
            raise ConfigError(
                f"{folder} holds runs already: resume=true goes on with a sweep, run=<dir> takes another folder"
            )
        self.folder = folder if folder is not None else new_folder(Path("runs") / "sweeps")
        self._lock.enter_context(WriterLock(self.folder))
        write_atomically(self.folder / OPTIONS, OmegaConf.to_yaml(OmegaConf.create({"options": options})))
        (jobs,) = BasicSweeper.split_arguments(_parsed(complete), None)
        self.names = [name_of(job, fixed) for job in jobs]
        if launcher == "joblib":
            # Trainings side by side share the cores; more threads than cores only wait for each other.
            side_by_side = int(given.get("hydra.launcher.n_jobs", "-1"))
            cores = os.cpu_count() or 1
            os.environ.setdefault(
                "OMP_NUM_THREADS", str(max(1, cores // (side_by_side if side_by_side > 0 else cores)))
            )
        if launcher != "basic":
            say(f"{len(jobs)} runs by {launcher} in {self.folder}; the lines of each are in its {LOG}")
        return [
            *("-m", *of_command, *options, quoted(f"run={self.folder}"), f"resume={str(resume).lower()}"),
            f"hydra.sweep.dir={quoted(f'run={self.folder}').partition('=')[2]}",
            f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]",
        ]

    def _saved(self, folder: Path, given: list[str]) -> list[str]:
        """The options of the sweep in `folder`, which those that are given again must be."""
        saved = read_tree(folder / OPTIONS).get("options")
        if not isinstance(saved, list) or not all(isinstance(option, str) for option in saved):
            raise ConfigError(f"{folder / OPTIONS} does not say how the sweep was started, as a list options")
        saved = [o for o in checked_options(saved, folder / OPTIONS, sweep=True) if not OF_THE_COMMAND.match(o)]
        if changed := [option for option in given if option not in saved]:
            raise ConfigError(
                f"{folder} was started with other options, so it cannot be resumed: {', '.join(changed)} is none of "
                f"{' '.join(saved)}"
            )
        return saved

    def finish(self) -> None:
        """Print the table of the sweep, and write its numbers to `sweep.json`.

        **Raises:** `SystemExit` with code 1 where a run failed.
        """
        if self.folder is None:
            return
        found = {name: Run(self.folder / name).metrics() for name in self.names}
        failed = {name: _reason(self.folder / name) for name, metrics in found.items() if not metrics}
        rows = summary({name: metrics for name, metrics in found.items() if metrics})
        write_atomically(self.folder / TABLE, json.dumps({"rows": rows, "failed": failed}, indent=2) + "\n")
        if rows:
            print(f"\n{sweep_table(rows)}")
        for name, reason in failed.items():
            shown = printable(reason, keep="\n")
            print(f"\nfailed: {name}: {shown}")
        print(
            f"\n{len(self.names) - len(failed)} of {len(self.names)} runs; their numbers are in {self.folder / TABLE}"
        )
        if failed:
            print(f"Those that failed again: python -m episodic.train resume=true run={shlex.quote(str(self.folder))}")
            raise SystemExit(1)


def train_one(cfg: DictConfig, hydra: DictConfig) -> None:
    """Train one run of a sweep, as a job of Hydra. A run that has its scores is left as it is; one that was stopped goes on. An
    error of the user is told and kept for the table, and does not stop the other runs.
    """
    overrides, fixed = list(hydra.overrides.task), list(hydra.job.config.override_dirname.exclude_keys)
    sweep = Path(cfg.run)
    name = name_of(overrides, fixed)
    folder = sweep / name
    say(f"\n{name}")
    if cfg.resume and Run(folder).metrics():
        say("done before")
        return
    cfg.update(run=str(folder), resume=cfg.resume and (folder / "config.yaml").is_file())
    options = [*(o for o in overrides if not re.match(r"(run|resume)=", o)), f"run={folder}"]
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as log:
        if not hydra.launcher._target_.endswith(BasicLauncher.__name__):
            file = log.enter_context(open(folder / LOG, "a", encoding="utf-8"))
            log.enter_context(contextlib.redirect_stdout(file))
            log.enter_context(contextlib.redirect_stderr(file))
        try:
            train(cfg, dict(hydra.runtime.choices), options)
            (folder / FAILED).unlink(missing_ok=True)
        except (ValueError, ArithmeticError, OSError, ImportError) as error:
            say(f"failed: {error}")
            write_atomically(folder / FAILED, f"{error}\n")
        except SystemExit:
            say(f"The whole sweep: python -m episodic.train resume=true run={shlex.quote(str(sweep))}")
            raise


def name_of(options: Iterable[str], fixed: Iterable[str]) -> str:
    """The name of a run in its sweep: the options that are not `fixed`, as they are typed.

    >>> name_of(["learner=matching", "trainer.steps=5", "seed=1"], fixed=["trainer.steps"])
    'learner=matching,seed=1'
    """
    others = [option for option in options if option.partition("=")[0] not in (*fixed, "run", "resume")]
    return file_name(",".join(others))


def summary(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The numbers of a table: the runs that differ by their seed alone are one row.

    **Arguments:** `found`: the content of each run's `metrics.json` by its name.

    **Returns** for each row the `options`, the `seeds`, and `scores`: by split and metric the `values` of all seeds, their `mean`,
    and the `deviation`, by n - 1; with one seed the `half_width` of its interval over episodes or queries.

    >>> rows = summary({"seed=0": {"seed": 0, "test/accuracy": 0.5}, "seed=1": {"seed": 1, "test/accuracy": 0.7}})
    >>> rows[0]["seeds"], round(rows[0]["scores"]["test/accuracy"]["deviation"], 3)
    ([0, 1], 0.141)
    """
    grouped: dict[str, list[dict[str, Any]]] = {}
    for name, metrics in found.items():
        options = ",".join(part for part in name.split(",") if not part.startswith("seed="))
        grouped.setdefault(options, []).append(metrics)
    rows = []
    for options, group in grouped.items():
        keys = [key for key in group[0] if key.partition("/")[2] in METRICS and not key.startswith("train/")]
        scores = {}
        for key in keys:
            values = [metrics[key] for metrics in group if key in metrics]
            spread = {"deviation": float(np.std(values, ddof=1))} if len(values) > 1 else {}
            alone = {
                "half_width": group[0].get(key.replace("accuracy", "ci95") if "accuracy" in key else f"{key}_ci95")
            }
            scores[key] = {"values": values, "mean": float(np.mean(values)), **(spread or alone)}
        rows.append({"options": options, "seeds": [metrics["seed"] for metrics in group], "scores": scores})
    return rows


def sweep_table(rows: list[dict[str, Any]]) -> str:
    """The rows of `summary` as text."""
    keys = list(dict.fromkeys(key for row in rows for key in row["scores"]))
    heads = ["options", "seeds", *(f"{key.partition('/')[0]} {METRICS[key.partition('/')[2]]}" for key in keys)]
    lines = []
    for row in rows:
        cells = [row["options"] or "-", str(len(row["seeds"]))]
        for key in keys:
            score = row["scores"].get(key)
            width = score and score.get("deviation", score.get("half_width"))
            cells.append(
                "-" if score is None else f"{100 * score['mean']:.2f}" + (f" ± {100 * width:.2f}" if width else "")
            )
        lines.append(cells)
    several = any(len(row["seeds"]) > 1 for row in rows)
    meaning = "± is the standard deviation over seeds" if several else "± is half of the 95 % interval of a single run"
    return f"{table(heads, lines)}\n\n{meaning}"


def _reason(folder: Path) -> str:
    try:
        return (folder / FAILED).read_text(encoding="utf-8").strip()
    except OSError:
        return "it did not end"


def _parsed(options: Iterable[str]) -> list:
    return OverridesParser.create().parse_overrides(list(options))


def _check_launcher(name: str) -> None:
    plugin = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}.get(name)
    if plugin and importlib.util.find_spec(f"hydra_plugins.hydra_{plugin}_launcher") is None:
        raise ConfigError(f"hydra/launcher={name} needs a plugin of Hydra: pip install 'episodic[sweeps]'")
    if plugin is None and name != "basic":
        raise ConfigError(f"unknown hydra/launcher={name}. Valid: basic, joblib, submitit_local, submitit_slurm")
