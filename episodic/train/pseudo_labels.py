"""Training on pseudo-labels that are spread anew before every epoch."""

from __future__ import annotations

import dataclasses
import functools
import time

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from episodic.core.functional.prototypes import diffusion
from episodic.data.labels.folds import restricted
from episodic.run.embed import embed
from episodic.train.loop import Training

LABELED, UNLABELED = 2, 3  # words of the generator's counter: streams of their own


@dataclasses.dataclass(eq=False)
class PseudoLabelTraining(Training):
    """The training of a learner in `semi.pseudo_labels`, which describes it, on single images in the place of episodes.

    `labeled [N]` and `seen [N]`: which images of the store have a label, and which may be used at all. Labels of the others
    are used for nothing but `measured`. A step is a pure function of `(weights, labels that the learner holds, seed, step)`.

    **Raises:** `ValueError` where there is nothing to label, or nothing to begin with.
    """

    labeled: np.ndarray = dataclasses.field(kw_only=True)
    seen: np.ndarray = dataclasses.field(kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        self._images = restricted(self.store, self.seen)
        labels, known = self._images.labels.numpy(), self.labeled[self.seen]
        self._given, self._hidden = np.flatnonzero(known), np.flatnonzero(~known)
        if not len(self._given) or not len(self._hidden):
            raise ValueError(
                "semi=pseudo_labels spreads labels from some training images to the others: task.labeled_fraction must leave "
                f"images of both kinds, got {len(self._given):,} labelled and {len(self._hidden):,} unlabelled"
            )
        self._known = np.where(known, labels, -1)
        start = diffusion.class_weights(self._known, self.learner.learner.base.out_features)
        self.learner.take(diffusion.PseudoLabels(self._known, known.astype(np.float32), start, 0.0))
        self._seconds: dict[str, float] = {}

    @property
    def refresh_every(self) -> int:
        """Steps of an epoch."""
        wrapper = self.learner
        return wrapper.refresh_every or -(-len(self._hidden) // (wrapper.batch - wrapper.labeled_per_batch))

    @property
    def measured(self) -> dict[str, float]:
        if not self.learner.unlabeled_weight:
            return {}
        found = self.learner.labels.cpu()[self._hidden] == self._images.labels[self._hidden]
        values = {"pseudo_label_accuracy": found.float().mean().item()}
        return values | ({"refresh_seconds": sum(self._seconds.values())} if self._seconds else {})

    def outcome(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        wrapper, both = self.learner, self.learner.unlabeled_weight > 0
        if both and self.step % self.refresh_every == 0:
            self.refresh()
        n_labeled = wrapper.labeled_per_batch if both else wrapper.batch
        items = self._given[shuffled(len(self._given), self.step, n_labeled, (self.seed, LABELED))]
        if both:
            order = shuffled(len(self._hidden), self.step, wrapper.batch - n_labeled, (self.seed, UNLABELED))
            items = np.concatenate([items, self._hidden[order]])
        items = torch.from_numpy(items)
        images = self._images.gather(items).to(self.hardware.device, non_blocking=True)
        with self.hardware.autocast():
            features = wrapper.backbone(self.normalize(images, self.augment, generator))
        logits = wrapper.learner.base(features.float().flatten(1))
        items = items.to(logits.device)
        correct = logits.detach().argmax(-1) == wrapper.labels[items]
        return wrapper.loss(logits, items, n_labeled), correct[:n_labeled].float()

    def refresh(self) -> None:
        """Spread the labels along a graph of the features that the backbone gives now; prints how well that went."""
        wrapper, times = self.learner, [time.perf_counter()]
        features = embed(wrapper.backbone, self._images, self.normalize, self.hardware)
        wrapper.train()
        times.append(time.perf_counter())
        graph = diffusion.neighbour_graph(features.flatten(1), wrapper.neighbours, wrapper.gamma)
        times.append(time.perf_counter())
        found = diffusion.pseudo_labels(
            graph,
            self._known,
            wrapper.learner.base.out_features,
            wrapper.alpha,
            wrapper.iterations,
            relative=wrapper.relative_weights,
        )
        times.append(time.perf_counter())
        wrapper.take(found)
        self._seconds = dict(zip(("embedding", "graph", "diffusion"), np.diff(times).tolist(), strict=True))
        seconds = ", ".join(f"{name} {value:.1f}" for name, value in self._seconds.items())
        tqdm.write(
            f"step {self.step:>6}  pseudo-labels {100 * self.measured['pseudo_label_accuracy']:.2f} % right, mean weight "
            f"{found.weights[self._hidden].mean():.3f}, residual {found.residual:.1e}; seconds: {seconds}"
        )


def shuffled(count: int, step: int, number: int, key: tuple[int, int]) -> np.ndarray:
    """`number` of `count` items for step `step` of an endless series of passes, each over all items in an order of its own."""
    start, stop = step * number, (step + 1) * number
    passes = range(start // count, -(-stop // count))
    orders = np.concatenate([_order(count, *key, each) for each in passes])
    return orders[start - passes.start * count :][:number]


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, stream: int, number: int) -> np.ndarray:
    words = np.random.Philox(key=np.array([seed % 2**64, number], np.uint64), counter=[0, 0, stream, 0]).random_raw(
        count
    )
    return np.argsort(words, kind="stable")
