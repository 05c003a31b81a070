"""Every argument of learners, wrappers, data sets, samplers and backbones, given the values that its annotation rules out."""

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from episodic import EpisodeSampler, IncrementalEpisodes
from episodic.config.compose import conf_dir
from episodic.core.backbones.conv4 import Conv4
from episodic.core.backbones.resnet12 import ResNet12
from episodic.core.backbones.resnet18 import ResNet18
from episodic.data.augment import Augment
from episodic.data.image import PictureForm
from episodic.data.sets.cifarfs import CIFARFS
from episodic.data.sets.cub import CUB
from episodic.data.sets.fc100 import FC100
from episodic.data.sets.folder import Folder
from episodic.data.sets.glyphs import Glyphs
from episodic.data.sets.miniimagenet import MiniImageNet
from episodic.data.sets.omniglot import Omniglot
from episodic.data.sets.tieredimagenet import TieredImageNet
from episodic.learners.anil import ANIL
from episodic.learners.attention_attractor import AttentionAttractor
from episodic.learners.base_classifier import BaseClassifier
from episodic.learners.cross_attention import CrossAttention
from episodic.learners.maml import MAML
from episodic.learners.matching import Matching
from episodic.learners.prototypical import Prototypical
from episodic.learners.relation import Relation
from episodic.learners.tpn import TPN
from episodic.semi.label_propagation import LabelPropagation
from episodic.semi.masked_soft_kmeans import MaskedSoftKMeans
from episodic.semi.mean_teacher import mean_teacher
from episodic.semi.pseudo_labels import PseudoLabels
from episodic.semi.self_training import SelfTraining
from episodic.semi.soft_kmeans import SoftKMeans
from episodic.semi.soft_kmeans_cluster import SoftKMeansCluster
from tests.bad_input import INF, NAN, Call, complaint

LABELS = [c for c in range(6) for _ in range(12)]
MAPS = functools.partial(Conv4, 1, 8, (4, 4), output="map", pools=1)
VECTORS = functools.partial(Conv4, 1, 8, (4, 4))
NUMBERS = ("n_base", "n_way", "n_shot", "n_query", "base_way", "base_query")

# What a call must give, made anew each time; everything else keeps its default.
LEARNER = {"learner": lambda: Prototypical(VECTORS())}
NEEDED = [
    ((Prototypical, Matching), {"backbone": VECTORS}),
    ((Relation, TPN), {"backbone": MAPS}),
    ((MAML, ANIL), {"backbone": VECTORS, "n_way": lambda: 3}),
    ((BaseClassifier, AttentionAttractor), {"backbone": VECTORS, "n_classes": lambda: 4}),
    ((CrossAttention,), {"backbone": MAPS, "n_classes": lambda: 4}),
    ((SoftKMeans, SoftKMeansCluster, MaskedSoftKMeans, LabelPropagation, SelfTraining, mean_teacher), LEARNER),
    ((PseudoLabels,), {"learner": lambda: BaseClassifier(VECTORS(), 4)}),
    ((CIFARFS, CUB, FC100, Glyphs, MiniImageNet, Omniglot, TieredImageNet, Augment, PictureForm), {}),
    ((Conv4, ResNet12, ResNet18), {}),
    ((Folder,), {"path": lambda: "."}),
    ((EpisodeSampler,), {"labels": lambda: LABELS, "n_way": lambda: 3, "n_query": lambda: 2}),
    ((IncrementalEpisodes,), {"labels": lambda: LABELS} | {name: lambda: 2 for name in NUMBERS}),
]
CONSTRUCTORS = {constructor: needed for constructors, needed in NEEDED for constructor in constructors}
WRONG = {
    int: ["3", "abc", 1.5, 2.0, NAN, INF, True, np.True_, None, ["3"], {}, np.array([3.0]), torch.tensor(2.5), -1],
    float: ["0.5", "abc", NAN, INF, -INF, True, np.False_, None, [0.5], {}, 1j, np.array([0.5]), -1.0],
    bool: ["no", "false", "True", 0, 1, 1.0, None, [True], np.int64(1), np.array([True])],
    str: ["nonsense", None, 1, True, 2.5, ["nonsense"], b"bytes"],
}
ODD = {
    int: [np.int64, np.int32, np.array, torch.tensor],
    float: [np.float64, np.array, functools.partial(torch.tensor, dtype=torch.float64)],
    bool: [np.bool_, np.array],
    str: [np.str_],
}
PATHS = {"root", "path"}  # any string will do
NEGATIVE = {"seed", "epoch"}  # may be below 0


def plain_type(hint) -> tuple[type | None, bool]:
    """The type of a single value that an annotation stands for, and whether None may stand in its place."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    options = typing.get_args(hint) if union else (hint,)
    first, *others = [
        type(typing.get_args(o)[0]) if typing.get_origin(o) is typing.Literal else o
        for o in options
        if o is not type(None)
    ]
    ranges = first is int and all(typing.get_origin(o) is Sequence for o in others)
    return first if first in WRONG and (ranges or not others) else None, type(None) in options


def arguments(constructor: Callable) -> dict[str, tuple[type, bool]]:
    """The arguments of plain types."""
    hints = typing.get_type_hints(constructor.__init__ if isinstance(constructor, type) else constructor)
    found = {name: plain_type(hint) for name, hint in hints.items() if name not in {*PATHS, "return"}}
    return {name: (kind, none) for name, (kind, none) in found.items() if kind}


def build(constructor: Callable, settings: dict):
    torch.manual_seed(0)
    return constructor(**{name: make() for name, make in CONSTRUCTORS[constructor].items()} | settings)


def bad_calls() -> Iterator[Call]:
    for constructor in CONSTRUCTORS:
        for name, (kind, may_be_none) in arguments(constructor).items():
            for value in WRONG[kind]:
                negative = type(value) is int and value == -1 and name in NEGATIVE
                if not negative and not (value is None and may_be_none):
                    call = functools.partial(build, constructor, {name: value})
                    yield f"{constructor.__name__}({name}={value!r})", name, call


def odd_calls() -> Iterator[tuple[Callable, str, Callable]]:
    for constructor, needed in CONSTRUCTORS.items():
        defaults = {name: p.default for name, p in inspect.signature(constructor).parameters.items()}
        for name, (kind, _) in arguments(constructor).items():
            usual = needed[name]() if name in needed else defaults[name]
            if usual is not None:
                yield from ((constructor, name, wrap(usual)) for wrap in ODD[kind])


def settings_of(built) -> dict[str, str]:
    """What a built object holds, in words."""
    held = vars(built) | vars(getattr(built, "inner_loop", built))
    return {name: re.sub(r" at 0x\w+", "", repr(value)) for name, value in held.items()}


@pytest.mark.parametrize("constructor", CONSTRUCTORS, ids=lambda c: c.__name__)
def test_wrong_values_are_refused_by_the_arguments_name(constructor):
    wrong = [
        (what, complaint(call, name)) for what, name, call in bad_calls() if what.startswith(f"{constructor.__name__}(")
    ]
    assert wrong
    assert [(what, why) for what, why in wrong if why] == []


@pytest.mark.parametrize("constructor", CONSTRUCTORS, ids=lambda c: c.__name__)
def test_values_of_numpy_and_torch_are_those_of_python(constructor):
    usual = settings_of(build(constructor, {}))
    for made, name, value in odd_calls():
        if made is constructor:
            assert settings_of(build(constructor, {name: value})) == usual, (name, value)


def test_every_option_of_these_rooms_is_here():
    targets = set()
    for group in ("learner", "semi", "dataset", "augment"):
        for file in (conf_dir() / group).glob("[!_]*.yaml"):
            targets |= set(re.findall(r"_target_: episodic\.\S*?(\w+)$", file.read_text(), re.MULTILINE))
    assert targets - {"supervised"} <= {constructor.__name__ for constructor in CONSTRUCTORS}
