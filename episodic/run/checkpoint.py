"""Checkpoints that survive a crash: they are written whole or not at all, and checked when they are read. They hold no pickle.

A checkpoint is a folder of three safetensors files (the learner, what the training procedure keeps beside it, the optimizer), one
JSON file, and `SHA256SUMS`, which has the checksums of these four; `sha256sum -c SHA256SUMS` checks them too. It is written beside
its place, flushed to disk and renamed. The one before it stays as `<name>-previous`, and is used where `<name>` is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from episodic.data.folders import flush, remove
from episodic.run.files import write_atomically

TENSORS = ("model.safetensors", "trainer.safetensors", "optimizer.safetensors")
STATE, SUMS = "state.json", "SHA256SUMS"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or made for another model."""


def save_checkpoint(
    folder: Path, model: Mapping[str, Tensor], trainer: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint to `folder`. Where writing fails, what was in `folder` before stays whole.

    **Arguments:** `model`: weights by name. `trainer`: the `state_dict` of a training procedure, `tensors` and `optimizer`.
    `state`: what else to keep, which must fit into JSON.

    **Raises:** `OSError`, for a full disk and the like.

    >>> import tempfile
    >>> trainer = {"tensors": {}, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(Path(folder) / "last", {"weight": torch.ones(2)}, trainer, {"step": 7})
    ...     weights, trained, state, warning = load_checkpoint(Path(folder) / "last")
    >>> weights["weight"], trained == trainer, state, warning
    (tensor([1., 1.]), True, {'step': 7}, None)
    """
    building, previous = _building(folder), _previous(folder)
    remove(building)  # a process that was killed left it
    building.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    skeleton = _strip(trainer["optimizer"], tensors)
    try:
        sums = []
        for name, content in zip(TENSORS, (model, trainer["tensors"], tensors), strict=True):
            sums.append(_write(building / name, save({k: v.detach().cpu().contiguous() for k, v in content.items()})))
        sums.append(_write(building / STATE, json.dumps({**state, "optimizer": skeleton}).encode()))
        write_atomically(building / SUMS, "".join(sums))  # last, so that it is there only if the others are
    except BaseException:
        remove(building)
        raise
    if os.path.lexists(folder):
        remove(previous)
        os.rename(folder, previous)
    os.rename(building, folder)
    flush(folder.parent)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any], str | None]:
    """Read the checkpoint in `folder`. Where it is damaged, the one before it is read, and the warning says so.

    Where that is damaged too, a newer one is read that was whole but not in its place yet when the process was killed.

    **Returns** `(weights, the training procedure's state_dict, state, warning or None)`.

    **Raises:** `CheckpointError` where none can be read.
    """
    reasons = []
    candidates = [folder, _previous(folder), *filter(os.path.lexists, [_building(folder)])]
    for candidate in candidates:
        try:
            content = _read_in_place(candidate)
        except Exception as error:  # damage makes nearly anything fail; each reason is told, and the next one is tried
            reasons.append(f"{candidate}: {error or type(error).__name__}")
        else:
            warning = f"{reasons[0]}; using {candidate}" if reasons else None
            return (*content, warning)
    raise CheckpointError("no readable checkpoint:\n" + "\n".join(f"  {reason}" for reason in reasons))


def has_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint was ever written to `folder`, also where it cannot be read now."""
    return os.path.lexists(folder) or os.path.lexists(_previous(folder))


def unwrapped_name(name: str) -> str:
    """The name of a weight without what is around the learner and its backbone. It is the same in every wrapper and under every
    head and transform.

    A wrapper puts `learner.` before the name, and a head or a transform puts `body.` between the backbone and its weights.

    >>> unwrapped_name("learner.learner.backbone.body.conv.weight")
    'backbone.conv.weight'
    """
    while name.startswith("learner."):
        name = name.removeprefix("learner.")
    while "backbone.body." in name:
        name = name.replace("backbone.body.", "backbone.", 1)
    return name


def load_weights(
    model: torch.nn.Module,
    weights: Mapping[str, Tensor],
    source: object,
    ignore_extra: bool = False,
    may_lack: Collection[str] = (),
) -> None:
    """Put `weights` into `model`, whatever wrappers were around the learner then and are now.

    **Arguments:** `source`: where the weights come from, for messages. `ignore_extra` (default false): leave out weights that the
    model does not have, as those of a wrapper. `may_lack` (default none): names of the model that `weights` need not have; they
    stay as they are.

    **Raises:** `CheckpointError` where the weights are of another model, with the first names that differ.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> load_weights(model, {"learner.weight": torch.tensor([[3.0, 4.0]])}, source="example")
    >>> model.weight.tolist()
    [[3.0, 4.0]]
    """
    mine = model.state_dict()
    full = {unwrapped_name(name): name for name in mine}
    own = {unwrapped_name(name): tuple(t.shape) for name, t in mine.items()}
    taken = {name: t for name, t in weights.items() if not ignore_extra or unwrapped_name(name) in own}
    given = {unwrapped_name(name) for name in taken}
    taken |= {name: mine[name] for name in may_lack if unwrapped_name(name) not in given}
    theirs = {unwrapped_name(name): tuple(t.shape) for name, t in taken.items()}
    if len(theirs) < len(taken):
        raise CheckpointError(f"{source} has several weights of one name, in a wrapper and without it")
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
    loaded = {full[unwrapped_name(name)]: value for name, value in taken.items()}
    for name, value in loaded.items():
        if _kind(value) != _kind(mine[name]):  # it would be converted without a word
            raise CheckpointError(
                f"{source} is damaged: {name} is of {value.dtype}, and {mine[name].dtype} is expected"
            )
    model.load_state_dict(loaded)


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool


def _previous(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-previous")


def _building(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-building")


def _write(path: Path, data: bytes) -> str:
    """Write a file of a checkpoint; returns its line of `SHA256SUMS`."""
    write_atomically(path, data)
    return f"{hashlib.sha256(data).hexdigest()}  {path.name}\n"


def _read_in_place(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """The checkpoint in `folder`, read again where a process that trains has put a new one there meanwhile."""
    while True:
        before = _identity(folder)
        try:
            return _read(folder)
        except Exception:
            if _identity(folder) == before:
                raise


def _identity(folder: Path) -> int | None:
    try:
        return os.stat(folder).st_ino
    except OSError:
        return None


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    if not os.path.lexists(folder):
        raise FileNotFoundError("no checkpoint here")
    sums = dict(reversed(line.split()) for line in _bytes(folder / SUMS).decode().splitlines())

    def checked(name: str) -> bytes:
        data = _bytes(folder / name)
        if hashlib.sha256(data).hexdigest() != sums.get(name):
            raise ValueError(f"{name} is damaged or truncated ({len(data):,} bytes, wrong checksum)")
        return data

    state = json.loads(checked(STATE))
    model, tensors, optimizer = (load(checked(name)) for name in TENSORS)
    return model, {"tensors": tensors, "optimizer": _restore(state.pop("optimizer"), optimizer)}, state


def _bytes(path: Path) -> bytes:
    if not path.is_file():  # a pipe in its place would be waited for
        raise FileNotFoundError(f"{path.name} is missing")
    return path.read_bytes()


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
