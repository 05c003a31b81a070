"""Writes and reads the file of `Predictor.save`: weights, support, and the configuration of the learner."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from episodic.config.stored import stored_config
from episodic.config.types import fits
from episodic.data.image import PictureForm
from episodic.run.files import write_atomically

KEY = "episodic.assemble.saved.3"  # where the metadata are found; its number changes when their meaning does
FACTS = {"form": dict | None, "names_": list[str] | None, "left_out_": int, "classes_": list, "settings": dict}
SETTINGS = {"invert": bool, "abstain": float | str | None, "max_error": float, "precision": str}
NAMES = re.compile(r"[<>|=]?(b1|[iuf][1248]|U\d+|O)")  # the dtypes of class names
PREFIX = "weights."  # of the names of the learner's weights, beside which the file has the support


def write_saved(path: str | os.PathLike, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write `facts` and `tensors` to one safetensors file. `facts` must fit into JSON.

    **Raises:** `OSError`.

    >>> import tempfile
    >>> from episodic.assemble.predictor import Predictor
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Predictor().fit([[0, 0], [1, 1]], ["cat", "dog"]).save(Path(folder) / "pets.safetensors")  # by this function
    ...     read_saved(Path(folder) / "pets.safetensors").classes.tolist()
    ['cat', 'dog']
    """
    data = to_bytes({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, {KEY: json.dumps(facts)})
    write_atomically(Path(path), data)


@dataclasses.dataclass(frozen=True, eq=False)
class Saved:
    """What a file of `Predictor.save` holds. Every part of it was checked.

    - `config`: of the learner. `form`: of its pictures, None for features. `settings`: as in `Predictor`, by name.
    - `classes`: their names. `names`: those of the examples, None where they had none. `threshold`, `left_out`: as in `Predictor`.
    - `tensors`: by name; empty where they were not asked for.
    """

    config: DictConfig
    form: PictureForm | None
    settings: dict[str, Any]
    classes: np.ndarray
    names: list[str] | None
    threshold: float
    left_out: int
    tensors: dict[str, Tensor]


def read_saved(path: str | os.PathLike, whole: bool = True) -> Saved:
    """What `write_saved` wrote. The file may come from a stranger: it is read as data, and every part is checked.

    **Arguments:** `whole` (default true): with the tensors.

    **Raises:** `FileNotFoundError`; `ValueError` where the file is damaged or another.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(KEY, "no metadata"))
            tensors = {name: file.get_tensor(name) for name in (file.keys() if whole else ())}
            return _checked(facts, tensors if whole else None, path)
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} is no whole file that FewShotClassifier.save wrote ({error})") from None


def _checked(facts: dict[str, Any], tensors: dict[str, Tensor] | None, path: object) -> Saved:
    for name, hint in FACTS.items():
        if not fits(facts[name], hint):
            raise ValueError(f"{name} is {str(facts[name])[:50]!r}")
    settings = facts["settings"]
    if settings.keys() != SETTINGS.keys() or not all(fits(settings[name], hint) for name, hint in SETTINGS.items()):
        raise ValueError(f"its settings are {settings}")
    dtype, names = facts["classes_"]
    if not NAMES.fullmatch(dtype) or not all(fits(name, str | int | float | bool) for name in names):
        raise ValueError(f"the names of its classes are {dtype}")
    # Text is as long as its longest, whatever the file says: a long one would take its length for each class.
    classes = np.array(names, dtype="U" if "U" in dtype else dtype)
    if classes.ndim != 1 or len(classes) < 2 or not np.array_equal(classes, np.unique(classes)):
        raise ValueError(f"its {classes.size} classes are not two or more different ones in order")
    threshold, left_out = facts["threshold_"], facts["left_out_"]
    if not ((fits(threshold, float) and 0 <= threshold <= 1) or threshold == math.inf) or left_out < 0:
        raise ValueError(f"it has the threshold {str(threshold)[:50]} of {left_out} items")
    form = facts["form"] and PictureForm(**facts["form"])
    if tensors is not None:
        _check_support(tensors, form, len(classes), facts["names_"])
    return Saved(
        config=stored_config(facts["config"], path),
        form=form,
        settings=settings,
        classes=classes,
        names=facts["names_"],
        threshold=threshold,
        left_out=left_out,
        tensors=tensors or {},
    )


def _check_support(tensors: dict[str, Tensor], form: PictureForm | None, n_way: int, names: list[str] | None) -> None:
    support, y, origin = tensors["support"], tensors["support_y"], tensors["origin"]
    shape = (form.channels, form.size, form.size) if form else tuple(support.shape[1:])
    items = [support, *([tensors["unlabeled"]] if "unlabeled" in tensors else [])]
    for x in items:
        alike = x.dtype == (torch.uint8 if form else torch.float32) and tuple(x.shape[1:]) == shape
        if not alike or x.ndim != (4 if form else 2) or not x.isfinite().all():
            raise ValueError(f"its examples are {x.dtype} {list(x.shape)}")
    if y.dtype != torch.int64 or y.shape != support.shape[:1] or y.unique().tolist() != list(range(n_way)):
        raise ValueError(f"{len(support)} examples have {y.dtype} {list(y.shape)} labels of {n_way} classes")
    whole = origin.dtype == torch.float64 and origin.isfinite().all() and tuple(origin.shape) in ((), shape)
    if not whole or (names is not None and len(names) != len(y)):
        named = "none" if names is None else len(names)
        raise ValueError(
            f"its origin is {origin.dtype} {list(origin.shape)}, and of {len(y)} examples {named} have names"
        )


def saved_settings(model: Any) -> dict[str, Any]:
    """The settings in the saved file `model`; empty where `model` is no file."""
    if not isinstance(model, str | os.PathLike) or not Path(model).is_file():
        return {}
    return read_saved(model, whole=False).settings
