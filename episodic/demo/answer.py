"""The answers of the demo: it names the queries of a question, once without and once with the unlabeled pictures."""

from __future__ import annotations

import base64
import binascii
import copy
import dataclasses
import io
import threading
import warnings
from http import HTTPStatus
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from omegaconf import DictConfig
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from episodic.assemble.predictor import DEFAULTS, Predictor
from episodic.config.compose import ConfigError, compose_config
from episodic.data.cache import decode_parallel
from episodic.data.image import PictureForm, decode_image, is_inverted
from episodic.demo.question import HTTPError, Question, Upload

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # reading others, such as EPS, may start programs
FALLBACK = "label_propagation"  # the wrapper where the model has none


class Demo:
    """Answers questions with the model of a configuration. It takes one question at a time.

    **Attributes:** `form`: the form of the pictures. `wrapper`: what uses the unlabeled pictures. `about`: the model in words.
    `invert`, `abstain`: the settings that the page begins with.

    **Raises:** what `Predictor` raises for a model that cannot be used; `ConfigError` for a model that compares features.
    """

    def __init__(self, cfg: DictConfig):
        self.cfg = cfg
        self._lock, self._stopping = threading.Lock(), False
        self._semi = None
        classifier = self._classifier()
        self.invert, self.abstain = (classifier.setting(name) for name in ("invert", "abstain"))
        model = classifier.build()
        if model.form is None:
            raise ConfigError(f"model={cfg.model} compares features, not pictures")
        self.form: PictureForm = model.form
        self._semi = None if model.learner.capabilities.uses_unlabeled else FALLBACK
        self.wrapper = self._semi or "+".join(model.config["semi"])
        compares, embeds = (model.config[part]["_target_"].split(".")[-1] for part in ("learner", "backbone"))
        colors = "gray" if model.form.channels == 1 else "color"
        self.about = (
            f"{cfg.run or cfg.model or 'pretrained'}: {compares} on {embeds}, "
            f"unlabeled pictures by {self.wrapper}; {model.form.size} × {model.form.size} {colors}"
        )

    def answer(self, question: Question) -> dict[str, Any]:
        """What the page shows; see `_answer`. Questions wait for each other, since one answer keeps the whole processor busy.

        **Raises:** `ValueError` for pictures and settings that cannot be used.
        """
        with self._lock, warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
            if self._stopping:
                raise HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, "the demo is stopping")
            found = self._answer(question)
        notes = dict.fromkeys(str(warning.message) for warning in heard)  # each once
        return found | {"notes": [*found["notes"], *notes]}

    def stop(self) -> None:
        """Wait for the answer in progress, and begin no other one. Python must not end while a thread computes an answer."""
        self._stopping = True
        self._lock.acquire()

    def _answer(self, question: Question) -> dict[str, Any]:
        """A record for each of the `queries` and of the `unlabeled` pictures, and a line for each example that `failed`.

        Records are in the order of the question.
        """
        support, unlabeled, queries = (
            Pictures.decode(uploads, self.form) for uploads in (question.support, question.unlabeled, question.queries)
        )
        places = [question.places[i] for i in support.readable]
        shown = {c for c, _ in places}
        failed = []
        for i, reason in sorted(support.failed.items()):
            c, file = question.places[i][0], question.support[i].name
            if c not in shown:
                raise ValueError(f"no picture of class {question.names[c]!r} can be read: {file}: {reason}")
            failed.append(f"{question.names[c]}: {file}: {reason}")
        # Numbers in place of names keep the order of the page; as text they are never taken for a regression.
        labels = [f"{c:03}" for c, _ in places]
        settings = {"invert": question.invert, "abstain": question.abstain or 0}
        alone = self._classifier(**settings).fit(support.pixels, labels)
        answers = [
            {"plain": said, "helped": None, **near} for said, near in query_answers(alone, queries.pixels, places)
        ]
        taken = None
        if unlabeled.readable:
            helped = self._classifier(self._semi, **settings).fit(support.pixels, labels, unlabeled.pixels)
            for answer, (said, _) in zip(answers, query_answers(helped, queries.pixels, places), strict=True):
                answer["helped"] = said
            taken = helped.unlabeled_shares()
        shares = [
            {"shares": row} for row in (taken.tolist() if taken is not None else [None] * len(unlabeled.readable))
        ]
        return {
            "names": question.names,
            "queries": queries.among_all(answers),
            "unlabeled": unlabeled.among_all(shares),
            "wrapper": self.wrapper if unlabeled.readable else None,
            "failed": failed,
            "notes": notes_on_polarity(self.form, support.pixels, question.invert),
        }

    def _classifier(self, semi: str | None = None, **settings: Any) -> Predictor:
        """A predictor without examples. It has the wrapper `semi` in place of the model's own, if one is given."""
        settings = {name: self.cfg[name] for name in ("device", "allow_any_target", *DEFAULTS)} | settings
        if self.cfg.model is not None:
            return Predictor(self.cfg.model, semi=semi, **settings)
        cfg = copy.deepcopy(self.cfg)
        if semi is not None:
            cfg.semi = compose_config("train", [f"semi={semi}"]).semi
        return Predictor(cfg, **settings)


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Decoded pictures.

    - `pixels`: the pictures that could be read, uint8 `[n, C, H, W]`. `readable`: their places among all uploads.
    - `failed`: the reason for each of the others, by its place.
    """

    pixels: UInt8[Tensor, "picture channels height width"]
    readable: list[int]
    failed: dict[int, str]

    @staticmethod
    def decode(uploads: list[Upload], form: PictureForm) -> Pictures:
        """Read `uploads` in the form that the model expects."""
        out = np.empty((len(uploads), form.channels, form.size, form.size), dtype=np.uint8)
        failed = decode_parallel(uploads, lambda upload: _pixels(upload, form), out, title="pictures")
        readable = [i for i in range(len(uploads)) if i not in failed]
        return Pictures(torch.from_numpy(out[readable]), readable, failed)

    def among_all(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records `found` for the readable pictures, and an `error` for each other one, in the order of the uploads."""
        by_place = dict(zip(self.readable, found, strict=True)) | {i: {"error": why} for i, why in self.failed.items()}
        return [by_place[i] for i in sorted(by_place)]


def _pixels(upload: Upload, form: PictureForm) -> np.ndarray:
    try:
        data = base64.b64decode(upload.data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it did not arrive whole") from None
    if not data:
        raise ValueError("the file is empty")
    try:
        Image.open(io.BytesIO(data), formats=FORMATS).close()
    except UnidentifiedImageError:
        raise ValueError(f"it is not a picture of a kind that is read here ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"it has more than {Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels") from None
    return decode_image(io.BytesIO(data), channels=form.channels, size=form.size, resize=form.resize)


def query_answers(
    classifier: Predictor, pixels: Tensor, places: list[tuple[int, int]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """For each query its answer, and the place and the similarity of the nearest example."""
    if not len(pixels):
        return []
    found = zip(classifier.answers(pixels), classifier.predict_proba(pixels).tolist(), strict=True)
    return [
        (
            {"label": int(a.label), "probability": a.probability, "abstain": a.abstain, "probabilities": p},
            {"nearest": None if a.nearest is None else places[a.nearest], "similarity": a.similarity},
        )
        for a, p in found
    ]


def notes_on_polarity(form: PictureForm, pixels: Tensor, invert: bool) -> list[str]:
    """A note if gray pictures are dark on bright and the model's own images are bright on dark, or vice versa."""
    seen = pixels.float().mean().item() / 255
    seen = 1 - seen if invert else seen
    if not is_inverted(form, seen):
        return []
    return [
        f"The examples' mean gray is {seen:.2f}, that of the model's own pictures {form.mean[0]:.2f}: "
        f"{'do not turn' if invert else 'turn'} gray values around (see Settings)."
    ]
