"""Time new pseudo-labels for a whole data set, stage by stage: the rows `refresh` of the benchmark.

The data are miniImageNet's 38,400 training images, 10 % of them labeled. They get labels as Iscen et al. give them before each
epoch (Conv4 with random weights, 50 neighbors, alpha 0.99, 20 iterations). Each stage runs once; its time is in seconds. The peers
are scikit-learn's exact neighbors, and SciPy's conjugate gradients class after class. Both sides must find the same to 0.1 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import eye_array
from scipy.sparse.linalg import cg
from sklearn.neighbors import kneighbors_graph

from episodic.core.backbones.conv4 import Conv4
from episodic.core.functional import diffusion
from episodic.data.augment import Normalize
from episodic.data.labels.fraction import labeled_mask
from episodic.data.sets.miniimagenet import MiniImageNet
from episodic.evaluate.tables import table
from episodic.run.device import Hardware
from episodic.run.embed import embed

FRACTION, NEIGHBORS, ALPHA, ITERATIONS = 0.1, 50, 0.99, 20
HEADER = ["refresh of {:,} items", "ours, s", "scikit-learn / SciPy, s", "ratio"]


def refresh(args: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """`(entries of the JSON, table)` of all stages."""
    dataset, hardware = MiniImageNet(args.data_dir), Hardware.choose()
    store = dataset.store("train")
    torch.manual_seed(0)
    backbone = hardware.place(Conv4())
    normalize = Normalize(dataset.mean, dataset.std).to(hardware.device)
    labels = store.labels.numpy()
    n_classes = len(store.class_names)
    known = np.where(labeled_mask(labels, FRACTION, 0), labels, -1)

    features, embedding = timed(lambda: embed(backbone, store, normalize, hardware).flatten(1), hardware)
    graph, searching = timed(lambda: diffusion.neighbor_graph(features, NEIGHBORS), hardware)
    (ours, _), spreading = timed(lambda: diffusion.diffuse(graph, known, n_classes, ALPHA, ITERATIONS), hardware)

    x = torch.nn.functional.normalize(features.cpu()).numpy()
    found, peer_searching = timed(lambda: kneighbors_graph(x, NEIGHBORS, metric="cosine", n_jobs=-1), hardware)
    system = (eye_array(len(labels)) - ALPHA * graph).tocsr()
    theirs, peer_spreading = timed(lambda: one_by_one(system, known, n_classes), hardware)
    edges = (found.multiply(graph != 0)).nnz / found.nnz
    same = (ours.argmax(1) == theirs.argmax(1)).mean()
    print(
        f"refresh: {edges:.3%} of scikit-learn's edges are ours too, {same:.3%} of the labels are those of SciPy's cg"
    )
    if min(edges, same) < 0.999:
        raise SystemExit("refresh: our results differ from the peers', so a ratio of speeds would mean nothing")

    stages = {
        "embedding": (embedding, None),
        "graph": (searching, peer_searching),
        "diffusion": (spreading, peer_spreading),
    }
    entries, lines = [], []
    for stage, (seconds, peer) in stages.items():
        entry = {"row": f"refresh, {stage}", "items": len(store), "ours": seconds, "unit": "s"}
        entries.append(entry | ({"peer": peer, "ratio": peer / seconds, "target": None} if peer else {}))
        lines.append([stage, f"{seconds:.1f}", *([f"{peer:.1f}", f"{peer / seconds:.3g}"] if peer else ["–", "–"])])
    total = embedding + searching + spreading
    entries.append({"row": "refresh, total", "items": len(store), "ours": total, "unit": "s"})
    lines.append(["total", f"{total:.1f}", "–", "–"])
    return entries, table([HEADER[0].format(len(store)), *HEADER[1:]], lines)


def one_by_one(system: Any, known: np.ndarray, n_classes: int) -> np.ndarray:
    """The diffusion as the authors' code computes it: SciPy's conjugate gradients, class after class."""
    sides = (known[:, None] == np.arange(n_classes)).T.astype(system.dtype)
    return np.stack([cg(system, side, rtol=1e-6, maxiter=ITERATIONS)[0] for side in sides], axis=1)


def timed(work: Callable[[], Any], hardware: Hardware) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    if hardware.device.type == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - started
