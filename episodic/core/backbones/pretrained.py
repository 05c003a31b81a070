"""Networks of torchvision and timm without their classifier, with weights of ImageNet: the start of deep metric learning."""

from __future__ import annotations

import difflib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from episodic.core.backbones._output import check_images
from episodic.episodes.arguments import choice

Source = Literal["torchvision", "timm"]
Pooling = Literal["avg", "avg_max"]
FILES = (".pth", ".pt", ".safetensors")
AUXILIARY = ("aux1", "aux2", "AuxLogits")  # classifiers on earlier layers of GoogLeNet and Inception v3
# DenseNets were once saved with `norm.1` for what is `norm1` now; torchvision's own files still are.
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


class Pretrained(nn.Module):
    """A network made for ImageNet, of torchvision or timm, without its classifier. Deep metric learning starts from such networks.

    The last linear layer and the dropout before it are removed. `resnet50` (23.5 million parameters), `googlenet` (5.6) and
    `densenet201` (18.1) are those of metric learning. BN-Inception, which many of its papers use, is in neither library;
    `googlenet` is Inception v1 with batch norm. Images are expected with ImageNet's mean and standard deviation. torchvision's
    GoogLeNet and Inception v3 come from TensorFlow and want other values: they convert the images themselves, with random weights
    too. A gray image is taken as a color image of three equal channels, which is the same as summing the first convolution's
    weights over the colors.

    Weights of ImageNet were trained on the classes of mini- and tieredImageNet, and on some of CUB's birds: do not report few-shot
    numbers with them there.

    **Arguments:**

    - `name`, `source`: a model of `torchvision` (classification) or `timm` (which needs `pip install "episodic[timm]"`).
    - `in_channels`, `image_size`: of the square images; 3 channels, or 1 for gray ones.
    - `weights`: None for random ones; `"default"` for the library's (downloaded once); one of torchvision's names, such as
      `"IMAGENET1K_V1"`, which papers before 2022 used; or a file, `.pth`, `.pt` or `.safetensors`, with the library's names of
      tensors. A classifier in the file is ignored.
    - `pooling`: `"avg"`, the network's own, over all pixels; `"avg_max"`, the sum of the average and the maximum over all pixels,
      as in the code of Proxy-Anchor (Kim et al., 2020, https://arxiv.org/abs/2003.13911).
    - `frozen_batch_norm`: running statistics, scale and shift of batch norm stay as they are, in training too.

    `shape` is that of one embedding, as `(2048,)` for `resnet50`.

    **Raises:** `ValueError` for unknown names, for files that do not fit (the message has the first names that differ) and images
    too small for the network; `FileNotFoundError`; `OSError` where a download fails; `ImportError` where timm is not installed.

    >>> backbone = Pretrained("shufflenet_v2_x0_5", image_size=32, weights=None)
    >>> backbone.shape
    (1024,)
    """

    shape: tuple[int, ...]

    def __init__(
        self,
        name: str,
        source: Source = "torchvision",
        in_channels: int = 3,
        image_size: int = 224,
        weights: str | None = "default",
        pooling: Pooling = "avg",
        frozen_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        choice("source", source, Source)
        choice("pooling", pooling, Pooling)
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels must be 3 (color) or 1 (gray), as the network sees three, got {in_channels}")
        file = Path(weights).expanduser() if weights is not None and weights.endswith(FILES) else None
        if file is not None and not file.is_file():
            raise FileNotFoundError(f"weights: there is no file {file}")
        self.in_channels, self.image_size = in_channels, image_size
        self.frozen_batch_norm = frozen_batch_norm
        build = _torchvision if source == "torchvision" else _timm
        try:
            self.network, ignored = build(name, None if file else weights, pooling)
        except URLError as error:
            raise OSError(
                f"the weights of {name} cannot be downloaded ({error.reason}); give those of a file, weights=<file.pth>, or "
                "random ones, weights=null"
            ) from error
        if file is not None:
            _load(self.network, file, name, ignored)
        self.shape = (self._width(name),)
        if frozen_batch_norm:
            for norm in self._batch_norms():
                norm.requires_grad_(False)
        self.train()
        has_norms = not frozen_batch_norm or self._batch_norms()
        self.without_effect = {} if has_norms else {"frozen_batch_norm": f"{name} has no batch norm"}
        if weights is not None:
            tensors = self.network.state_dict().values()
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
            parameters = sum(parameter.numel() for parameter in self.network.parameters())
            print(f"{name} of {source}, weights {weights}: {parameters:,} parameters, {size:.1f} MB")

    def forward(self, images: Float[Tensor, "item channels height width"]) -> Float[Tensor, "item dim"]:
        check_images(images, self.in_channels, self.image_size)
        return self.network(images.expand(-1, 3, -1, -1))

    def train(self, mode: bool = True) -> Pretrained:
        super().train(mode)
        if self.frozen_batch_norm:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.network.modules() if isinstance(module, _BatchNorm)]

    def _width(self, name: str) -> int:
        """The width of the features of one image. Computing them shows that the network takes images of this size."""
        self.network.eval()
        try:
            with torch.no_grad():
                features = self.network(torch.zeros(1, 3, self.image_size, self.image_size))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(f"{name} cannot take images of {self.image_size} pixels a side: {error}") from error
        return features.shape[1]


class AverageAndMaximum(nn.Module):
    """The sum of the average and the maximum of each channel, `[item, dim, 1, 1]`.

    >>> AverageAndMaximum()(torch.tensor([[[[1.0, 3.0]]]])).item()
    5.0
    """

    def forward(self, maps: Float[Tensor, "item dim height width"]) -> Float[Tensor, "item dim 1 1"]:
        return maps.mean((2, 3), keepdim=True) + maps.amax((2, 3), keepdim=True)


def _torchvision(name: str, weights: str | None, pooling: str) -> tuple[nn.Module, tuple[str, ...]]:
    """Images -> features by a network of torchvision, and the names of the parts that are left out."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=4)) or "resnet50, googlenet, densenet201"
        raise ValueError(f"torchvision has no classifier {name!r}; it has {near} and others")
    if weights is not None:
        names = tuple(models.get_model_weights(name).__members__)
        choice(f"weights of {name}, unless a file ({', '.join(FILES)}),", weights.upper(), names)
    from_tensorflow = name in ("googlenet", "inception_v3")
    more = {"init_weights": weights is None} if from_tensorflow else {}
    network = models.get_model(name, weights=weights and weights.upper(), **more)
    if from_tensorflow:
        network.aux_logits, network.transform_input = False, True
        for part in set(AUXILIARY) & set(dict(network.named_children())):
            setattr(network, part, None)
    classifier = _remove_classifier(network, name)
    if pooling == "avg_max":
        network = _pool_average_and_maximum(network, name)
    return network, (*AUXILIARY, classifier)


def _remove_classifier(network: nn.Module, name: str) -> str:
    """Take away the last linear layer, and the dropout right before it. Returns the name of the layer."""
    leaves = [(path, module) for path, module in network.named_modules() if not any(module.children())]
    path, last = leaves[-1]
    if not isinstance(last, nn.Linear):
        raise ValueError(f"{name} ends in {type(last).__name__}, not in a linear classifier that could be taken away")
    network.set_submodule(path, nn.Identity())
    if isinstance(leaves[-2][1], nn.Dropout):
        network.set_submodule(leaves[-2][0], nn.Identity())
    return path


def _pool_average_and_maximum(network: nn.Module, name: str) -> nn.Module:
    from torchvision.models import DenseNet

    if isinstance(network, DenseNet):  # it pools in its `forward`
        features, network = network.features, nn.Sequential()
        steps = {
            "features": features,
            "relu": nn.ReLU(inplace=True),
            "avgpool": AverageAndMaximum(),
            "flatten": nn.Flatten(),
        }
        for path, step in steps.items():
            network.add_module(path, step)
        return network
    path = "avgpool" if hasattr(network, "avgpool") else "global_pool.pool"  # as torchvision and timm call it
    pool = dict(network.named_modules()).get(path)
    if not (isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size in (1, (1, 1))):
        raise ValueError(f"{name} has no average over all pixels to which a maximum could be added; take pooling=avg")
    network.set_submodule(path, AverageAndMaximum())
    return network


def _timm(name: str, weights: str | None, pooling: str) -> tuple[nn.Module, tuple[str, ...]]:
    """Images -> features by a network of timm, and the names of the parts that are left out."""
    try:
        import timm
    except ImportError:
        raise ImportError('source=timm needs timm: pip install "episodic[timm]"') from None

    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=4))
        raise ValueError(f"timm has no model {name!r}; near it: {near or 'nothing'}")
    if weights is not None:
        choice(f"weights of timm, unless a file ({', '.join(FILES)}),", weights, ("default",))
    network = timm.create_model(name, pretrained=weights is not None, num_classes=0)
    classifier = network.pretrained_cfg.get("classifier") or ()
    if pooling == "avg_max":
        network = _pool_average_and_maximum(network, name)
    return network, (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _load(network: nn.Module, file: Path, name: str, ignored: tuple[str, ...]) -> None:
    """Put the weights in `file` into `network`; parts named in `ignored` are left out."""
    loaded = {OLD_DENSENET.sub(r"\1\2", key): value for key, value in _read(file).items()}
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in loaded.items() if key in own or not _belongs_to(key, ignored)}
    # Old files do not count batches, and nothing depends on it.
    uncounted = {key for key in own.keys() - theirs.keys() if key.endswith("num_batches_tracked")}
    differ = [key for key in {**own, **theirs} if own.get(key) != theirs.get(key) and key not in uncounted]
    if differ:
        shown = ", ".join(f"{key} ({name} {own.get(key)}, file {theirs.get(key)})" for key in differ[:3])
        raise ValueError(f"{file} does not fit {name}; {len(differ)} tensors differ: {shown}")
    network.load_state_dict({key: loaded[key] for key in theirs}, strict=not uncounted)


def _belongs_to(key: str, parts: tuple[str, ...]) -> bool:
    return any(key.startswith(f"{part}.") for part in parts)


def _read(file: Path) -> Mapping[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} cannot be read as safetensors: {error}") from None
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{file} cannot be read as a file of weights and nothing else: {error}") from None
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{file} holds no state_dict, a mapping of names to tensors")
    return loaded
