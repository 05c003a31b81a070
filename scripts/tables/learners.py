"""All learners side by side on one small budget: `experiment=learners_omniglot` and `learners_glyphs`.

    python scripts/table.py --learner NAME OPTIONS DATASET RUN RUN20

keeps one cell: the 5-way test of RUN, a run of `experiment=learners_<dataset> OPTIONS`, and the 20-way test of RUN20. RUN20 is the
same run where the 20-way test is its last evaluation, or another run where the learner has a head of fixed size.
"""

from __future__ import annotations

import json
from pathlib import Path

from episodic.run.run import Run
from tables import records

DATASETS = ("omniglot", "glyphs")
HEADER = [
    "`experiment=learners_...`",
    *(f"{d} {w}-way" for d in DATASETS for w in (5, 20)),
    "train, episodes/s",
    "peak, GiB",
]
RENAMED = {"start=<": "init_from=<"}  # options that had other names when the records were made


def rows(name: str) -> list[list[str]]:
    """One row a learner, in the order of the 5-way accuracy on the first data set."""
    found = [json.loads(path.read_text()) for path in (records.RESULTS / "learners").glob("*.json")]
    found.sort(key=lambda record: -record[DATASETS[0]]["5"]["test/accuracy"])
    made = []
    for record in found:
        tests = [record.get(dataset, {}).get(way) for dataset in DATASETS for way in ("5", "20")]
        cells = [
            f"{100 * test['test/accuracy']:.2f} ± {100 * test['test/ci95']:.2f}" if test else "–" for test in tests
        ]
        for i, test in enumerate(tests):
            if test and test["test/episodes"] != 10_000:
                cells[i] += f" ({test['test/episodes']:,})"
        note = " (transductive)" if ", transductive" in tests[0]["test/protocol"] else ""
        options = record["options"]
        for before, now in RENAMED.items():
            options = options.replace(before, now)
        trained = record[DATASETS[0]]["training"]
        speed = f"{trained['train/episodes_per_second']:.1f}"
        made.append([f"`{options}`{note}", *cells, speed, f"{trained['train/peak_memory_gib']:.1f}"])
    return made


def add(name: str, options: str, dataset: str, run: Path, run20: Path) -> None:
    """Keep a learner's scores on `dataset`."""
    trained = json.loads((run / "metrics.json").read_text())
    others = Run(run).evaluations() if run == run20 else [run20 / "metrics.json"]
    scored = json.loads(others[-1].read_text()) if others and others[-1].exists() else {}
    training = {key: value for key, value in trained.items() if not key.startswith(("val/", "test/"))}
    tests = {
        way: {k: v for k, v in of.items() if k.startswith("test/")} for way, of in (("5", trained), ("20", scored))
    }
    record = records.read(f"learners/{name}")
    records.write(f"learners/{name}", {**record, "options": options, dataset: {"training": training, **tests}})
