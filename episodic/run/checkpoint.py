"""Checkpoints that survive: no pickle, written whole or not at all, checked when read.

A checkpoint is a folder of three safetensors files (the learner, what the training procedure keeps beside it, the optimizer) and
one JSON file that holds their SHA-256. It is written beside its
place, flushed to disk and renamed; the one before it stays as `<name>-previous` and is used if `<name>` is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from episodic.run.files import sync_folder, write_atomically

FILES = ("model.safetensors", "trainer.safetensors", "optimizer.safetensors")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or made for another model."""


def save_checkpoint(
    folder: Path, model: Mapping[str, Tensor], trainer: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """Write weights, the `state_dict` of a training procedure and JSON-able `state` to `folder`, atomically.

    **Raises:** `OSError` (a full disk, say); what stood in `folder` before is whole then.
    """
    building, previous = folder.with_name(f".{folder.name}-building"), folder.with_name(f"{folder.name}-previous")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    skeleton = _strip(trainer["optimizer"], tensors)
    try:
        sums = {}
        for name, content in zip(FILES, (model, trainer["tensors"], tensors), strict=True):
            data = save({k: v.detach().cpu().contiguous() for k, v in content.items()})
            write_atomically(building / name, data)
            sums[name] = hashlib.sha256(data).hexdigest()
        write_atomically(building / "state.json", json.dumps({**state, "optimizer": skeleton, "sha256": sums}))
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(folder, previous)
    os.rename(building, folder)
    sync_folder(folder.parent)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any], str | None]:
    """`(weights, training procedure's state_dict, state, warning)` of `folder`, or of the one before it if `folder` is damaged.

    **Raises:** `CheckpointError` where neither can be read.
    """
    reasons = []
    for candidate in (folder, folder.with_name(f"{folder.name}-previous")):
        try:
            content = _read(candidate)
        except (OSError, ValueError, KeyError) as error:
            reasons.append(f"{candidate}: {error}")
        else:
            warning = f"{reasons[0]}; using {candidate}" if reasons else None
            return (*content, warning)
    raise CheckpointError("no readable checkpoint:\n" + "\n".join(f"  {reason}" for reason in reasons))


def has_checkpoint(folder: Path) -> bool:
    """Whether `folder` or the one before it was ever written."""
    return folder.exists() or folder.with_name(f"{folder.name}-previous").exists()


def bare(name: str) -> str:
    """The name of a weight without the wrappers around the learner, `learner.` each, so that it is the same in any of them, and
    without the head on the backbone, whose `body` that is.
    """
    while name.startswith("learner."):
        name = name.removeprefix("learner.")
    return name.replace("backbone.body.", "backbone.", 1)


def load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], source: object, spare: bool = False) -> None:
    """Put `weights` into `model`, whatever wrappers the learner has here and had there. `spare`: what a wrapper had there and
    none has here is left out.

    **Raises:** `CheckpointError` naming the first keys that differ, where the checkpoint was made for another model.
    """
    full = {bare(name): name for name in model.state_dict()}
    own = {bare(name): tuple(t.shape) for name, t in model.state_dict().items()}
    theirs = {bare(name): tuple(t.shape) for name, t in weights.items() if not spare or bare(name) in own}
    if own != theirs:
        if own.items() > theirs.items():  # what the file has fits
            lacking = sorted(own.keys() - theirs.keys())
            shown = ", ".join(lacking[:3]) + ", ..." * (len(lacking) > 3)
            raise CheckpointError(
                f"{source} has no weights for {shown}: a learner or wrapper with weights of its own must be trained with them"
            )
        differ = sorted(k for k in own.keys() | theirs.keys() if own.get(k) != theirs.get(k))
        shown = ", ".join(f"{k} (model {own.get(k)}, file {theirs.get(k)})" for k in differ[:3])
        raise CheckpointError(f"{source} was made for another model; {len(differ)} tensors differ: {shown}")
    model.load_state_dict({full[bare(name)]: value for name, value in weights.items() if bare(name) in own})


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    if not (folder / "state.json").exists():
        raise FileNotFoundError("no checkpoint here")
    try:
        state = json.loads((folder / "state.json").read_text())
    except ValueError as error:
        raise ValueError(f"state.json is damaged ({error})") from None
    loaded = []
    for name in FILES:
        data = (folder / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != state["sha256"][name]:
            raise ValueError(f"{name} is damaged or truncated ({len(data):,} bytes, wrong checksum)")
        loaded.append(load(data))
    del state["sha256"]
    trainer = {"tensors": loaded[1], "optimizer": _restore(state.pop("optimizer"), loaded[2])}
    return loaded[0], trainer, state


def _strip(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """`tree` as JSON, its tensors moved to `tensors`; mappings become lists of pairs, since JSON keys are strings only."""
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, Mapping):
        return {"pairs": [[key, _strip(value, tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [_strip(value, tensors) for value in tree]}
    return tree


def _restore(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    [(kind, content)] = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "pairs":
        return {key: _restore(value, tensors) for key, value in content}
    values = [_restore(value, tensors) for value in content]
    return tuple(values) if kind == "tuple" else values
