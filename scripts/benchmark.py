"""Compare the speed of this package with that of its peers: easyfsl, learn2learn, scikit-learn, pytorch-metric-learning.

    uv run python scripts/benchmark.py [indices training ...] [--data-dir ../shared/data] [--json FILE]

Both sides do the same work on the same machine in the same run. They take turns (ours, peer, ours, peer, ...), `--repeats` times.
The table shows the medians in episodes a second, their ratio (above 1 where ours is faster), the ratio that we want where there is
one, and the range of the ratio over the repeats. On a busy machine the ratios can be trusted, the rates cannot. An episode is 5-way
1-shot with 15 queries a class unless a row says otherwise. Each row has a file in `benchmark/`, whose head says what is compared
and how the results of both sides are checked against each other:

- `indices`: drawing episodes, as indices and as tensors;
- `evaluation`: from miniImageNet's files to the accuracy of many episodes;
- `training`, `omniglot`: optimizer steps of Prototypical Networks at 84 x 84 and 28 x 28;
- `propagation`: label propagation in episodes;
- `cross_attention`: attention and losses of CAN, beside the same formulas pair by pair;
- `learners`: a forward and backward pass of each learner, without a peer;
- `refresh`: new pseudo-labels for a whole training set, stage by stage;
- `losses`: losses of embeddings;
- `commands`: `episodic.predict` and `episodic.report` from a cold start, beside a plain torch loop;
- `disk`: from miniImageNet's files to the first episode that a network can train on;
- `growth`: how time grows with episodes, items and ways, without a peer;
- `profile`: where the time of a training step goes, on the processor, without a peer.

The peers run in a process of their own, as their users run them. This matters on a CPU, where `Hardware.choose` tells the C library
to keep freed memory, which would speed the peers up too. Only in `losses` both sides keep it. Device and number of threads are the
same on both sides.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
from importlib import metadata, util
from pathlib import Path
from typing import Any

from benchmark.commands import commands
from benchmark.cross_attention import cross_attention
from benchmark.disk import disk
from benchmark.episodes import indices
from benchmark.evaluation import evaluation
from benchmark.growth import growth
from benchmark.learners import learners
from benchmark.losses import losses
from benchmark.measuring import HEADER, alternate
from benchmark.profile import profile
from benchmark.propagation import propagation
from benchmark.refresh import refresh
from benchmark.training import training

from episodic.evaluate.tables import table
from episodic.run.device import Hardware

# Rows that are compared with a peer: (arguments, hardware) -> comparisons. They share one table.
COMPARED = {
    "indices": indices,
    "evaluation": evaluation,
    "training": training,
    "omniglot": functools.partial(training, row="omniglot"),
    "propagation": propagation,
}
# Rows with a table of their own: arguments -> (entries of the JSON, table).
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
    parser.add_argument(
        "--seconds", type=float, default=2, help="how long a rate is measured (training: three times as long)"
    )
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
    """Write what was measured so far. This is done after each row, so that a run which is stopped keeps it."""
    if file:
        file.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
