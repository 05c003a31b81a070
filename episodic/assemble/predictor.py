"""Answers about items that are no episode: a support is kept, and a learner asked about queries."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn.functional import cosine_similarity

from episodic.assemble.saved import KEY, PREFIX, model_of, read_saved, saved_settings
from episodic.core.functional.pairs import cosine, squared_euclidean
from episodic.data.augment import Normalize
from episodic.data.image import PictureForm, as_pictures
from episodic.data.store import ImageStore
from episodic.episodes.task import Task
from episodic.learners.learner import AbstractMetricLearner
from episodic.learners.prototypical import Prototypical
from episodic.run.embed import CHUNK_BYTES, EMBED_BATCH, embed
from episodic.run.files import write_atomically
from episodic.semi.wrapper import unwrapped

PAIRS = 2**24  # of queries and support items compared at once
# Of settings that a saved file has too.
DEFAULTS = {"invert": False, "abstain": None, "max_error": 0.1, "precision": "fp32"}
MANY = 100  # pictures that take long enough for a progress bar


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is said of one query: the `label` and its `probability`; the index of the `nearest` support item (by what the learner
    compares with: Euclidean distance under Prototypical Networks, else cosine) and the cosine of both embeddings, its `similarity`
    (both None for a learner without embeddings); `abstain`, whether the probability is too low to count.
    """

    label: Any
    probability: float
    nearest: int | None
    similarity: float | None
    abstain: bool


class Predictor:
    """Names items after a few examples of each class, without scikit-learn, which takes seconds to import.

    **Arguments** and attributes: those of `episodic.FewShotClassifier`, its manners of an estimator.
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

    def fit(self, X: Any, y: Any, unlabeled: Any = None) -> Predictor:
        """Keep the support, X named y (strings or numbers), any number of each class, and `unlabeled` items.

        X is a list of paths, PIL images or uint8 arrays `[H, W]` or `[H, W, C]`, such arrays stacked, or features `[n, d]`.

        **Raises:** `ValueError` for fewer than two classes, lengths that differ, items or settings that cannot be used.
        """
        self._build()
        X, y = self._checked(X, y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"at least two classes are needed, got {len(self.classes_)} class(es)")
        paths = not isinstance(X, Tensor) and all(isinstance(x, str | os.PathLike) for x in X)
        self.names_ = list(map(os.fspath, X)) if paths else None
        # Far from 0 float32 has too few digits for distances, which no shift changes.
        shifted = self.form_ is None and self._euclidean
        self._origin = np.asarray(X, dtype=np.float64).mean(0) if shifted else np.zeros(())
        self._keep(self._items(X), torch.from_numpy(codes), None if unlabeled is None else self._items(unlabeled))
        if unlabeled is not None and not self._learner.capabilities.uses_unlabeled:
            raise ValueError("nothing uses the unlabeled items: choose a wrapper, e.g. semi='soft_kmeans'")
        self._compare(self._seen[:1])  # what the learner refuses, it refuses now
        abstain = self.setting("abstain")
        self.threshold_, self.left_out_ = self._calibrated() if abstain == "auto" else (float(abstain or 0), 0)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The softmax of the learner's logits `[n, n_classes]`, columns as `classes_`."""
        return torch.from_numpy(self._logits(X)).softmax(-1).numpy()

    def answers(self, X: Any) -> list[Answer]:
        """One `Answer` for each item."""
        answers = []
        for logits, nearest, similarity in self._chunks(X):
            probabilities, labels = logits.double().softmax(-1).max(-1)
            none = [None] * len(labels)
            near = (none, none) if nearest is None else (nearest.tolist(), similarity.tolist())
            for label, p, *close in zip(labels.tolist(), probabilities.tolist(), *near, strict=True):
                answers.append(Answer(self.classes_[label], p, *close, p < self.threshold_))
        return answers

    def setting(self, name: str) -> Any:
        """`invert`, `abstain`, `max_error` or `precision`: as given, else as in the saved file that is the model, else the default."""
        given = getattr(self, name)
        return given if given is not None else (DEFAULTS | saved_settings(self.model))[name]

    @torch.inference_mode()
    def unlabeled_shares(self) -> Float[Tensor, "unlabeled way"] | None:
        """How much each unlabeled item was taken for each class, in sum at most 1; None where the wrapper does not say."""
        self._check_fitted()
        if self._seen_unlabeled is None or not self._metric:
            return None
        taken = self._learner.classify(
            self._task(self._seen[None], self._support_y[None], self._seen[None, :1])
        ).unlabeled
        return None if taken is None else taken[0].float().cpu()

    def save(self, path: str | os.PathLike) -> None:
        """Write all that answers need, weights and support, to one safetensors file.

        **Raises:** `ValueError` for a module as the model, which cannot be built from a file again; `OSError`.
        """
        self._check_fitted()
        if self._config is None:
            raise ValueError(
                "a module of yours cannot be built from a file again: save takes runs and backbones of conf/"
            )
        kept = {"config": self._config, "form": self.form_ and dataclasses.asdict(self.form_)}
        kept |= {name: getattr(self, name) for name in ("names_", "threshold_", "left_out_")}
        kept |= {"settings": {name: self.setting(name) for name in DEFAULTS}}
        kept |= {"classes_": [self.classes_.dtype.str, self.classes_.tolist()]}
        tensors = {PREFIX + name: value for name, value in self._learner.state_dict().items()}
        tensors |= {"support": self._support, "support_y": self._support_y, "origin": torch.tensor(self._origin)}
        tensors |= {} if self._unlabeled is None else {"unlabeled": self._unlabeled}
        data = to_bytes({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, {KEY: json.dumps(kept)})
        write_atomically(Path(path), data)

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "auto") -> Predictor:
        """The classifier that `save` wrote, which answers as it did.

        **Raises:** `FileNotFoundError`; `ValueError` where the file is damaged or another.
        """
        kept, tensors = read_saved(path)
        classifier = cls(os.fspath(path), device=device)
        classifier._build()
        classifier.classes_ = np.array(kept["classes_"][1], dtype=kept["classes_"][0])
        for name in ("names_", "threshold_", "left_out_"):
            setattr(classifier, name, kept[name])
        classifier._origin = tensors["origin"].numpy()
        if classifier.form_ is None:
            classifier.n_features_in_ = tensors["support"].shape[1]
        classifier._keep(tensors["support"], tensors["support_y"], tensors.get("unlabeled"))
        return classifier

    def _checked(self, X: Any, y: Any) -> tuple[Any, Any]:
        y = np.asarray(y)
        if len(X) != len(y):
            raise ValueError(f"each item needs a name, got {len(X)} items and {len(y)} names")
        return X, y

    def _check_fitted(self) -> None:
        if not hasattr(self, "classes_"):
            raise ValueError("there are no examples yet: call fit first")

    def _build(self) -> None:
        _check_abstain(self.setting("abstain"), self.setting("max_error"))
        self._learner, self._hardware, self.form_, self._config = model_of(self)
        self._learner.eval()
        self.transductive_ = self._learner.capabilities.transductive
        self._metric = isinstance(self._learner, AbstractMetricLearner)
        self._euclidean = isinstance(unwrapped(self._learner)[-1], Prototypical)
        self._normalize = self.form_ and Normalize(self.form_.mean, self.form_.std).to(self._hardware.device)

    def _items(self, X: Any) -> Tensor:
        """X as it is kept: uint8 images `[n, C, H, W]`, or float32 features `[n, d]`."""
        if self.form_ is None:
            return torch.from_numpy(self._features(X) - self._origin).float()
        items = as_pictures(X, self.form_)
        return 255 - items if self.setting("invert") else items

    def _features(self, X: Any) -> Float[np.ndarray, "item dim"]:
        return np.asarray(X, dtype=np.float64)

    def _keep(self, support: Tensor, support_y: Tensor, unlabeled: Tensor | None) -> None:
        self._support, self._support_y, self._unlabeled = support, support_y, unlabeled
        self._seen, self._seen_unlabeled = (None if x is None else self._see(x) for x in (support, unlabeled))

    def _logits(self, X: Any) -> np.ndarray:
        return torch.cat([logits for logits, *_ in self._chunks(X)]).double().numpy()

    def _chunks(self, X: Any) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """What `_compare` says of the items of X, a bounded number at a time."""
        self._check_fitted()
        if self.form_ is None or not isinstance(X, np.ndarray | list | tuple) or len(X) == 0:
            X = self._items(X)  # also says what is wrong
        step = max(1, min(4 * EMBED_BATCH if self._metric else EMBED_BATCH, PAIRS // len(self._support)))
        starts = range(0, len(X), step)
        parts = (self._see(X[i : i + step] if isinstance(X, Tensor) else self._items(X[i : i + step])) for i in starts)
        yield from map(self._compare, [torch.cat(list(parts))] if self.transductive_ else parts)

    def _see(self, items: Tensor) -> Tensor:
        """What the learner compares: features of the items, or images where it is no metric learner."""
        if self.form_ is None or not self._metric:
            return items.to(self._hardware.device)
        labels = torch.zeros(len(items), dtype=torch.long)
        store = ImageStore(items, labels, ("",), (), None, (), dataset="", split="pictures", split_name="")
        return embed(self._learner.backbone, store, self._normalize, self._hardware, progress=len(items) > MANY)

    def _compare(self, query: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Logits `[q, n_way]`, and of each query the nearest support item and its similarity, as in `Answer`."""
        logits = self._ask(self._seen[None], self._support_y[None], query[None])[0].cpu()
        if not logits.isfinite().all():
            raise ValueError("the learner's answers are no finite numbers: scale the features, or look at the weights")
        if not self._metric:
            return logits, None, None
        items, shown = query.flatten(1), self._seen.flatten(1)
        nearest = (-squared_euclidean(items, shown) if self._euclidean else cosine(items, shown)).argmax(-1)
        origin = torch.from_numpy(self._origin).to(items)  # features are compared where they were
        return logits, nearest.cpu(), cosine_similarity(items + origin, shown[nearest] + origin).cpu()

    @torch.inference_mode()
    def _ask(self, support: Tensor, support_y: Tensor, query: Tensor) -> Tensor:
        """Logits `[E, Q, n_way]` of tasks of what `_see` gives, as in evaluation."""
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
        """The threshold by leave-one-out, and of how many: a task for each support item that leaves its class another."""
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
    """The smallest of `probabilities [n]` such that of the answers with it or more at most the share `max_error` is not `right [n]`;
    0 where that is so of all answers, infinity where it is so of none.
    """
    order = np.argsort(-probabilities, kind="stable")
    descending = probabilities[order]
    share = np.cumsum(right[order] == 0) / np.arange(1, len(order) + 1)
    last_of_equals = np.append(descending[1:] != descending[:-1], True)
    enough = np.flatnonzero(last_of_equals & (share <= max_error))
    thresholds = np.append(descending[:-1], 0.0)
    return float(thresholds[enough[-1]]) if len(enough) else math.inf


def _check_abstain(abstain: Any, max_error: Any) -> None:
    number = isinstance(abstain, int | float) and abstain is not True and 0 <= abstain <= 1
    if not number and not (abstain is None or abstain == "auto"):
        raise ValueError(f"abstain must be None, 'auto' or a probability between 0 and 1, got {abstain!r}")
    if not isinstance(max_error, int | float) or not 0 <= max_error < 1:
        raise ValueError(f"max_error must be a share, at least 0 and below 1, got {max_error!r}")
