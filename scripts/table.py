"""Write the tables of docs/results.md and scripts/results/README.md from the run records in `scripts/results`.

    python scripts/table.py                       # rewrites the tables
    python scripts/table.py --check               # fails where a table differs from the records
    python scripts/table.py --add NAME RUN [RUN ...]   # first keeps the last evaluations of runs of one command
    python scripts/table.py --records FOLDER      # with the records of runs that were made elsewhere
    python scripts/table.py --learner NAME OPTIONS DATASET RUN RUN20   # first keeps a cell of the table of learners

A record holds what `episodic.evaluate` found and how the run was trained. A table stands in its page between the marks
`<!-- name -->` and `<!-- /name -->`. Each table has a file in `tables/`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tables import dml, folds, learners, paired, pretrained, pseudo_labels, records, scores, semi, sse

ROOT = Path(__file__).parent.parent
TABLES = [
    (ROOT / "docs" / "results.md", "results", scores),
    (records.RESULTS / "README.md", "learners", learners),
    *((records.RESULTS / "README.md", name, table) for table in (semi, paired, pseudo_labels) for name in table.NAMES),
    *((records.RESULTS / "README.md", name, table) for table in (dml, sse, folds, pretrained) for name in table.NAMES),
]


def markdown(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--add", nargs="+", metavar=("NAME", "RUN"))
    parser.add_argument("--records", type=Path, nargs="*", default=[], help="folders with further records of commands")
    parser.add_argument("--learner", nargs=5, metavar=("NAME", "OPTIONS", "DATASET", "RUN", "RUN20"))
    arguments = parser.parse_args()
    if arguments.learner:
        name, options, dataset, *runs = arguments.learner
        learners.add(name, options, dataset, *map(Path, runs))
    if arguments.add:
        name, *runs = arguments.add
        scores.add(name, list(map(Path, runs)))
    records.further[:] = arguments.records
    stale = []
    for page, name, table in TABLES:
        text = page.read_text()
        before, rest = text.split(f"<!-- {name} -->")
        after = rest.split(f"<!-- /{name} -->")[1]
        made = f"{before}<!-- {name} -->\n{markdown(table.HEADER, table.rows(name))}\n<!-- /{name} -->{after}"
        if made != text:
            stale.append(page.relative_to(ROOT))
        if not arguments.check:
            page.write_text(made)
    if arguments.check and stale:
        pages = ", ".join(map(str, stale))
        sys.exit(f"{pages}: differs from the records in scripts/results; run python scripts/table.py")


if __name__ == "__main__":
    main()
