"""Run a whole table: train what is not trained yet, score it, and keep the scores as a record.

    python scripts/reproduce.py semi_omniglot --splits 3 [--runs runs] [--options data_dir=... ...]
    python scripts/table.py

Each table has a file in `tables/`, which says what is compared:

- `semi_omniglot`, `semi_glyphs`, `semi_miniimagenet`: semi-supervised methods over label splits (semi.py);
- `paired_omniglot`: what each wrapper adds to a learner without it (paired.py);
- `pseudo_labels_omniglot`: pseudo-labels for a whole training set (pseudo_labels.py);
- `dml_omniglot`, `dml_miniimagenet`: every loss of embeddings, the best five with `--splits` seeds (dml.py);
- `sse_omniglot`: what an exchange of rows adds to losses with a table, over `--splits` seeds (sse.py);
- `folds_omniglot`: a loss in cross-validation, with `--splits` repeats (folds.py);
- `pretrained_miniimagenet`: Prototypical Networks after pre-training and from scratch (pretrained.py).

The name of a record in `scripts/results`, such as `miniimagenet_5w1s`, trains and scores the command of that row of docs/results.md
with `--splits` seeds (scores.py).

Runs are in `<runs>/<experiment>/`, one folder for each method, number of distractors and seed. A run that has ended is not made
again; one that was stopped goes on. Records are in `scripts/results/semi/` and `scripts/results/dml/`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tables import dml, folds, paired, pretrained, pseudo_labels, records, scores, semi, sse

TABLES = {name: table for table in (semi, paired, pseudo_labels, dml, sse, folds, pretrained) for name in table.NAMES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {path.stem: scores for path in sorted(records.RESULTS.glob("*.json"))}
    parser.add_argument("table", choices=[*TABLES, *commands])
    parser.add_argument(
        "--splits", type=int, default=3, help="label splits, seeds or repeats, where the table has them"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--options", nargs="*", default=[], help="further options of training")
    arguments = parser.parse_args()
    table = (TABLES | commands)[arguments.table]
    table.reproduce(arguments.table, arguments.runs, arguments.splits, arguments.options)


if __name__ == "__main__":
    main()
