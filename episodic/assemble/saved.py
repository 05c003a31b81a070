"""What `Predictor(model)` and `FewShotClassifier(model)` may be given, and the learner it stands for."""

from __future__ import annotations

import copy
import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from episodic.assemble.learner import build_backbone, build_learner, build_parts
from episodic.assemble.load import load_parts
from episodic.config.compose import compose_config
from episodic.config.instantiate import arguments_of
from episodic.config.overrides import check_key, check_overrides
from episodic.data.image import PictureForm
from episodic.learners.learner import AbstractLearner, AbstractMetricLearner
from episodic.run.checkpoint import load_weights
from episodic.run.device import Hardware
from episodic.run.run import Run

if TYPE_CHECKING:
    from episodic.assemble.predictor import Predictor

KEY = "episodic.assemble.classifier.2"  # of the metadata of a saved file; the number changes with their meaning
PREFIX = "weights."  # of its tensors


def model_of(given: Predictor) -> tuple[AbstractLearner, Hardware, PictureForm | None, dict[str, Any] | None]:
    """The learner, its hardware, the form of images (None: features), what `assemble` makes the learner of (None: a module)."""
    model, hardware = given.model, Hardware.choose(given.device, given.setting("precision"))
    if model is None or isinstance(model, nn.Module):
        form = backbone = None
        if model is not None:
            form = given.pictures or PictureForm(getattr(model, "in_channels", 3), getattr(model, "image_size", 224))
            backbone = _probed(hardware.place(copy.deepcopy(model)).eval(), form, hardware)
        config = _chosen(OmegaConf.create(), given)
        learner = _weightless(hardware.place(assemble(config, backbone)))
        return learner, hardware, form, OmegaConf.to_container(config) if model is None else None
    if not isinstance(model, str | os.PathLike | DictConfig):
        raise ValueError(f"model must be a run's folder, a saved file, a module or None, got {model!r}")
    if not isinstance(model, DictConfig) and Path(model).is_file():
        kept, tensors = read_saved(model)
        config = _chosen(OmegaConf.create(kept["config"]), given)
        learner = hardware.place(assemble(config))
        weights = {name[len(PREFIX) :]: x for name, x in tensors.items() if name.startswith(PREFIX)}
        load_weights(learner, weights, model, spare=True)  # fewer, where a wrapper is left out
        return learner, hardware, kept["form"] and PictureForm(**kept["form"]), OmegaConf.to_container(config)
    if isinstance(model, DictConfig):
        model = OmegaConf.merge(model, {"device": given.device, "precision": given.setting("precision")})
    else:
        folder, model = os.fspath(model), Run(Path(model)).config()
        model.update(run=folder, device=given.device, precision=given.setting("precision"))
        model = _chosen(model, given)
    if model.run:
        parts, source = load_parts(model, model.run), Run(Path(model.run)).config()
    else:
        parts, source = build_parts(model), model
        _weightless(parts.learner)
    nodes = {part: source[part] for part in ("backbone", "head") if part in source}
    nodes |= {"learner": model.learner, "semi": model.semi}
    config = {name: OmegaConf.to_container(node, resolve=True) for name, node in nodes.items()}
    config["backbone"] |= {"weights": None} if "weights" in config["backbone"] else {}  # all are in the saved file
    return parts.learner, parts.hardware, PictureForm.of(parts.dataset), config


def assemble(config: DictConfig, backbone: nn.Module | None = None) -> AbstractLearner:
    """The learner in its wrappers on `backbone`, else on that of `config`, else on features as they are."""
    if backbone is None:
        backbone = build_backbone(config) if "backbone" in config else _Features()
    given = {"label_swap": nn.Identity()} if "label_swap" in arguments_of(config.learner) else {}
    return build_learner(config, backbone, given)


class _Features(nn.Identity):
    shape = ()


def _chosen(config: DictConfig, given: Predictor) -> DictConfig:
    """`config` with the learner and the wrappers that are named beside the model, where it has none with the default ones, and
    with the settings in `options`.
    """
    parts = [part for part in ("learner", "semi") if part not in config or getattr(given, part) is not None]
    if given.options and not parts:
        config = copy.deepcopy(config)
        for option in given.options:
            key, _, value = option.partition("=")
            check_key(OmegaConf.masked_copy(config, ["learner", "semi"]), key)
            OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value)
        return config
    semi = (given.semi,) if isinstance(given.semi, str) else tuple(given.semi or ("supervised",))
    named = _composed(given.learner or "prototypical", semi, tuple(given.options)) if parts else {}
    return OmegaConf.merge({k: v for k, v in config.items() if k not in parts}, {part: named[part] for part in parts})


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


def saved_settings(model: Any) -> dict[str, Any]:
    """The settings in the file that `Predictor.save` wrote; none where `model` is no such file."""
    if not isinstance(model, str | os.PathLike) or not Path(model).is_file():
        return {}
    return read_saved(model, whole=False)[0]["settings"]


def read_saved(path: str | os.PathLike, whole: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `Predictor.save` wrote, the tensors only where `whole`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            kept = json.loads((file.metadata() or {}).get(KEY, "no metadata"))
            return kept, {name: file.get_tensor(name) for name in (file.keys() if whole else ())}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no whole file that FewShotClassifier.save wrote ({error})") from None
