"""Run a whole published table: train what is not trained yet, score it, keep the scores as a record.

    python scripts/reproduce.py semi_omniglot --splits 3 [--runs runs] [--options data_dir=... ...]
    python scripts/reproduce.py paired_omniglot | pseudo_labels_omniglot
    python scripts/reproduce.py dml_omniglot | dml_miniimagenet | sse_omniglot | pretrained_miniimagenet | folds_omniglot
    python scripts/table.py

`semi_omniglot`, `semi_glyphs`, `semi_miniimagenet`: the table of Ren et al., *Meta-Learning for Semi-Supervised Few-Shot
Classification*, ICLR 2018: five methods, without and with 5 distractor classes, over label splits (split s has
`task.labeled_seed=s seed=s`). `paired_omniglot`: what each wrapper adds to a learner without it, on the same test episodes,
label split 0. `pseudo_labels_omniglot`: the stage of Iscen et al., what it starts from, and as many steps without pseudo-labels.

`dml_omniglot`, `dml_miniimagenet`: every loss of embeddings on the same budget, and the best five by Recall@1 on the validation
classes with further seeds (`--splits` in all). `sse_omniglot`: what an exchange of rows adds to losses with a table, by seed.
`pretrained_miniimagenet`: Prototypical Networks from a classifier of the training classes, and from scratch. `folds_omniglot`: the
contrastive loss by the protocol of Musgrave et al., *A Metric Learning Reality Check*, ECCV 2020, with `--splits` repeats.

Runs are `<runs>/<experiment>/<method>-<distractors>-<split>`, or `<runs>/<experiment>/<loss>-<seed>`; one that has ended is not run
again, one that was stopped goes on. Records are `scripts/results/semi/<experiment>.json`, or `scripts/results/dml/`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

RECORDS = Path(__file__).parent / "results" / "semi"
TABLES = ("semi_omniglot", "semi_glyphs", "semi_miniimagenet")
TRAINED = ("soft_kmeans", "soft_kmeans_cluster", "masked_soft_kmeans")
DISTRACTORS = (0, 5)
BATCHES = {  # what goes with a loss
    "schem": ("trainer.sampler=schem",),
    "divide_and_conquer": ("trainer.sampler=clustered", "head.normalize=true", "head.slices=4"),
}
DML = ("dml_omniglot", "dml_miniimagenet")
BEST = 5
LOSSES = (
    *(
        "triplet",
        "multi_similarity",
        "contrastive",
        "margin",
        "circle",
        "supcon",
        "proxy_nca",
        "soft_triple",
        "classifier",
    ),
    *("n_pair", "lifted_structure", "fastap", "ranked_list", "topk_precision", "upper_bound", "proxy_anchor", "schem"),
    "divide_and_conquer",
)
KEPT = (
    "accuracy",
    "ci95",
    "difference",
    "episodes",
    "episodes_hash",
    "protocol",
    "classes",
    "split_name",
    "class_hash",
    "unlabeled",
    "base_alone",
    "novel_alone",
    "recall@",
    "r_precision",
    "map@r",
    "queries",
)
HOW = (
    "seed",
    "steps",
    "best_step",
    "train/seconds",
    "train/pseudo_label_accuracy",
    "train/refresh_seconds",
    "hardware",
)


def train(run: Path, *options: str) -> Path:
    """The scores of a training run, made now or before."""
    if not (run / "metrics.json").exists():
        again = ["resume=true"] if (run / "config.yaml").exists() else []
        subprocess.run([sys.executable, "-m", "episodic.train", f"run={run}", *options, *again], check=True)
    return run / "metrics.json"


def score(run: Path, *options: str) -> Path:
    """The scores of another evaluation of a run."""
    subprocess.run([sys.executable, "-m", "episodic.evaluate", f"run={run}", *options], check=True)
    return run / "evaluation.json"


def semi(experiment: str, runs: Path, splits: int, options: list[str]) -> None:
    """The table of Ren et al. Without distractors and with them, the supervised learner is the same run."""
    path = RECORDS / f"{experiment}.json"
    for split in range(splits):
        seeds = [f"experiment={experiment}", f"task.labeled_seed={split}", f"seed={split}", *options]
        where = runs / experiment
        plain = where / f"supervised-0-{split}"
        train(plain, *seeds)
        for distractors in DISTRACTORS:
            task = f"task.n_distractors={distractors}"
            keep(path, "supervised", distractors, split, run=plain, scores=score(plain, task))
            inference = score(plain, task, "semi=soft_kmeans")
            keep(path, "semi-supervised inference", distractors, split, run=plain, scores=inference)
            for method in TRAINED:
                run = where / f"{method}-{distractors}-{split}"
                scores = train(run, *seeds, f"semi={method}", task)
                keep(path, method, distractors, split, run=run, scores=scores)


def paired(runs: Path, options: list[str]) -> None:
    """Differences to the learner without the wrapper, on the same test episodes."""
    split = ["seed=0", *options]
    where = runs / "semi_omniglot"
    plain, weighted = where / "supervised-0-0", where / "self_training-0-0"
    null, taught, averaged = (where / f"{name}-shift-0" for name in ("supervised", "mean_teacher", "average"))
    train(plain, "experiment=semi_omniglot", *split)
    train(weighted, "experiment=semi_omniglot", "semi=self_training", *split)
    train(null, "experiment=mean_teacher_omniglot", "semi=supervised", *split)
    train(taught, "experiment=mean_teacher_omniglot", *split)
    train(averaged, "experiment=mean_teacher_omniglot", "semi.mean_teacher.weight=0", *split)
    rows = {
        "soft_kmeans": (plain, plain, "semi=soft_kmeans"),
        "label_propagation": (plain, plain, "semi=label_propagation"),
        "label_propagation, transductive": (
            plain,
            plain,
            "semi=label_propagation",
            "semi.label_propagation.transductive=true",
        ),
        "self_training, no weighting": (plain, plain, "semi=self_training", "semi.self_training.weighting=false"),
        "self_training, meta-learned": (weighted, plain),
        "mean_teacher": (taught, null),
        "mean_teacher, weight 0": (averaged, null),
        "label_propagation over mean_teacher": (taught, taught, "semi=[saved,label_propagation]"),
    }
    for name, (run, rival, *settings) in rows.items():
        for distractors in DISTRACTORS:
            scores = score(run, f"against={rival}", f"task.n_distractors={distractors}", *settings)
            keep(RECORDS / "paired_omniglot.json", name, distractors, 0, run=run, scores=scores)


def pseudo_labels(runs: Path, options: list[str]) -> None:
    """A classifier of 2 drawings a character, then with pseudo-labels for the others, and its control."""
    where = runs / "pseudo_labels_omniglot"
    rows = {
        "labeled drawings only": ("labeled", "experiment=base_omniglot_labeled"),
        "as many steps more, without pseudo-labels": (
            "control",
            "experiment=pseudo_labels_omniglot",
            f"init_from={where / 'labeled'}",
            "semi.pseudo_labels.unlabeled_weight=0",
        ),
        "as many steps more, with pseudo-labels": (
            "pseudo_labels",
            "experiment=pseudo_labels_omniglot",
            f"init_from={where / 'labeled'}",
        ),
    }
    for name, (run, *settings) in rows.items():
        train(where / run, *settings, *options)
        scores = score(where / run, "episodes=10000")
        keep(RECORDS / "pseudo_labels_omniglot.json", name, 0, 0, run=where / run, scores=scores)


def dml(experiment: str, runs: Path, seeds: int, options: list[str]) -> None:
    """Every loss once, then the best five with further seeds."""
    path = RECORDS.with_name("dml") / f"{experiment}.json"

    def one(loss: str, seed: int) -> float:
        run = runs / experiment / f"{loss}-{seed}"
        with_it = BATCHES.get(loss, ())
        scores = train(run, f"experiment={experiment}", f"loss={loss}", f"seed={seed}", *with_it, *options)
        keep(path, loss, seed, run=run, scores=scores)
        return json.loads(scores.read_text())["val/recall@1"]

    found = {loss: one(loss, 0) for loss in LOSSES}
    for loss in sorted(LOSSES, key=found.get)[-BEST:]:
        for seed in range(1, seeds):
            one(loss, seed)


def sse(runs: Path, seeds: int, options: list[str]) -> None:
    """Losses with a table, with each exchange of its rows and without, on the same test episodes, seed by seed."""
    where = runs / "dml_omniglot"
    for loss in ("proxy_nca", "classifier"):
        for seed in range(seeds):
            rivals = {"none": where / f"{loss}-{seed}"}
            rivals |= {exchange: where / f"{loss}-{exchange}-{seed}" for exchange in ("se", "graph")}
            for exchange, run in rivals.items():
                settings = ("experiment=dml_omniglot", f"loss={loss}", f"sse={exchange}", f"seed={seed}")
                train(run, *settings, *options)
                scores = score(run, "retrieval=true", f"against={rivals['none']}")
                keep(RECORDS.with_name("dml") / "sse_omniglot.json", loss, exchange, seed, run=run, scores=scores)


def pretrained(runs: Path, options: list[str]) -> None:
    """Prototypical Networks after a classifier of the training classes, and without, on the same episodes."""
    where, path = runs / "dml_miniimagenet", RECORDS.with_name("dml") / "pretrained_miniimagenet.json"
    first, scratch, after = (where / name for name in ("classifier-0", "protonet-scratch-0", "protonet-pretrained-0"))
    train(first, "experiment=dml_miniimagenet", "loss=classifier", "seed=0", *options)
    short = ("experiment=protonet_miniimagenet", "trainer.steps=1000", "trainer.validate_every=500", *options)
    train(scratch, *short)
    train(after, *short, f"init_from={first}")
    for name, run in (
        ("the classifier's features, by cosine", first),
        ("Prototypical Networks from scratch", scratch),
        ("Prototypical Networks from the classifier", after),
    ):
        keep(path, name, 0, run=run, scores=score(run, f"against={scratch}"))


def folds(runs: Path, repeats: int, options: list[str]) -> None:
    """A loss in cross-validation over folds of the training classes."""
    path, run = RECORDS.with_name("dml") / "folds_omniglot.json", runs / "folds_omniglot" / "contrastive"
    settings = ("experiment=dml_omniglot", "loss=contrastive", f"repeats={repeats}", *options)
    subprocess.run([sys.executable, "-m", "episodic.cross_validate", f"run={run}", *settings], check=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({"contrastive": json.loads((run / "cross_validation.json").read_text())}, indent=1) + "\n"
    )


def keep(path: Path, *place: str | int, run: Path, scores: Path) -> None:
    """Put the scores on the test classes (validation classes where there are none) at `place` in a record."""
    record = json.loads(path.read_text()) if path.exists() else {}
    trained, scored = json.loads((run / "metrics.json").read_text()), json.loads(scores.read_text())
    name = "test" if "test/accuracy" in scored else "val"
    wanted = {key: value for key, value in scored.items() if key.removeprefix(f"{name}/").startswith(KEPT)}
    how = {key: trained[key] for key in HOW if key in trained}
    within = record
    for key in place[:-1]:
        within = within.setdefault(str(key), {})
    within[str(place[-1])] = {**how, **wanted}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=(*TABLES, *DML, *SEEDS, *ALONE))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--options", nargs="*", default=[])
    arguments = parser.parse_args()
    several = (arguments.runs, arguments.splits, arguments.options)
    if arguments.experiment in TABLES:
        semi(arguments.experiment, *several)
    elif arguments.experiment in DML:
        dml(arguments.experiment, *several)
    elif arguments.experiment in SEEDS:
        SEEDS[arguments.experiment](*several)
    else:
        ALONE[arguments.experiment](arguments.runs, arguments.options)


SEEDS = {"sse_omniglot": sse, "folds_omniglot": folds}
ALONE = {
    "paired_omniglot": paired,
    "pseudo_labels_omniglot": pseudo_labels,
    "pretrained_miniimagenet": pretrained,
}

if __name__ == "__main__":
    main()
