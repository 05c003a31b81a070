"""Writes and reads the file of `Predictor.save`: weights, support, and the configuration of the learner."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from episodic.run.files import write_atomically

KEY = "episodic.assemble.saved.3"  # where the metadata are found; its number changes when their meaning does
PREFIX = "weights."  # of the names of the learner's weights, beside which the file has the support


def write_saved(path: str | os.PathLike, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write `facts` and `tensors` to one safetensors file. `facts` must fit into JSON.

    **Raises:** `OSError`.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_saved(Path(folder) / "cats.safetensors", {"form": None}, {"support": torch.ones(1, 2)})
    ...     read_saved(Path(folder) / "cats.safetensors")
    ({'form': None}, {'support': tensor([[1., 1.]])})
    """
    data = to_bytes({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, {KEY: json.dumps(facts)})
    write_atomically(Path(path), data)


def read_saved(path: str | os.PathLike, whole: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and the tensors that `write_saved` wrote. With `whole=False` only the facts are read.

    **Raises:** `FileNotFoundError`; `ValueError` where the file is damaged or another.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(KEY, "no metadata"))
            return facts, {name: file.get_tensor(name) for name in (file.keys() if whole else ())}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no whole file that FewShotClassifier.save wrote ({error})") from None


def saved_settings(model: Any) -> dict[str, Any]:
    """The settings in the saved file `model`; empty where `model` is no file."""
    if not isinstance(model, str | os.PathLike) or not Path(model).is_file():
        return {}
    return read_saved(model, whole=False)[0]["settings"]
