"""Builds the learner that answers for `Predictor(model)` and `FewShotClassifier(model)`.

A model is a run's folder, a saved file, a module, a configuration, or nothing. Each kind has a function here.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from episodic.assemble.learner import Parts, build_backbone, build_learner, build_parts
from episodic.assemble.load import PARTS, load_parts
from episodic.assemble.saved import PREFIX, read_saved
from episodic.config.compose import compose_config
from episodic.config.instantiate import arguments_of, check_targets
from episodic.config.overrides import check_key, check_overrides
from episodic.config.types import check_types
from episodic.data.image import PictureForm
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.run.checkpoint import load_weights
from episodic.run.device import Hardware
from episodic.run.run import Run


@dataclasses.dataclass(frozen=True)
class Choices:
    """What is chosen beside a model, as in the arguments of `FewShotClassifier`; None where the model's own part stays."""

    learner: str | None
    semi: tuple[str, ...] | None
    options: tuple[str, ...]
    pictures: PictureForm | None
    device: str
    precision: str
    allow_any_target: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A learner that can answer, and what is needed to ask it.

    - `hardware`: where it computes. `form`: the form of its pictures; None where it compares features.
    - `config`: what `assemble` makes the same learner of, without weights; None where it has a module of the user's own.
    """

    learner: AbstractLearner
    hardware: Hardware
    form: PictureForm | None
    config: dict[str, Any] | None


def model_of(given: Any, choices: Choices) -> Model:
    """The model that `given` stands for, with the learner, the wrappers and the options of `choices`.

    **Raises:** `ValueError` for something else, a learner whose weights are not there, or choices that do not exist; what reading a
    run or a file raises.
    """
    if given is None:
        return of_features(choices)
    if isinstance(given, nn.Module):
        return of_module(given, choices)
    if isinstance(given, DictConfig):
        return of_config(given, choices)
    if not isinstance(given, str | os.PathLike):
        raise ValueError(f"model must be a run's folder, a saved file, a module or None, got {given!r}")
    return of_file(given, choices) if Path(given).is_file() else of_run(given, choices)


def of_features(choices: Choices) -> Model:
    """A model without a backbone: a learner that compares features as they are."""
    hardware = Hardware.choose(choices.device, choices.precision)
    config = _chosen(OmegaConf.create(), choices)
    learner = _weightless(hardware.place(assemble(config)))
    return Model(learner, hardware, None, OmegaConf.to_container(config))


def of_module(module: nn.Module, choices: Choices) -> Model:
    """The model of a module of yours: a learner that compares the embeddings of a copy of it."""
    hardware = Hardware.choose(choices.device, choices.precision)
    form = choices.pictures or PictureForm(getattr(module, "in_channels", 3), getattr(module, "image_size", 224))
    backbone = _probed(hardware.place(copy.deepcopy(module)).eval(), form, hardware)
    learner = _weightless(hardware.place(assemble(_chosen(OmegaConf.create(), choices), backbone)))
    return Model(learner, hardware, form, None)


def of_file(path: str | os.PathLike, choices: Choices) -> Model:
    """The model in a file that `Predictor.save` wrote, with its weights."""
    hardware = Hardware.choose(choices.device, choices.precision)
    saved = read_saved(path)
    config = _chosen(saved.config, choices)
    if OmegaConf.select(config, "backbone.weights") is not None:
        config.backbone.weights = None  # all are in the file, so nothing is downloaded, whatever it says
    learner = hardware.place(assemble(config, trusted=choices.allow_any_target))
    weights = {name[len(PREFIX) :]: x for name, x in saved.tensors.items() if name.startswith(PREFIX)}
    load_weights(learner, weights, path, ignore_extra=True)  # fewer, where a wrapper is left out
    return Model(learner, hardware, saved.form, OmegaConf.to_container(config))


def of_run(folder: str | os.PathLike, choices: Choices) -> Model:
    """The model of a run, with its best weights."""
    saved = Run(Path(folder)).config()
    saved.update(run=os.fspath(folder), device=choices.device, precision=choices.precision)
    saved.allow_any_target = choices.allow_any_target
    return _with_weights_of_run(_chosen(saved, choices))


def of_config(cfg: DictConfig, choices: Choices) -> Model:
    """The model of a configuration as of `conf/predict.yaml`. It is that of the run `cfg.run`, or of the backbone
    `cfg.backbone`.
    """
    cfg = OmegaConf.merge(cfg, {"device": choices.device, "precision": choices.precision})
    if cfg.run:
        return _with_weights_of_run(cfg)
    parts = build_parts(OmegaConf.merge(cfg, {"seed": cfg.seed or 0}))
    _weightless(parts.learner)
    return _model(parts, cfg, backbone=cfg)


def _with_weights_of_run(cfg: DictConfig) -> Model:
    return _model(load_parts(cfg, cfg.run), cfg, backbone=Run(Path(cfg.run)).config())


def _model(parts: Parts, cfg: DictConfig, backbone: DictConfig) -> Model:
    """`parts` as a model. Learner and wrappers are those of `cfg`, backbone and head those of the configuration `backbone`."""
    nodes = {part: backbone[part] for part in ("backbone", "head") if part in backbone}
    nodes |= {part: cfg[part] for part in PARTS}
    config = {name: OmegaConf.to_container(node, resolve=True) for name, node in nodes.items()}
    config["backbone"] |= {"weights": None} if "weights" in config["backbone"] else {}  # all are in the saved file
    return Model(parts.learner, parts.hardware, PictureForm.of(parts.dataset), config)


def assemble(config: DictConfig, backbone: nn.Module | None = None, *, trusted: bool = False) -> AbstractLearner:
    """Build the learner of `config` in its wrappers. It is on `backbone`, else on the backbone of `config`, else on features as
    they are.

    **Arguments:** `trusted` (default false): whether `config` may name classes of other packages.

    **Raises:** `ConfigError` for a part that is no choice of its group, or has a setting of another type.
    """
    trust = {"allow_any_target": trusted}
    check_targets(config, **trust)
    check_types(config, None, **trust)
    if backbone is None:
        backbone = build_backbone(config, **trust) if "backbone" in config else _Features()
    given = {"label_swap": nn.Identity()} if "label_swap" in arguments_of(config.learner, **trust) else {}
    return build_learner(config, backbone, given, **trust)


class _Features(nn.Identity):
    shape = ()


def _chosen(config: DictConfig, choices: Choices) -> DictConfig:
    """`config` with the learner and the wrappers of `choices`, and with the settings in its `options`.

    A part that is not chosen stays as it is in `config`; where `config` has none, it is the default one.
    """
    chosen = {"learner": choices.learner is not None, "semi": choices.semi is not None}
    parts = [part for part in chosen if part not in config or chosen[part]]
    if not parts:
        return _with_options(config, choices.options)
    named = _composed(choices.learner or "prototypical", choices.semi or ("supervised",), choices.options)
    return OmegaConf.merge({k: v for k, v in config.items() if k not in parts}, {part: named[part] for part in parts})


def _with_options(config: DictConfig, options: tuple[str, ...]) -> DictConfig:
    """`config` with settings of its own learner and wrappers, e.g. `learner.temperature=64`."""
    config = copy.deepcopy(config)
    for option in options:
        key, _, value = option.partition("=")
        check_key(OmegaConf.masked_copy(config, ["learner", "semi"]), key)
        OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value)
    return config


@functools.cache
def _composed(learner: str, semi: tuple[str, ...], options: tuple[str, ...]) -> dict[str, Any]:
    overrides = [f"learner={learner}", f"semi=[{','.join(semi)}]", *options]
    check_overrides("train", overrides)
    cfg = compose_config("train", overrides)
    # What a wrapper asks of the learner is that of the learner it gets, which may be the model's.
    return {part: OmegaConf.to_container(cfg[part], resolve=part == "learner") for part in ("learner", "semi")}


def _probed(backbone: nn.Module, form: PictureForm, hardware: Hardware) -> nn.Module:
    """`backbone`, found to embed images of that form, with the `shape` of an embedding."""
    image = torch.zeros(1, form.channels, form.size, form.size, device=hardware.device)
    try:
        with torch.inference_mode(), hardware.autocast():
            shape = backbone(image).shape
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = f"{str(error).splitlines()[0]}. Say what it takes by pictures=PictureForm(...)"
        raise ValueError(f"the model gives no embeddings of images {list(image.shape)}: {reason}") from None
    if len(shape) < 2 or shape[0] != 1:
        raise ValueError(f"the model must give an embedding [1, ...] for one image, got {list(shape)}")
    backbone.shape = getattr(backbone, "shape", tuple(shape[1:]))
    return backbone


def _weightless(learner: AbstractLearner) -> AbstractLearner:
    """`learner`, found to have no weights beside its backbone's: only training could have filled them in."""
    metric = isinstance(learner, AbstractMetricLearner)
    known = {id(parameter) for parameter in learner.backbone.parameters()} if metric else set()
    if not metric or {id(parameter) for parameter in learner.parameters()} - known:
        raise ValueError(
            f"{type(learner).__name__} has weights that only training gives: take a run of it as the model"
        )
    return learner
