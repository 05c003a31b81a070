"""Kill trainings at random moments, go on with `resume=true run=<dir>` alone, and compare the weights with those of a training that
nobody disturbed.

    python scripts/kill.py [--kills 8] [--seed 0] [--only NAME ...] [--out DIR]

Every kind of training in `KINDS` is killed `--kills` times: at any time between its first step and its last score, in a third of
the cases when a checkpoint is being written, and now and then before it has begun. Two thirds of the signals are SIGKILL; others
are Ctrl-C, SIGTERM, SIGHUP, and two of them in a row. At the end the learner, the state of training and the optimizer must be equal
bit for bit, and so must the scores.

Each training is a process of its own. It is forked from this one, which has trained a step before: so all imports are done once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from episodic.evaluate.tables import table
from episodic.train import train

SMALL = ["task.image_size=16", "task.dataset.drawings=8", "backbone.widths=[8,8]", "augment=none", "device=cpu",
         "precision=fp32", "episodes=20", "trainer.validation_episodes=10", "trainer.validate_every=8",
         "trainer.save_every=2"]  # fmt: skip
EPISODES = ["task.train.n_way=5", "task.train.n_query=3", "task.n_query=3"]
BATCHES = ["trainer.classes_per_batch=6", "trainer.images_per_class=2", "task.n_query=3"]
LABELS = ["task=glyphs_incremental_5w1s", "learner=base_classifier", "task.labeled_fraction=0.5", "task.held_out=0.5",
          "task.base_query=1", "task.n_query=3"]  # fmt: skip
FIRST = [*LABELS, "task.train.n_way=10", "task.train.n_query=1", "trainer.steps=8"]  # the stage before pseudo-labels
KINDS = {
    "episodes": ["trainer=episodes", *EPISODES],
    "mean_teacher": ["task=glyphs_semi_5w1s", "semi=mean_teacher", "augment=shift", "task.train.n_way=5", "task.train.n_query=1",
                     "task.n_unlabeled=2", "task.n_query=1", "task.labeled_fraction=0.5"],
    "dml with proxies": ["trainer=dml", "loss=[multi_similarity,proxy_nca]", *BATCHES],
    "dml with a memory": ["trainer=dml", "loss=contrastive", "memory=xbm", "memory.start=2", "memory.size=64", *BATCHES],
    "divide_and_conquer": ["trainer=divide_and_conquer", "loss=divide_and_conquer", "head=linear", "head.normalize=true",
                           "head.slices=4", "trainer.recluster_every=8", *BATCHES],
    "pseudo_labels": ["semi=pseudo_labels", "init_from=first", *LABELS, "semi.pseudo_labels.neighbors=5",
                      "semi.pseudo_labels.batch=8", "semi.pseudo_labels.labeled_per_batch=4",
                      "semi.pseudo_labels.refresh_every=8"],
}  # fmt: skip
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
GENTLE = [[INT], [TERM], [HUP], [INT, TERM], [TERM, HUP]]
CODES = {129, 130, 143, -1, -2, -15}  # of the gentle ones; below 0 where the process had not yet begun to listen
SAVED = [f"{kind}/{part}.safetensors" for kind in ("last", "best") for part in ("model", "trainer", "optimizer")]


@dataclasses.dataclass
class Tally:
    """What happened to the trainings of a kind."""

    kills: int = 0
    in_saves: int = 0
    gentle: int = 0
    resumed: int = 0
    runs: int = 0
    equal: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)


def start(place: Path, log: str, options: list[str]) -> int:
    """Fork a process that runs `python -m episodic.train` with these options in the folder `place`. Its id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code: int | str | None = 1
    try:
        file = os.open(place / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.chdir(place)
        sys.argv = ["episodic.train", *options]
        runpy.run_module("episodic.train", run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def ended(process: int, wait: bool = True) -> int | None:
    """The exit code of a process; None where it goes on and `wait` is false."""
    found, status = os.waitpid(process, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def killed(process: int, signals: list[int], draw: random.Random, length: float, run: Path, save: bool) -> int | None:
    """Send signals to a training in `run`, whose steps and scores take `length` seconds. The exit code; None where the training had
    ended before.
    """
    begun, early = stamp(run / "config.yaml"), draw.random() < 1 / 8
    moment, since = draw.uniform(0, 3 if early else 0.9 * length), time.monotonic() if early else None
    while True:
        if (code := ended(process, wait=False)) is not None:
            if code:
                raise RuntimeError(f"the training in {run} ended by itself, with code {code}")
            return None
        if since is None and stamp(run / "config.yaml") != begun:  # written anew when the first step is near
            since = time.monotonic()
        if since is not None and time.monotonic() - since >= moment:
            saving = (run / ".last-building").exists() or (run / ".best-building").exists()
            if early or saving or not save:
                break
        time.sleep(0.0002)
    for number in signals:
        os.kill(process, number)
        time.sleep(0.02 * (len(signals) > 1))
    return ended(process) or None  # 0: it ended by itself in between


def stamp(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def command(run: Path, options: list[str]) -> list[str]:
    """The options that begin a training, or go on with it."""
    return ["resume=true", f"run={run.name}"] if (run / "config.yaml").exists() else [*options, f"run={run.name}"]


def kill_trainings(name: str, options: list[str], kills: int, draw: random.Random, place: Path) -> Tally:
    """Kill trainings of one kind `kills` times, end each of them, and compare it with an undisturbed one."""
    tally, stem = Tally(), name.replace(" ", "_")
    log, whole = f"{stem}.log", place / f"{stem}-whole"
    if code := ended(start(place, log, command(whole, options))):
        raise RuntimeError(f"{name}: the undisturbed training ended with code {code}; see {place / log}")
    length = (whole / "metrics.json").stat().st_mtime - (whole / "config.yaml").stat().st_mtime
    while tally.kills < kills:
        run = place / f"{stem}-{tally.runs}"
        tally.runs += 1
        while tally.kills < kills:
            signals = [signal.SIGKILL] if draw.random() < 2 / 3 else draw.choice(GENTLE)
            in_save = draw.random() < 1 / 3
            tally.resumed += (run / "config.yaml").exists()
            code = killed(start(place, log, command(run, options)), signals, draw, length, run, in_save)
            if code is None:
                break
            tally.kills += 1
            tally.in_saves += in_save
            tally.gentle += signals != [signal.SIGKILL]
            if code not in ({-signal.SIGKILL} if signals == [signal.SIGKILL] else CODES):
                tally.faults.append(f"{run.name}: code {code} after signals {signals}")
        tally.resumed += (run / "config.yaml").exists()
        if code := ended(start(place, log, command(run, options))):
            tally.faults.append(f"{run.name}: the last training ended with code {code}")
        differ = differences(whole, run)
        tally.equal += not differ
        tally.faults += [f"{run.name}: {what}" for what in differ]
    if "Traceback" in (place / log).read_text():
        tally.faults.append(f"there is a traceback in {place / log}")
    return tally


def differences(whole: Path, run: Path) -> list[str]:
    """What is not the same in two runs."""
    found = []
    for file in SAVED:
        ours, theirs = load_file(whole / file), load_file(run / file)
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
            found.append(file)
    scores = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, run)]
    same = ("steps", "best_step", "val/accuracy", "test/accuracy", "test/episodes_hash")
    found += [key for key in same if scores[0][key] != scores[1][key]]
    return found + [f"{path.name} was left" for path in run.rglob(".*") if path.name != ".lock"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8, help="of each kind")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the signals")
    parser.add_argument("--only", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="NAME")
    parser.add_argument("--out", type=Path, help="keep the runs and what they print there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums over several threads have other last digits
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.out or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        train(*SMALL, *KINDS["episodes"], "trainer.steps=1", f"run={place / 'rehearsal'}")
        if "pseudo_labels" in arguments.only and ended(start(place, "first.log", [*SMALL, *FIRST, "run=first"])):
            raise RuntimeError((place / "first.log").read_text())
        tallies = {}
        for number, name in enumerate(arguments.only):
            draw, options = random.Random(f"{arguments.seed} {number}"), [*SMALL, *KINDS[name]]
            tallies[name] = kill_trainings(
                name, [*options, f"trainer.steps={arguments.steps}"], arguments.kills, draw, place
            )
            print(name, dataclasses.asdict(tallies[name]), flush=True)
    header = ["training", "kills", "in saves", "by other signals", "resumed", "runs", "equal"]
    print(table(header, [[name, *map(str, dataclasses.astuple(tally)[:-1])] for name, tally in tallies.items()]))
    sys.exit(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    main()
