"""The types of the settings that no class takes: those of the commands, of a task, and of what the assembly reads of a part.

A setting that is an argument of a class has its type there.
"""

from __future__ import annotations

from typing import Literal

Range = int | tuple[int, int]


class Command:
    """What all commands share."""

    data_dir: str | None
    allow_any_target: bool


class Train(Command):
    """`conf/train.yaml`."""

    device: str
    precision: Literal["auto", "fp32", "bf16"]
    sync_batch_norm: bool
    run: str | None
    init_from: str | None
    resume: bool
    episodes: int
    seed: int


class CrossValidate(Train):
    """`conf/cross_validate.yaml`."""

    run: str
    repeats: int


class Scored(Command):
    """What commands on a trained run share."""

    device: str | None
    precision: Literal["auto", "fp32", "bf16"] | None
    run: str
    against: str | None
    split: Literal["train", "val", "test"]
    episodes: int | str
    seed: int


class Evaluate(Scored):
    """`conf/evaluate.yaml`."""

    split: Literal["train", "val", "test", "all"]
    save_episodes: str | None
    retrieval: bool
    clustering: bool
    audit: bool


class Report(Scored):
    """`conf/report.yaml`."""

    out: str | None


class Pictures(Command):
    """What commands on people's own pictures share."""

    device: str
    precision: Literal["auto", "fp32", "bf16"] | None
    run: str | None
    model: str | None
    abstain: float | Literal["auto"] | None
    max_error: float | None
    invert: bool | None
    seed: int | None


class Predict(Pictures):
    """`conf/predict.yaml`."""

    support: str | None
    query: str | None
    unlabeled: str | None
    out: str | None
    save: str | None


class Demo(Pictures):
    """`conf/demo.yaml`."""

    port: int


class Doctor(Command):
    """`conf/doctor.yaml`."""

    data: str | None
    run: str | None
    near: int | None
    sources: bool
    out: str | None


class Shape:
    """The numbers of an episode."""

    n_way: Range
    n_shot: Range
    n_query: Range
    n_unlabeled: Range
    n_distractors: Range


class Task(Shape):
    """`conf/task/_base.yaml`."""

    train: Shape
    channels: int
    image_size: int
    imbalanced: bool
    within_super_class: bool
    too_small: Literal["error", "drop"]
    labeled_fraction: float
    labeled_seed: int
    base_way: int
    base_query: int
    held_out: float
    fold: int | None
    folds: int
    train_classes: int | None


class Part:
    """What the assembly reads of a part, beside the arguments of its class."""

    weight: float
    lr_multiplier: float
    edges: str | None


COMMANDS = {
    "train": Train,
    "cross_validate": CrossValidate,
    "evaluate": Evaluate,
    "report": Report,
    "predict": Predict,
    "demo": Demo,
    "doctor": Doctor,
}
