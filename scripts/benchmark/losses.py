"""Time losses of embeddings beside pytorch-metric-learning: the rows `losses` of the benchmark.

Measured is a forward and backward pass of each loss that both packages have (4 items a class, float32): its time and the most
memory it takes, each side in a process of its own. The table also tells how far both sides differ, as shares of the largest
entry: in the value, in the gradient, and in the gradient for embeddings in bf16. The last row has the geometric means
at the largest shape.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from benchmark.measuring import against, alone, cost, relative_error
from episodic.core.distances.euclidean import Euclidean
from episodic.core.losses.circle import Circle
from episodic.core.losses.contrastive import Contrastive
from episodic.core.losses.fastap import FastAP
from episodic.core.losses.lifted_structure import LiftedStructure
from episodic.core.losses.margin import Margin
from episodic.core.losses.memory.xbm import XBM
from episodic.core.losses.multi_similarity import MultiSimilarity
from episodic.core.losses.n_pair import NPair
from episodic.core.losses.proxy_anchor import ProxyAnchor
from episodic.core.losses.proxy_nca import ProxyNCA
from episodic.core.losses.ranked_list import RankedList
from episodic.core.losses.soft_triple import SoftTriple
from episodic.core.losses.supcon import SupCon
from episodic.core.losses.triplet import Triplet
from episodic.evaluate.tables import table
from episodic.run.device import Hardware

SHAPES = ((256, 128), (256, 512), (1024, 128), (1024, 512))
PER_CLASS = 4
TOO_LARGE = {"lifted_structure": 256}  # most items at which the peer does without tens of GiB
HEADER = ["loss", "items x dim", "ours, ms", "peer, ms", "ratio", "target"]
HEADER += ["ours, MiB", "peer, MiB", "value", "gradient", "bf16"]
TARGET, MEAN_TARGET = 1, 2


def ours(name: str, dim: int, n_classes: int) -> Callable:
    """Our loss in the settings that the peer has too."""
    return {
        "contrastive": lambda: Contrastive(),
        "triplet": lambda: Triplet(0.05, "all", distance=Euclidean()),
        "n_pair": lambda: NPair(l2=0),
        "lifted_structure": lambda: LiftedStructure(),
        "margin": lambda: Margin(triplets="all", learn_beta=False),
        "proxy_nca": lambda: ProxyNCA(dim, n_classes, variant="probability"),
        "proxy_anchor": lambda: ProxyAnchor(dim, n_classes),
        "soft_triple": lambda: SoftTriple(dim, n_classes, tau=0),
        "circle": lambda: Circle(),
        "multi_similarity": lambda: MultiSimilarity(),
        "ranked_list": lambda: RankedList(variant="tpami", detach_weights=False, gallery_grad=True),
        "fastap": lambda: FastAP(),
        "supcon": lambda: SupCon(),
        "contrastive, xbm": lambda: XBM(Contrastive(), dim, start=0),
    }[name]()


def peers(name: str, dim: int, n_classes: int) -> Callable:
    """The same of pytorch-metric-learning."""
    losses, distances, miners = (
        import_module(f"pytorch_metric_learning.{part}") for part in ("losses", "distances", "miners")
    )
    if name == "multi_similarity":
        loss, miner = losses.MultiSimilarityLoss(2, 50, 0.5), miners.MultiSimilarityMiner(0.1)
        return lambda x, y: loss(x, y, miner(x, y))
    if name == "contrastive, xbm":
        memory = losses.CrossBatchMemory(losses.ContrastiveLoss(), dim, 8192)
        batch = losses.ContrastiveLoss()
        return lambda x, y: batch(x, y) + memory(x, y)
    return {
        "contrastive": lambda: losses.ContrastiveLoss(),
        "triplet": lambda: losses.TripletMarginLoss(),
        "n_pair": lambda: losses.NPairsLoss(distance=distances.DotProductSimilarity(normalize_embeddings=False)),
        "lifted_structure": lambda: losses.LiftedStructureLoss(),
        "margin": lambda: losses.MarginLoss(),
        "proxy_nca": lambda: losses.ProxyNCALoss(n_classes, dim, softmax_scale=9),
        "proxy_anchor": lambda: losses.ProxyAnchorLoss(n_classes, dim),
        "soft_triple": lambda: losses.SoftTripleLoss(n_classes, dim),
        "circle": lambda: losses.CircleLoss(),
        "ranked_list": lambda: losses.RankedListLoss(margin=0.4, Tn=10, alpha=1.2),
        "fastap": lambda: losses.FastAPLoss(),
        "supcon": lambda: losses.SupConLoss(),
    }[name]()


NAMES = (
    *(
        "contrastive",
        "contrastive, xbm",
        "triplet",
        "margin",
        "n_pair",
        "lifted_structure",
        "proxy_nca",
        "proxy_anchor",
    ),
    *("soft_triple", "circle", "multi_similarity", "ranked_list", "fastap", "supcon"),
)


def losses(args: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """`(entries of the JSON, table)` of all losses and shapes. Each loss and each side has a process of its own."""
    import_module("pytorch_metric_learning")
    entries, lines = [], []
    for name in NAMES:
        mine, its = (alone(measure, name, make, args.repeats) for make in (ours, peers))
        for shape in SHAPES:
            a, b = mine[shape], its.get(shape)
            entry = {"row": f"loss, {name}", "items": shape[0], "dim": shape[1], "ours": a["seconds"], "unit": "s"}
            entry["peak_mib"] = a["bytes"] / 2**20
            cells = [name, f"{shape[0]:,} x {shape[1]}", f"{1e3 * a['seconds']:.3g}"]
            if b is None:
                lines.append([*cells, *"–––", f"{entry['peak_mib']:.0f}", *"––––"])
            else:
                value, gradient, half = (relative_error(a[what], b[what]) for what in ("value", "gradient", "half"))
                entry |= {
                    "peer": b["seconds"],
                    "ratio": b["seconds"] / a["seconds"],
                    "target": TARGET,
                    "peer_peak_mib": b["bytes"] / 2**20,
                }
                entry |= {"value_error": value, "gradient_error": gradient, "bf16_gradient_error": half}
                memory = [f"{entry['peak_mib']:.0f}", f"{entry['peer_peak_mib']:.0f}"]
                speed = [f"{1e3 * b['seconds']:.3g}", f"{entry['ratio']:.3g}", against(entry["ratio"], TARGET)]
                lines.append([*cells, *speed, *memory, *(f"{error:.0e}" for error in (value, gradient, half))])
            entries.append(entry)
    mean = geometric_mean(entries)
    speed = [f"{1e3 * mean['ours']:.3g}", f"{1e3 * mean['peer']:.3g}", f"{mean['ratio']:.3g}"]
    size = f"{mean['items']:,} x {mean['dim']}"
    lines.append(["geometric mean", size, *speed, against(mean["ratio"], MEAN_TARGET), *"–––––"])
    return [*entries, mean], table(HEADER, lines)


def geometric_mean(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry with the means over all losses that have a peer at the largest shape."""
    items, dim = SHAPES[-1]
    compared = [entry for entry in entries if (entry["items"], entry["dim"]) == (items, dim) and "peer" in entry]
    a, b = (statistics.geometric_mean(entry[side] for entry in compared) for side in ("ours", "peer"))
    mean = {"row": "loss, geometric mean", "items": items, "dim": dim, "ours": a, "peer": b, "unit": "s"}
    return mean | {"ratio": b / a, "target": MEAN_TARGET}


def measure(name: str, make: Callable, repeats: int) -> dict[tuple[int, int], dict[str, Any]]:
    """Seconds of a forward and backward pass, the most bytes taken beyond those held before, value and gradient, for each shape.

    `half` is the gradient for embeddings in bf16. The peer refuses these for most losses, so it gets the same numbers in float32.
    """
    hardware, found = Hardware.choose(), {}
    for items, dim in SHAPES:
        if make is peers and items > TOO_LARGE.get(name, items):
            continue
        x, y = batch(items, dim, 2 if name == "n_pair" else PER_CLASS)
        loss = with_proxies(make(name, dim, int(y.max()) + 1))
        # Value and gradient are those of the first step, where a cross-batch memory is still empty.
        (value, gradient), seconds, peak = cost(
            functools.partial(step, loss, x, y), hardware, (3 if items > 256 else 10) * repeats
        )
        again = with_proxies(make(name, dim, int(y.max()) + 1))
        half = x.bfloat16() if make is ours else x.bfloat16().float()
        found[items, dim] = {
            "seconds": seconds,
            "bytes": peak,
            "value": value,
            "gradient": gradient,
            "half": step(again, half, y)[1].float(),
        }
    return found


def step(loss: Callable, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, y)
    value.backward()
    return value.detach(), x.grad


def batch(items: int, dim: int, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of overlapping classes, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(items // per_class).repeat_interleave(per_class)
    centers = torch.randn(items // per_class, dim, generator=generator)
    x = 4 / dim**0.5 * centers[y] + torch.randn(items, dim, generator=generator)
    return x / dim**0.5, y


def with_proxies(loss: Any) -> Any:
    """Give the loss the same proxies on both sides, in the layout that each side keeps them in."""
    for parameter in loss.parameters() if isinstance(loss, torch.nn.Module) else ():
        # ours: [class, dim] or [class, center, dim]; theirs the same, or [dim, class * center]
        generator = torch.Generator().manual_seed(1)
        theirs = type(loss).__module__.startswith("pytorch_metric_learning")
        flipped = theirs and type(loss).__name__ == "SoftTripleLoss"
        shape = parameter.T.shape if flipped else parameter.flatten(0, -2).shape
        rows = torch.randn(shape, generator=generator)
        with torch.no_grad():
            parameter.copy_(rows.T if flipped else rows.view_as(parameter))
    return loss
