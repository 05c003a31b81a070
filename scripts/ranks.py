"""Hold several processes against one: the same steps of training by 1, 2 and 4 processes, for every learner, wrapper, loss and
training procedure, and the evaluation of what comes out.

    python scripts/ranks.py [--processes 2 4] [--only NAME ...] [--out FILE]

Each case takes four small steps on drawn characters. The table has the greatest difference of any weight, statistic or state from
that of one process, beside the farthest that one process moved a weight, and whether the processes score the trained learner to
the last digit as one process scores it: accuracies of all episodes, and retrieval of all images. The exit code is 1 where a weight
differs by more than a ten-thousandth, or a score at all.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed

from episodic.assemble.learner import build_parts
from episodic.assemble.task import build_sampler, count_train_classes, load_store
from episodic.config.compose import compose_config, conf_dir
from episodic.data.store import ImageStore
from episodic.episodes.source import Episodes
from episodic.evaluate.retrieval import retrieval
from episodic.evaluate.scoring import evaluate
from episodic.evaluate.tables import table
from episodic.learners.learner import AbstractMetricLearner
from episodic.run.embed import embeddings_of
from episodic.train.procedure import AbstractProcedure, Setup
from episodic.train.setup import build_procedure

BOUND = 1e-4  # of a difference of weights
BASE = ["task.image_size=16", "task.dataset.drawings=8", "backbone.widths=[8,8]", "device=cpu", "precision=fp32",
        "optimizer=sgd", "optimizer.lr=0.001", "trainer.steps=4"]  # fmt: skip
EPISODES = ["task.train.n_way=5", "task.train.n_query=3", "task.n_query=3", "trainer.episodes_per_step=4"]
UNLABELED = ["task=glyphs_semi_5w1s", "task.n_unlabeled=2", "task.n_query=1", "task.train.n_query=1", "task.train.n_way=5",
             "task.labeled_fraction=0.5", "trainer.episodes_per_step=4"]  # fmt: skip
INCREMENTAL = ["task=glyphs_incremental_5w1s", "task.held_out=0.5", "task.base_query=1", "task.n_query=3",
               "task.train.n_way=5", "task.train.n_query=1"]  # fmt: skip
BATCHES = [
    "trainer=dml",
    "optimizer.lr=0.1",
    "trainer.classes_per_batch=6",
    "trainer.images_per_class=2",
    "task.n_query=3",
]
SMALL = {  # settings of parts that are too large for the case, or need others
    # Their losses are steep: at larger rates roundings grow at once.
    **{loss: ["optimizer.lr=0.001"] for loss in ("circle", "n_pair", "soft_triple")},
    "divide_and_conquer": ["trainer=divide_and_conquer", "head=linear", "head.normalize=true", "head.slices=4",
                           "trainer.recluster_every=2", "trainer.finish=0.3"],
    "schem": ["trainer=schem"],
    "pseudo_labels": ["learner=base_classifier", "semi.pseudo_labels.neighbors=5", "semi.pseudo_labels.batch=10",
                      "semi.pseudo_labels.labeled_per_batch=4", "semi.pseudo_labels.refresh_every=2"],
    "self_training": ["semi.self_training.retrain_steps=3", "semi.self_training.finetune_steps=2"],
    "label_propagation": ["semi.label_propagation.neighbors=3"],
    "tpn": ["learner.neighbors=3"],
    "base_classifier": ["optimizer.lr=0.1"],
    "attention_attractor": ["optimizer.lr=1"],
}  # fmt: skip


def cases() -> dict[str, list[str]]:
    """The options of each case, by name. Every option of `conf/learner`, `conf/semi` and `conf/loss` is in one."""
    found: dict[str, list[str]] = {}
    for learner in options("learner"):
        found[learner] = [f"learner={learner}", *EPISODES, *SMALL.get(learner, [])]
    for semi in options("semi"):
        shape = [*INCREMENTAL, "task.labeled_fraction=0.5"] if semi == "pseudo_labels" else UNLABELED
        found[semi] = [f"semi={semi}", *shape, *SMALL.get(semi, [])]
    for loss in options("loss"):
        shape = EPISODES if loss == "cross_entropy" else BATCHES
        found[f"loss {loss}"] = [f"loss={loss}", *shape, *SMALL.get(loss, [])]
    found |= {
        "matching full_context": ["learner=matching", "learner.full_context=true", *EPISODES],
        "attention_attractor incremental": [
            "learner=attention_attractor",
            "optimizer.lr=1",
            *INCREMENTAL,
            "trainer.episodes_per_step=4",
        ],
        "base_classifier sse": [
            "learner=base_classifier",
            "optimizer.lr=0.1",
            "sse=se",
            "sse.probability=0.5",
            *EPISODES,
        ],
        "cross_attention sse": ["learner=cross_attention", "sse=se", "sse.probability=0.5", *EPISODES],
        "maml with mean_teacher": ["learner=maml", "semi=mean_teacher", *UNLABELED],
        "losses of episodes": ["loss=[cross_entropy,triplet,proxy_nca]", "sse=se", "sse.probability=0.5", *EPISODES],
        "transform cl2n": ["learner=prototypical", "transform=cl2n", *EPISODES],
        "five episodes": ["learner=prototypical", *EPISODES[:-1], "trainer.episodes_per_step=5"],
        "memory": ["loss=contrastive", "memory=xbm", "memory.start=1", "memory.size=30", *BATCHES],
        **{
            f"sampler {s}": ["loss=triplet", f"trainer.sampler={s}", *BATCHES]
            for s in ("coreset", "density", "frechet")
        },
        "adam, clipped": [
            "optimizer=adam",
            "optimizer.lr=0.001",
            "trainer.clip_norm=0.5",
            "backbone.bias=false",
            *EPISODES,
        ],
        "jitter": ["augment.jitter=0.3", "augment.flip=true", *EPISODES],
    }
    return {name: [*BASE, "augment=shift", *chosen] for name, chosen in found.items()}


def options(group: str) -> list[str]:
    """The options of a group of `conf/`."""
    return sorted(path.stem for path in (conf_dir() / group).glob("[!_]*.yaml"))


def built(chosen: list[str]) -> tuple[AbstractProcedure, ImageStore, Episodes]:
    """The training procedure of a case, and the images and episodes on which it is scored."""
    cfg = compose_config("train", chosen)
    count_train_classes(cfg)
    parts = build_parts(cfg)
    # PyTorch's batch norm on a CPU sums the layout channels_last in float32 one by one, which alone may be off by a thousandth.
    parts.learner.to(memory_format=torch.contiguous_format)
    store = load_store(parts.dataset, cfg.task, "val")
    episodes = build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream="val", episodes=40)
    return build_procedure(cfg, parts), store, episodes


def weights(procedure: AbstractProcedure) -> dict[str, Tensor]:
    """What the optimizer moves, in float64, by number."""
    moved = [p for group in procedure.optimizer.param_groups for p in group["params"]]
    return {str(number): p.detach().double().clone() for number, p in enumerate(moved)}


def everything(procedure: AbstractProcedure) -> dict[str, Tensor]:
    """All weights, statistics, and the state of the training procedure."""
    state = procedure.setup.learner.state_dict() | {f"+{k}": v for k, v in procedure.state.state_dict().items()}
    return {name: value.detach().double().clone() for name, value in state.items() if value.is_floating_point()}


def scores(setup: Setup, store: ImageStore, episodes: Episodes) -> dict[str, np.ndarray]:
    """The accuracy of each episode, and what each image retrieves."""
    found = {"accuracy": evaluate(setup.learner, store, episodes, setup.normalize, setup.hardware).accuracies}
    if isinstance(setup.learner, AbstractMetricLearner):
        found |= retrieval(*embeddings_of(setup.learner, store, setup.normalize, setup.hardware)).values
    return found


def process(number: int, count: int, place: str, names: list[str]) -> None:
    """What one of `count` processes does: all cases, one after the other."""
    torch.set_num_threads(1)
    for name in names:
        if count > 1:
            meeting = f"file://{place}/{count}-{name.replace(' ', '_')}"
            distributed.init_process_group("gloo", init_method=meeting, rank=number, world_size=count)
        procedure, *scored = built(cases()[name])
        before = weights(procedure)
        with contextlib.redirect_stdout(io.StringIO()):  # some trainings print
            procedure.fit_transforms()
            for _ in range(procedure.steps):
                procedure.training_step()
            procedure.fit_transforms()
        moved = farthest(before, weights(procedure))
        after, together = everything(procedure), scores(procedure.setup, *scored)
        if count > 1:
            distributed.destroy_process_group()
        alone = scores(procedure.setup, *scored)
        same = all(np.array_equal(together[key], alone[key]) for key in alone)
        if number == 0:
            torch.save({"moved": moved, "after": after, "same": same}, f"{place}/{count}-{name}.pt")


def compared(place: Path, name: str, counts: list[int]) -> dict[str, float | bool]:
    """What the processes made of a case, beside what one process made of it."""
    one = torch.load(place / f"1-{name}.pt")
    found: dict[str, float | bool] = {"moved": one["moved"]}
    for count in counts:
        several = torch.load(place / f"{count}-{name}.pt")
        found |= {
            f"difference by {count}": farthest(one["after"], several["after"]),
            f"equal scores by {count}": several["same"],
        }
    return found


def farthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The greatest difference of two tensors of the same name."""
    if a.keys() != b.keys():
        return float("nan")
    return max(float((a[name] - b[name]).abs().max()) for name in a if a[name].numel())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--only", nargs="+", default=list(cases()), metavar="NAME", choices=list(cases()))
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    given = parser.parse_args(arguments)
    context = multiprocessing.get_context("fork")  # all imports are done once
    with tempfile.TemporaryDirectory() as place:
        for count in (1, *given.processes):
            workers = [context.Process(target=process, args=(n, count, place, given.only)) for n in range(count)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            if any(worker.exitcode for worker in workers):
                return 1
        found = {name: compared(Path(place), name, given.processes) for name in given.only}
    heads = ["case", "moved", *(h for n in given.processes for h in (f"difference by {n}", f"equal scores by {n}"))]
    rows = [[name, *(shown(values[head]) for head in heads[1:])] for name, values in found.items()]
    print(table(heads, rows))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")
    wrong = beyond(found, given.processes)
    names = f", {len(wrong)} not: {', '.join(wrong)}" if wrong else ""
    print(f"{len(found) - len(wrong)} cases within {BOUND:g}{names}")
    return int(bool(wrong))


def beyond(found: dict[str, dict[str, float | bool]], counts: list[int]) -> list[str]:
    """The cases in which a weight differs too much, or a score at all."""

    def agree(values: dict[str, float | bool], count: int) -> bool:
        return values[f"difference by {count}"] <= BOUND and bool(values[f"equal scores by {count}"])

    return [name for name, values in found.items() if not all(agree(values, count) for count in counts)]


def shown(value: float | bool) -> str:
    """A number or an answer in a table."""
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.1e}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
