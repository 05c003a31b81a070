"""Training on pseudo-labels: labels that spread from labeled images to unlabeled ones, and are found anew for every epoch."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from episodic.core.functional import diffusion
from episodic.data.labels.folds import restricted
from episodic.run.distributed import dealt, from_first, mean_of_batch
from episodic.run.embed import embed
from episodic.semi.pseudo_labels import PseudoLabels
from episodic.train.procedure import AbstractProcedure

LABELED, UNLABELED = 2, 3  # words of the generator's counter: streams of their own


@dataclasses.dataclass(eq=False)
class PseudoLabelTraining(AbstractProcedure):
    """Trains on labeled images, and on unlabeled ones with the labels that spread to them. It trains `semi=pseudo_labels`, which
    has the equations, the settings and the source.

    A step takes single images. Their present labels and weights are buffers of `state`. The true labels of unlabeled images are
    used for `metrics` only.

    **Raises:** `ValueError` for another learner or other losses, and where there are no labeled or no unlabeled images.
    """

    accuracy_of: ClassVar[str] = "labeled images, all classes"
    unread: ClassVar[Mapping[str, str]] = {"task.train": "it takes single images in the place of training episodes"}

    def prepare(self) -> None:
        setup, wrapper = self.setup, self.setup.learner
        if not isinstance(wrapper, PseudoLabels):
            raise ValueError("trainer=pseudo_labels trains semi=pseudo_labels: choose it, with learner=base_classifier")
        if setup.objective.losses or setup.objective.own_weight != 1:
            raise ValueError("trainer=pseudo_labels has a loss of its own: leave loss= as it is")
        seen = np.ones(len(setup.store), dtype=bool) if setup.seen is None else setup.seen
        known = (seen if setup.labeled is None else setup.labeled)[seen]
        self.images = restricted(setup.store, seen)
        labels = self.images.labels.numpy()
        self.given, self.hidden = np.flatnonzero(known), np.flatnonzero(~known)
        if not len(self.given) or not len(self.hidden):
            raise ValueError(
                "semi=pseudo_labels spreads labels from some training images to the others: task.labeled_fraction must leave "
                f"images of both kinds, got {len(self.given):,} labeled and {len(self.hidden):,} unlabeled"
            )
        self.known = np.where(known, labels, -1)
        self.seconds: dict[str, float] = {}
        start = diffusion.class_weights(self.known, wrapper.learner.base.out_features)
        self.take(diffusion.PseudoLabels(self.known, known.astype(np.float32), start, 0.0))

    @property
    def refresh_every(self) -> int:
        """How many steps an epoch has. Before each epoch the labels spread anew."""
        wrapper = self.setup.learner
        return wrapper.refresh_every or -(-len(self.hidden) // (wrapper.batch - wrapper.labeled_per_batch))

    @property
    def images_per_step(self) -> int:
        return self.setup.learner.batch

    @property
    def metrics(self) -> dict[str, float]:
        if not self.setup.learner.unlabeled_weight:
            return {}
        found = self.state.labels.cpu()[self.hidden] == self.images.labels[self.hidden]
        values = {"pseudo_label_accuracy": found.float().mean().item()}
        return values | ({"refresh_seconds": sum(self.seconds.values())} if self.seconds else {})

    def compute_loss(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        setup, wrapper = self.setup, self.setup.learner
        both = wrapper.unlabeled_weight > 0
        if both and self.step % self.refresh_every == 0:
            self.refresh()
        n_labeled = wrapper.labeled_per_batch if both else wrapper.batch
        items = self.given[shuffled(len(self.given), self.step, n_labeled, (setup.seed, LABELED))]
        if both:
            order = shuffled(len(self.hidden), self.step, wrapper.batch - n_labeled, (setup.seed, UNLABELED))
            items = np.concatenate([items, self.hidden[order]])
        is_labeled = torch.arange(len(items)) < n_labeled
        with dealt(len(items), "images (semi.pseudo_labels.batch)") as share:
            items, is_labeled = torch.from_numpy(items)[share.slice], is_labeled[share.slice]
            images = self.images.gather(items).to(setup.hardware.device, non_blocking=True)
            with setup.hardware.autocast():
                features = wrapper.backbone(setup.normalize(images, setup.augment, generator))
            logits = wrapper.learner.base(features.float().flatten(1))
            items, is_labeled = items.to(logits.device), is_labeled.to(logits.device)
            right = is_labeled * (logits.detach().argmax(-1) == self.state.labels[items])
            loss = mean_of_batch(self.weighted_losses(logits, items, is_labeled), share)
            return loss, mean_of_batch(right.float(), share) * (share.of / n_labeled)

    def weighted_losses(
        self, logits: Float[Tensor, "item n_classes"], items: Int64[Tensor, " item"], is_labeled: Bool[Tensor, " item"]
    ) -> Float[Tensor, " item"]:
        """The weighted cross-entropy of each of some `items` of the training set."""
        labels = self.state.labels[items]
        weights = self.state.weights[items] * self.state.class_weights[labels]
        weights = torch.where(is_labeled, weights, self.setup.learner.unlabeled_weight * weights)
        return weights * cross_entropy(logits, labels, ignore_index=-1, reduction="none")

    def take(self, found: diffusion.PseudoLabels) -> None:
        """Train on the labels and weights `found` from now on."""
        device = self.setup.hardware.device  # copies: a checkpoint is loaded into these buffers in place
        self.state.register_buffer("labels", torch.tensor(found.labels, dtype=torch.int64, device=device))
        self.state.register_buffer("weights", torch.tensor(found.weights, dtype=torch.float32, device=device))
        self.state.register_buffer(
            "class_weights", torch.tensor(found.class_weights, dtype=torch.float32, device=device)
        )

    def refresh(self) -> None:
        """Spread the labels along a graph of the features that the backbone gives now. A line on the terminal says how many are
        right.
        """
        setup, wrapper, began = self.setup, self.setup.learner, time.perf_counter()
        features = embed(wrapper.backbone, self.images, setup.normalize, setup.hardware)
        wrapper.train()
        embedded = time.perf_counter()

        def spread() -> tuple[diffusion.PseudoLabels, dict[str, float]]:
            begun = time.perf_counter()
            graph = diffusion.neighbor_graph(features.flatten(1), wrapper.neighbors, wrapper.gamma)
            joined, n_classes = time.perf_counter(), wrapper.learner.base.out_features
            settings = {"alpha": wrapper.alpha, "iterations": wrapper.iterations, "relative": wrapper.relative_weights}
            found = diffusion.pseudo_labels(graph, self.known, n_classes, **settings)
            return found, {"graph": joined - begun, "diffusion": time.perf_counter() - joined}

        found, seconds_of = from_first(spread)
        self.take(found)
        self.seconds = {"embedding": embedded - began, **seconds_of}
        seconds = ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items())
        tqdm.write(
            f"step {self.step:>6}  pseudo-labels {100 * self.metrics['pseudo_label_accuracy']:.2f} % right, mean weight "
            f"{found.weights[self.hidden].mean():.3f}, residual {found.residual:.1e}; seconds: {seconds}"
        )


def shuffled(count: int, step: int, number: int, key: tuple[int, int]) -> np.ndarray:
    """The items of step `step`, `number` of them, in an endless series of passes over `count` items. Each pass takes all items
    once, in an order of its own.

    **Arguments:** `key`: the seed, and the number of the stream of random numbers.

    >>> steps = [shuffled(4, step, 2, (0, 2)).tolist() for step in range(4)]
    >>> sorted(steps[0] + steps[1]), sorted(steps[2] + steps[3])
    ([0, 1, 2, 3], [0, 1, 2, 3])
    """
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
