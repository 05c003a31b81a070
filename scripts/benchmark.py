"""Ours against easyfsl, learn2learn and scikit-learn on the same work, measured in one run on this machine.

    uv run python scripts/benchmark.py [indices training ...] [--data-dir ../shared/data] [--json FILE]

Ours and the peer run in turn (ours, peer, ours, peer, ...), `--repeats` times; the table has the medians in episodes a
second, their ratio (above 1 where ours is faster), the ratio wanted where there is one, and the range of the ratio over the
repeats. On a busy machine trust the ratios, not the rates. An episode is 5-way 1-shot with 15 queries a class where nothing else is
said. What is compared, and how both sides are seen to find the same, is told in the file of each row:

- `indices`: drawing episodes, as indices and as tensors (benchmark_episodes.py);
- `evaluation`: from miniImageNet's files to the accuracy of many episodes (benchmark_evaluation.py);
- `training`, `omniglot`: optimizer steps of Prototypical Networks at 84 x 84 and 28 x 28 (benchmark_training.py);
- `propagation`: label propagation in episodes (benchmark_propagation.py);
- `cross_attention`: attention and losses of CAN, pair by pair (benchmark_cross_attention.py);
- `learners`: a forward and backward pass of each learner, without a peer (benchmark_learners.py);
- `refresh`: new pseudo-labels for a whole training set, stage by stage (benchmark_refresh.py);
- `losses`: losses of embeddings against pytorch-metric-learning (benchmark_losses.py);
- `commands`: `episodic.predict` and `episodic.report` from a cold start (benchmark_commands.py);
- `disk`: from miniImageNet's files to the first episode that a network can train on (benchmark_disk.py);
- `growth`: how time grows with episodes, items and ways, without a peer (benchmark_growth.py);
- `profile`: where the time of a training step goes, on the processor, without a peer (benchmark_profile.py).

The peers run in a process of their own, as their users run them: on a CPU `Hardware.choose` tells the C library to keep
freed memory, which would speed them up too; but for `losses`, where both sides keep it. Device and number of threads are the
same.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
from importlib import metadata, util
from pathlib import Path
from typing import Any

from benchmark_commands import commands
from benchmark_cross_attention import cross_attention
from benchmark_disk import disk
from benchmark_episodes import indices
from benchmark_evaluation import evaluation
from benchmark_growth import growth
from benchmark_learners import learners
from benchmark_losses import losses
from benchmark_profile import profile
from benchmark_propagation import propagation
from benchmark_refresh import refresh
from benchmark_training import training
from measuring import HEADER, alternate

from episodic.evaluate.tables import table
from episodic.run.device import Hardware

# (arguments, hardware) -> comparisons, which share a table
COMPARED = {
    "indices": indices,
    "evaluation": evaluation,
    "training": training,
    "omniglot": functools.partial(training, row="omniglot"),
    "propagation": propagation,
}
# arguments -> what the JSON says, and a table
MEASURED = {
    "cross_attention": cross_attention,
    "disk": disk,
    "growth": growth,
    "profile": profile,
    "learners": learners,
    "refresh": refresh,
    "losses": losses,
    "commands": commands,
}
ALL = [*COMPARED, *MEASURED]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"what to measure, of {', '.join(ALL)}; default: all")
    parser.add_argument("--data-dir", default="../shared/data", help="the folder that holds miniimagenet/")
    parser.add_argument("--episodes", type=int, default=10_000, help="episodes of our evaluation")
    parser.add_argument("--peer-episodes", type=int, default=20, help="episodes of the peer's evaluation")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="that a rate is measured for (training: three times)")
    parser.add_argument("--json", type=Path, help="also write the rows here, as a list of objects")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.rows if name not in ALL]:
        parser.error(f"there is no row {', '.join(unknown)}; rows: {', '.join(ALL)}")
    wanted = (args.rows or ALL).__contains__

    hardware = Hardware.choose()
    peers = [name for name in ("easyfsl", "learn2learn") if util.find_spec(name)]
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "episodic", "scikit-learn", *peers)
    )
    print(f"{hardware.describe()} (peers: fp32)\nPython {platform.python_version()}, {versions}\n")

    entries, lines = [], []
    for name in filter(wanted, COMPARED):
        try:
            for comparison in COMPARED[name](args, hardware):
                entry, line = alternate(comparison, args.repeats)
                entries.append(entry)
                lines.append(line)
        except (ImportError, FileNotFoundError) as error:
            print(f"{name}: skipped from here on: {str(error).splitlines()[0]}")
        keep(entries, args.json)
    if lines:
        print("\n" + table(HEADER, lines))
    for name in filter(wanted, MEASURED):
        try:
            measured, text = MEASURED[name](args)
            entries += measured
            print("\n" + text)
        except (ImportError, FileNotFoundError) as error:
            print(f"{name}: skipped: {str(error).splitlines()[0]}")
        keep(entries, args.json)


def keep(entries: list[dict[str, Any]], file: Path | None) -> None:
    """After each row, so that a run which is stopped has what it measured."""
    if file:
        file.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
