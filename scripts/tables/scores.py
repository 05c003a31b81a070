"""Writes the tables of README.md and scripts/results/README.md from the run records in `scripts/results`.

    python scripts/table.py                       # rewrites the tables
    python scripts/table.py --check               # fails where they say otherwise
    python scripts/table.py --add RUN NAME EXPERIMENT TASK PAPER   # first keeps the last evaluation of a run
    python scripts/table.py --learner NAME OPTIONS DATASET RUN RUN20   # first keeps a cell of the table of learners

A record holds what `episodic.evaluate` found and how the run was trained. A cell of the table of learners (`learners/`) is a
run of `experiment=learners_<dataset> OPTIONS`: its own 5-way test, and the 20-way test of RUN20, which is the last evaluation of
the same run, or the own test of another one where the learner has a head of fixed size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from episodic.evaluate.intervals import repeats_interval
from episodic.evaluate.tables import percent

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
PARTS = {"new": "novel", "base": "base", "Δ": "delta"}
DATASETS = ("omniglot", "glyphs")
LEARNERS = [
    "`experiment=learners_...`",
    *(f"{d} {w}-way" for d in DATASETS for w in (5, 20)),
    "train, episodes/s",
    "peak, GiB",
]
SEMI_EXPERIMENTS = ("semi_omniglot", "semi_glyphs", "semi_miniimagenet")
PAIRED = ["wrapper", "no distractors", "difference", "5 distractor classes", "difference"]
PSEUDO = [
    "training on 1,028 characters",
    "its classifier, on held-out drawings",
    "5-way 1-shot, new characters",
    "pseudo-labels right, %",
    "s a refresh",
    "steps",
]
SEMI = ["method", "no distractors", "paper", "5 distractor classes", "paper", "splits", "right, of the weight given"]
SEMI_PAPER = {  # Ren et al., 2018: without and with distractors
    "semi_omniglot": {
        "supervised": ("94.62", "94.62"),
        "semi-supervised inference": ("97.45", "95.08"),
        "soft_kmeans": ("97.25", "95.01"),
        "soft_kmeans_cluster": ("97.68", "97.17"),
        "masked_soft_kmeans": ("97.52", "97.30"),
    },
    "semi_miniimagenet": {
        "supervised": ("43.61", "43.61"),
        "semi-supervised inference": ("48.98", "47.42"),
        "soft_kmeans": ("50.09", "48.70"),
        "soft_kmeans_cluster": ("49.03", "48.86"),
        "masked_soft_kmeans": ("50.41", "49.04"),
    },
}
HEADER = ["command", "protocol", "classes scored", "paper (test)", "ours", "over classes", "training"]

DML = ["`loss=`", "Recall@1", "MAP@R", "5-way 1-shot", "seeds", "training, s"]
SSE = ["", "5-way 1-shot", "difference", "Recall@1", "difference", "seeds"]
PRETRAINED = ["training", "5-way 1-shot", "difference", "steps"]
PAIRS = (("accuracy", "ci95", ""), ("difference", "difference_ci95", "+"))
FOLDS = [
    "`loss=`",
    *(f"{kind}, {metric}" for kind in ("separated", "concatenated") for metric in ("Recall@1", "MAP@R")),
    "5-way 1-shot",
]


def rows() -> list[list[str]]:
    """One row a record, in the order of their file names."""
    made = []
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text())
        split = "test" if "test/accuracy" in record else "val"
        accuracy, half, classes = (record[f"{split}/{key}"] for key in ("accuracy", "ci95", "class_ci95"))
        ours = f"{100 * accuracy:.2f} ± {100 * half:.2f}"
        if f"{split}/delta" in record:
            parts = (f"{kind} {100 * record[f'{split}/{key}']:.1f}" for kind, key in PARTS.items())
            ours += f" ({', '.join(parts)} ± {100 * record[f'{split}/delta_ci95']:.1f})"
        minutes = record["train/seconds"] / 60
        made.append(
            [
                f"`experiment={record['experiment']}`, `task={record['task']}`",
                f"{record[f'{split}/protocol']}; {record[f'{split}/episodes']:,} episodes",
                f"{split}, {record[f'{split}/classes']} ({record[f'{split}/split_name']})",
                record["paper"],
                ours,
                f"{100 * classes[0]:.1f} to {100 * classes[1]:.1f}",
                f"{minutes:.0f} min, {record['train/hardware']}",
            ]
        )
    return made


def learner_rows() -> list[list[str]]:
    """One row a learner, in the order of the 5-way accuracy on the first data set."""
    records = [json.loads(path.read_text()) for path in (RESULTS / "learners").glob("*.json")]
    records.sort(key=lambda record: -record[DATASETS[0]]["5"]["test/accuracy"])
    made = []
    for record in records:
        tests = [record.get(dataset, {}).get(way) for dataset in DATASETS for way in ("5", "20")]
        cells = [
            f"{100 * test['test/accuracy']:.2f} ± {100 * test['test/ci95']:.2f}" if test else "–" for test in tests
        ]
        for i, test in enumerate(tests):
            if test and test["test/episodes"] != 10_000:
                cells[i] += f" ({test['test/episodes']:,})"
        note = " (transductive)" if ", transductive" in tests[0]["test/protocol"] else ""
        trained = record[DATASETS[0]]["training"]
        speed = f"{trained['train/episodes_per_second']:.1f}"
        made.append([f"`{record['options']}`{note}", *cells, speed, f"{trained['train/peak_memory_gib']:.1f}"])
    return made


def semi_rows(experiment: str) -> list[list[str]]:
    """One row a method: mean over label splits, with their standard deviation, beside the paper's."""
    path = RESULTS / "semi" / f"{experiment}.json"
    made = []
    for method, records in json.loads(path.read_text()).items() if path.exists() else ():
        cells, purity, splits = [], [], set()
        for i, distractors in enumerate(("0", "5")):
            of = list(records.get(distractors, {}).values())
            name = "val" if of and "val/accuracy" in of[0] else "test"
            values = [100 * scores[f"{name}/accuracy"] for scores in of]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}" if of else "–")
            cells.append(SEMI_PAPER.get(experiment, {}).get(method, ("–", "–"))[i])
            splits.add(str(len(of)))
            if of and f"{name}/unlabeled_purity" in of[0]:
                purity.append(f"{statistics.mean(100 * scores[f'{name}/unlabeled_purity'] for scores in of):.1f}")
        made.append([method, *cells, "/".join(sorted(splits)), " / ".join(purity) or "–"])
    return made


def paired_rows() -> list[list[str]]:
    """One row a wrapper: accuracy with it, and the paired difference to the learner without it."""
    path = RESULTS / "semi" / "paired_omniglot.json"
    made = []
    for name, records in json.loads(path.read_text()).items() if path.exists() else ():
        cells = []
        for distractors in ("0", "5"):
            scores = records[distractors]["0"]
            difference, half = (100 * scores[f"test/{key}"] for key in ("difference", "difference_ci95"))
            cells += [f"{100 * scores['test/accuracy']:.2f}", f"{difference:+.2f} ± {half:.2f}"]
        made.append([name, *cells])
    return made


def pseudo_rows() -> list[list[str]]:
    """One row a training: the classifier on images of its classes that it has not seen, and few-shot accuracy of new classes."""
    path = RESULTS / "semi" / "pseudo_labels_omniglot.json"
    made = []
    for name, records in json.loads(path.read_text()).items() if path.exists() else ():
        scores = records["0"]["0"]
        cells = [
            f"{100 * scores[f'test/{key}']:.2f} ± {100 * scores[f'test/{key}_ci95']:.2f}"
            for key in ("base_alone", "novel_alone")
        ]
        right, seconds = (scores.get(f"train/{key}") for key in ("pseudo_label_accuracy", "refresh_seconds"))
        cells += [f"{100 * right:.1f}" if right else "–", f"{seconds:.1f}" if seconds else "–"]
        made.append([name, *cells, str(scores["steps"])])
    return made


def over_seeds(values: list[float]) -> str:
    """Mean, and the standard deviation where there are several."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def dml_rows(experiment: str) -> list[list[str]]:
    """One row a loss, the best by Recall@1 first."""
    path = RESULTS / "dml" / f"{experiment}.json"
    rows = []
    for loss, records in json.loads(path.read_text()).items() if path.exists() else ():
        of = list(records.values())
        name = "test" if "test/accuracy" in of[0] else "val"
        values = [[scores[f"{name}/{key}"] for scores in of] for key in ("recall@1", "map@r", "accuracy")]
        seconds = statistics.mean(scores["train/seconds"] for scores in of)
        rows.append((values[0], [f"`{loss}`", *map(over_seeds, values), str(len(of)), f"{seconds:.0f}"]))
    return [row for _, row in sorted(rows, key=lambda item: -statistics.mean(item[0]))]


def sse_rows() -> list[list[str]]:
    """One row a loss and exchange: means over seeds, and the mean difference to none with its 95 % interval over seeds."""
    path, made = RESULTS / "dml" / "sse_omniglot.json", []
    for loss, exchanges in json.loads(path.read_text()).items() if path.exists() else ():
        for exchange, records in exchanges.items():
            cells = []
            for key in ("accuracy", "recall@1"):
                values = {seed: scores[f"test/{key}"] for seed, scores in records.items()}
                cells.append(over_seeds(list(values.values())))
                gains = [100 * (values[seed] - exchanges["none"][seed][f"test/{key}"]) for seed in values]
                gain = repeats_interval(gains)
                shown = f"{gain.mean:+.2f}" + (f" ± {gain.half_width:.2f}" if len(gains) > 1 else "")
                cells.append("–" if exchange == "none" else shown)
            made.append([f"`loss={loss} sse={exchange}`", *cells, str(len(records))])
    return made


def folds_rows() -> list[list[str]]:
    """One row a loss: means over repeats, with their 95 % interval."""
    path, made = RESULTS / "dml" / "folds_omniglot.json", []
    for loss, record in json.loads(path.read_text()).items() if path.exists() else ():
        kinds = [f"{kind}/{metric}" for kind in ("separated", "concatenated") for metric in ("recall@1", "map@r")]
        made.append([f"`{loss}`", *(percent(repeats_interval(record[key])) for key in (*kinds, "separated/accuracy"))])
    return made


def pretrained_rows() -> list[list[str]]:
    """One row a training: accuracy, and the paired difference to training from scratch."""
    path, made = RESULTS / "dml" / "pretrained_miniimagenet.json", []
    for name, records in json.loads(path.read_text()).items() if path.exists() else ():
        scores = records["0"]
        cells = [f"{100 * scores[f'val/{a}']:{sign}.2f} ± {100 * scores[f'val/{b}']:.2f}" for a, b, sign in PAIRS]
        made.append([name, cells[0], "–" if "scratch" in name else cells[1], str(scores["steps"])])
    return made


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A table, as it stands in the README between its marks."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])


def add_learner(name: str, options: str, dataset: str, run: Path, run20: Path) -> None:
    """Keep a learner's scores on `dataset`."""
    path = RESULTS / "learners" / f"{name}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    trained = json.loads((run / "metrics.json").read_text())
    again = run20 / ("evaluation.json" if run == run20 else "metrics.json")
    scored = json.loads(again.read_text()) if again.exists() else {}
    training = {key: value for key, value in trained.items() if not key.startswith(("val/", "test/"))}
    tests = {
        way: {k: v for k, v in of.items() if k.startswith("test/")} for way, of in (("5", trained), ("20", scored))
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({**record, "options": options, dataset: {"training": training, **tests}}, indent=1) + "\n"
    )


def add(run: Path, name: str, experiment: str, task: str, paper: str) -> None:
    """Keep the scores of a run (its last evaluation) as a record, with how it was trained."""
    trained = json.loads((run / "metrics.json").read_text())
    scored = json.loads((run / "evaluation.json").read_text())
    how = {"experiment": experiment, "task": task, "paper": paper, "train/hardware": trained["hardware"]}
    kept = {key: trained[key] for key in ("steps", "best_step", "train/seconds", "train/classes", "train/class_hash")}
    scored.pop("run")
    record = {**how, **kept, "train/seed": trained["seed"], **scored}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--add", nargs=5, metavar=("RUN", "NAME", "EXPERIMENT", "TASK", "PAPER"))
    parser.add_argument("--learner", nargs=5, metavar=("NAME", "OPTIONS", "DATASET", "RUN", "RUN20"))
    arguments = parser.parse_args()
    if arguments.learner:
        name, options, dataset, *runs = arguments.learner
        add_learner(name, options, dataset, *map(Path, runs))
    if arguments.add:
        run, name, *how = arguments.add
        add(Path(run), name, *how)
    stale = []
    for page, mark, header, lines in (
        (README, "results", HEADER, rows()),
        (RESULTS / "README.md", "learners", LEARNERS, learner_rows()),
        *((RESULTS / "README.md", name, SEMI, semi_rows(name)) for name in SEMI_EXPERIMENTS),
        (RESULTS / "README.md", "paired_omniglot", PAIRED, paired_rows()),
        (RESULTS / "README.md", "pseudo_labels_omniglot", PSEUDO, pseudo_rows()),
        *((RESULTS / "README.md", name, DML, dml_rows(name)) for name in ("dml_omniglot", "dml_miniimagenet")),
        (RESULTS / "README.md", "sse_omniglot", SSE, sse_rows()),
        (RESULTS / "README.md", "folds_omniglot", FOLDS, folds_rows()),
        (RESULTS / "README.md", "pretrained_miniimagenet", PRETRAINED, pretrained_rows()),
    ):
        text = page.read_text()
        before, rest = text.split(f"<!-- {mark} -->")
        after = rest.split(f"<!-- /{mark} -->")[1]
        made = f"{before}<!-- {mark} -->\n{markdown(header, lines)}\n<!-- /{mark} -->{after}"
        if made != text:
            stale.append(page.relative_to(README.parent))
        if not arguments.check:
            page.write_text(made)
    if arguments.check and stale:
        sys.exit(f"{', '.join(map(str, stale))}: not what scripts/results says; run python scripts/table.py")


if __name__ == "__main__":
    main()
