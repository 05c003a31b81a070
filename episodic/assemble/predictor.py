"""Names items after examples: `Predictor.fit` keeps the examples, and `Predictor.answers` asks a learner about other items.

It is the Python interface behind `episodic.predict`, `episodic.demo` and `FewShotClassifier`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from episodic.assemble.model import Choices, Model, model_of
from episodic.assemble.saved import PREFIX, read_saved, saved_settings, write_saved
from episodic.core.distances.cosine import Cosine
from episodic.core.distances.euclidean import Euclidean
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.core.functional.finite import why_not_finite
from episodic.data.augment import Normalize
from episodic.data.image import PictureForm, as_pictures
from episodic.data.store import ImageStore
from episodic.episodes.arguments import file_path, flag, flat_array, instance, number, refuse, strings
from episodic.episodes.task import Task
from episodic.learners.learner import AbstractMetricLearner
from episodic.run.embed import CHUNK_BYTES, EMBED_BATCH, embed
from episodic.semi.wrapper import unwrapped

PAIRS = 2**24  # so many pairs of a query and a support item are compared at once
# The settings that a saved file keeps, with their defaults.
DEFAULTS = {"invert": False, "abstain": None, "max_error": 0.1, "precision": "fp32"}
MANY = 100  # from so many pictures on, a progress bar is shown


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one query.

    - `label`: the name of the most probable class. `probability`: that of this class. `abstain`: whether it is too low to count.
    - `nearest`: the index of the nearest support item, by the learner's `distance`, by the cosine where it has none.
    - `similarity`: the cosine of the embeddings of query and nearest item. Both are None for a learner without embeddings.
    """

    label: Any
    probability: float
    nearest: int | None
    similarity: float | None
    abstain: bool


class Predictor:
    """Names items after a few examples of each class. Nothing is trained.

    It is `episodic.FewShotClassifier` without scikit-learn, which takes seconds to import; arguments and attributes are the same.

    >>> from episodic.assemble.predictor import Predictor
    >>> predictor = Predictor().fit([[0, 0], [1, 1]], ["a", "b"])  # features; pictures need a model, e.g. Predictor("runs/x")
    >>> [answer] = predictor.answers([[0.9, 1]])
    >>> print(answer.label, answer.nearest, round(answer.probability, 2))
    b 1 0.97
    """

    def __init__(
        self,
        model: Any = None,
        *,
        semi: str | Sequence[str] | None = None,
        learner: str | None = None,
        options: Sequence[str] = (),
        pictures: PictureForm | None = None,
        invert: bool | None = None,
        abstain: float | str | None = None,
        max_error: float | None = None,
        device: str = "auto",
        precision: str | None = None,
        allow_any_target: bool = False,
    ):
        self.model = model
        self.semi = semi
        self.learner = learner
        self.options = options
        self.pictures = pictures
        self.invert = invert
        self.abstain = abstain
        self.max_error = max_error
        self.device = device
        self.precision = precision
        self.allow_any_target = allow_any_target

    def fit(self, X: Any, y: Any, unlabeled: Any = None) -> Predictor:
        """Keep the examples X with their names y, strings or numbers, and the `unlabeled` items.

        X is a list of paths, PIL images or uint8 arrays `[H, W]` or `[H, W, C]`, such arrays stacked, or features `[n, d]`. A class
        may have any number of examples.

        **Raises:** `ValueError` for fewer than two classes, lengths that differ, items or settings that cannot be used.
        """
        self._prepare()
        X, y = self._checked(X, y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"at least two classes are needed, got {len(self.classes_)} class(es)")
        paths = not isinstance(X, Tensor) and all(isinstance(x, str | os.PathLike) for x in X)
        self.names_ = list(map(os.fspath, X)) if paths else None
        # Far from 0 float32 has too few digits for distances. A shift of all features does not change Euclidean ones.
        shifted = self.form_ is None and self._shiftable
        self._origin = self._features(X).mean(0) if shifted else np.zeros(())
        self._keep(self._items(X), torch.from_numpy(codes), None if unlabeled is None else self._items(unlabeled))
        if unlabeled is not None and not self._learner.capabilities.uses_unlabeled:
            raise ValueError("nothing uses the unlabeled items: choose a wrapper, e.g. semi='soft_kmeans'")
        self._compare(self._seen[:1])  # so that the learner refuses now what it cannot answer
        abstain = self.setting("abstain")
        self.threshold_, self.left_out_ = self._calibrated() if abstain == "auto" else (float(abstain or 0), 0)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The softmax of the learner's logits, `[n, n_classes]`. The columns are in the order of `classes_`."""
        return torch.from_numpy(self._logits(X)).softmax(-1).numpy()

    def answers(self, X: Any) -> list[Answer]:
        """An `Answer` for each item of X."""
        answers = []
        for logits, nearest, similarity in self._chunks(X):
            probabilities, labels = logits.double().softmax(-1).max(-1)
            none = [None] * len(labels)
            near = (none, none) if nearest is None else (nearest.tolist(), similarity.tolist())
            for label, p, *close in zip(labels.tolist(), probabilities.tolist(), *near, strict=True):
                answers.append(Answer(self.classes_[label], p, *close, p < self.threshold_))
        return answers

    def setting(self, name: str) -> Any:
        """`invert`, `abstain`, `max_error` or `precision`: as given, else as in the saved file, else the default."""
        given = getattr(self, name)
        return given if given is not None else (DEFAULTS | saved_settings(self.model))[name]

    @torch.inference_mode()
    def unlabeled_shares(self) -> Float[Tensor, "unlabeled way"] | None:
        """How much each unlabeled item was taken for each class. Rows sum to at most 1; None where the wrapper does not say."""
        self._check_fitted()
        if self._seen_unlabeled is None or not self._metric:
            return None
        taken = self._learner.classify(
            self._task(self._seen[None], self._support_y[None], self._seen[None, :1])
        ).unlabeled
        return None if taken is None else taken[0].float().cpu()

    def save(self, path: str | os.PathLike) -> None:
        """Write the weights and the support, which is all that answers need, to one safetensors file.

        **Raises:** `ValueError` for a module as the model, which cannot be built from a file again; `OSError`.
        """
        path = file_path("path", path)
        self._check_fitted()
        if self._config is None:
            raise ValueError(
                "a module of yours cannot be built from a file again: save takes runs and backbones of conf/"
            )
        facts = {"config": self._config, "form": self.form_ and dataclasses.asdict(self.form_)}
        facts |= {name: getattr(self, name) for name in ("names_", "threshold_", "left_out_")}
        facts |= {"settings": {name: self.setting(name) for name in DEFAULTS}}
        facts |= {"classes_": [self.classes_.dtype.str, self.classes_.tolist()]}
        tensors = {PREFIX + name: value for name, value in self._learner.state_dict().items()}
        tensors |= {"support": self._support, "support_y": self._support_y, "origin": torch.tensor(self._origin)}
        tensors |= {} if self._unlabeled is None else {"unlabeled": self._unlabeled}
        write_saved(path, facts, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "auto", *, allow_any_target: bool = False) -> Predictor:
        """The classifier that `save` wrote. It answers as it did then.

        **Arguments:** `allow_any_target` (default false): let the file build classes of other packages.

        **Raises:** `FileNotFoundError`; `ValueError` where the file is damaged or another.
        """
        saved = read_saved(file_path("path", path))
        tensors = saved.tensors
        classifier = cls(os.fspath(path), device=device, allow_any_target=allow_any_target)
        classifier._prepare()
        classifier.classes_, classifier.names_ = saved.classes, saved.names
        classifier.threshold_, classifier.left_out_ = saved.threshold, saved.left_out
        classifier._origin = tensors["origin"].numpy()
        if classifier.form_ is None:
            classifier.n_features_in_ = tensors["support"].shape[1]
        classifier._keep(tensors["support"], tensors["support_y"], tensors.get("unlabeled"))
        return classifier

    def build(self) -> Model:
        """The learner that the settings stand for, before any examples are shown to it.

        **Raises:** `ValueError` for settings that cannot be used.
        """
        _check_abstain(self.setting("abstain"), self.setting("max_error"))
        flag("invert", self.setting("invert"))
        semi = [self.semi] if isinstance(self.semi, str) else self.semi
        choices = Choices(
            learner=None if self.learner is None else strings("learner", [self.learner])[0],
            semi=None if semi is None else strings("semi", semi),
            options=strings("options", self.options),
            pictures=None if self.pictures is None else instance("pictures", self.pictures, PictureForm),
            device=str(instance("device", self.device, str | torch.device)),
            precision=self.setting("precision"),
            allow_any_target=self.allow_any_target,
        )
        return model_of(self.model, choices)

    def _checked(self, X: Any, y: Any) -> tuple[Any, Any]:
        y = _names(y)
        if self.form_ is None:
            X = _feature_array(X)
            self.n_features_in_ = X.shape[1]
        if not hasattr(X, "__len__"):
            refuse("X", "a list of pictures", X)
        if len(X) != len(y):
            raise ValueError(f"each item needs a name, got {len(X)} items and {len(y)} names")
        return X, y

    def _check_fitted(self) -> None:
        if not hasattr(self, "classes_"):
            raise ValueError("there are no examples yet: call fit first")

    def _prepare(self) -> None:
        model = self.build()
        self._learner, self._hardware, self.form_, self._config = (
            model.learner,
            model.hardware,
            model.form,
            model.config,
        )
        self._learner.eval()
        self.transductive_ = self._learner.capabilities.transductive
        self._metric = isinstance(self._learner, AbstractMetricLearner)
        *wrappers, learner = unwrapped(self._learner)
        self._distance = getattr(learner, "distance", Cosine())
        distances = [self._distance, *(layer.distance for layer in wrappers if hasattr(layer, "distance"))]
        self._shiftable = all(isinstance(distance, Euclidean | SquaredEuclidean) for distance in distances)
        self._normalize = self.form_ and Normalize(self.form_.mean, self.form_.std).to(self._hardware.device)

    def _items(self, X: Any) -> Tensor:
        """X in the form that is kept: uint8 images `[n, C, H, W]`, or float32 features `[n, d]`."""
        if self.form_ is None:
            return torch.from_numpy(self._features(X) - self._origin).float()
        items = as_pictures(X, self.form_)
        return 255 - items if self.setting("invert") else items

    def _features(self, X: Any) -> Float[np.ndarray, "item dim"]:
        X = _feature_array(X)
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"the examples have {self.n_features_in_} features each, got items of {X.shape[1]} features"
            )
        return X

    def _keep(self, support: Tensor, support_y: Tensor, unlabeled: Tensor | None) -> None:
        self._support, self._support_y, self._unlabeled = support, support_y, unlabeled
        self._seen, self._seen_unlabeled = (None if x is None else self._see(x) for x in (support, unlabeled))

    def _logits(self, X: Any) -> np.ndarray:
        return torch.cat([logits for logits, *_ in self._chunks(X)]).double().numpy()

    def _chunks(self, X: Any) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """The results of `_compare` for the items of X, a bounded number at a time."""
        self._check_fitted()
        if self.form_ is None or not isinstance(X, np.ndarray | list | tuple) or len(X) == 0:
            X = self._items(X)  # also refuses what it cannot read
        step = max(1, min(4 * EMBED_BATCH if self._metric else EMBED_BATCH, PAIRS // len(self._support)))
        starts = range(0, len(X), step)
        parts = (self._see(X[i : i + step] if isinstance(X, Tensor) else self._items(X[i : i + step])) for i in starts)
        yield from map(self._compare, [torch.cat(list(parts))] if self.transductive_ else parts)

    def _see(self, items: Tensor) -> Tensor:
        """What the learner compares: embeddings of the items, or images where it is no metric learner."""
        if self.form_ is None or not self._metric:
            return items.to(self._hardware.device)
        labels = torch.zeros(len(items), dtype=torch.long)
        store = ImageStore(items, labels, ("",), (), None, (), dataset="", split="pictures", split_name="")
        return embed(self._learner.backbone, store, self._normalize, self._hardware, progress=len(items) > MANY)

    def _compare(self, query: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Logits `[q, n_way]`, and for each query the nearest support item and its similarity, as in `Answer`."""
        logits = self._ask(self._seen[None], self._support_y[None], query[None])[0].cpu()
        if not logits.isfinite().all():
            why = why_not_finite(self._learner)
            raise ValueError(
                f"the learner's answers are no finite numbers: scale the features, or mend the weights ({why})"
            )
        if not self._metric:
            return logits, None, None
        items, shown = query.flatten(1), self._seen.flatten(1)
        nearest = self._distance.similarities(items, shown).argmax(-1)
        origin = torch.from_numpy(self._origin).to(items)  # features are compared where they were
        return logits, nearest.cpu(), cosine_similarity(items + origin, shown[nearest] + origin).cpu()

    @torch.inference_mode()
    def _ask(self, support: Tensor, support_y: Tensor, query: Tensor) -> Tensor:
        """Logits `[E, Q, n_way]` of tasks whose items are what `_see` gives. They are computed as in evaluation."""
        task = self._task(support, support_y, query)
        if self._metric:
            return self._learner.classify(task).logits.float()
        with self._hardware.autocast():
            return self._learner(task.map(self._normalize)).logits.float()

    def _task(self, support: Tensor, support_y: Tensor, query: Tensor) -> Task:
        rest = self._seen_unlabeled
        unlabeled = None if rest is None else rest.expand(len(support), *rest.shape)
        return Task(support, support_y.to(support.device), query, len(self.classes_), unlabeled)

    def _calibrated(self) -> tuple[float, int]:
        """The threshold of `abstain="auto"`, and how many support items were left out to find it.

        Each support item whose class has another one is asked about in a task without it.
        """
        y = self._support_y
        asked = (y.bincount()[y] > 1).nonzero()[:, 0]
        if len(asked) == 0:
            raise ValueError(
                "abstain='auto' leaves out examples, but each class has one only: give a number, abstain=0.6, or more examples"
            )
        others = torch.arange(len(y) - 1) + (torch.arange(len(y) - 1) >= asked[:, None])
        items = len(y) + (0 if self._unlabeled is None else len(self._unlabeled))
        chunk = CHUNK_BYTES // (4 * items * self._seen[0].numel()) if self._metric else EMBED_BATCH // items
        found = []
        for own, rest in zip(asked.split(max(1, chunk)), others.split(max(1, chunk)), strict=True):
            logits = self._ask(self._seen[rest], y[rest], self._seen[own][:, None])[:, 0].cpu()
            probability, label = logits.double().softmax(-1).max(-1)
            found.append(torch.stack([probability, label == y[own]]))
        threshold = abstention(*torch.cat(found, dim=1).numpy(), self.setting("max_error"))
        if threshold == math.inf:
            warnings.warn("abstain='auto': the most probable answers are wrong too often, so none counts", stacklevel=3)
        return threshold, len(asked)


def abstention(probabilities: np.ndarray, right: np.ndarray, max_error: float) -> float:
    """The smallest probability from which on at most the share `max_error` of the answers is wrong.

    `probabilities [n]` and `right [n]` are those of answers whose truth is known. The threshold is 0 where the share of all
    answers is small enough, and infinity where no probability gives such a share.

    >>> abstention(np.array([0.9, 0.8, 0.6]), np.array([True, True, False]), max_error=0.1)
    0.8
    """
    order = np.argsort(-probabilities, kind="stable")
    descending = probabilities[order]
    share = np.cumsum(right[order] == 0) / np.arange(1, len(order) + 1)
    last_of_equals = np.append(descending[1:] != descending[:-1], True)
    enough = np.flatnonzero(last_of_equals & (share <= max_error))
    thresholds = np.append(descending[:-1], 0.0)
    return float(thresholds[enough[-1]]) if len(enough) else math.inf


def _check_abstain(abstain: Any, max_error: Any) -> None:
    if abstain is not None and not (isinstance(abstain, str) and abstain == "auto"):
        number("abstain", abstain, at_least=0, at_most=1, note=", a probability, or 'auto' or None")
    number("max_error", max_error, at_least=0, below=1, note=", a share")


def _names(y: Any) -> np.ndarray:
    """Names of classes as an array `[n]`. Whole numbers may be floats, as for scikit-learn."""
    array = flat_array(y)
    kind = "" if array is None else array.dtype.kind
    whole = kind == "f" and (array == np.round(array)).all() and np.isfinite(array).all()
    texts = kind == "O" and all(isinstance(name, str) for name in array)
    if not (kind in ("U", "i", "u", "b") or whole or texts):
        refuse("y", "a flat list of names, strings or integers", y)
    return array


def _feature_array(X: Any) -> Float[np.ndarray, "item dim"]:
    try:
        array = None if np.iscomplexobj(X) else np.asarray(X, dtype=np.float64)
    except (ValueError, TypeError, RuntimeError):  # strings, or rows of unequal lengths
        array = None
    if array is None or array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        refuse("X", "features, finite numbers [n, d]", X)
    return array
