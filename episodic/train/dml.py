"""Deep metric learning: each step is a batch with several images of each of its classes, trained by losses of the embeddings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.functional.batches import density_gaps, frechet_gaps, greedy_coreset
from episodic.core.functional.pairs import cosine, unit
from episodic.episodes.arguments import choice
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.sampler import EpisodeSampler
from episodic.run.distributed import dealt, from_first, gathered
from episodic.run.embed import embed
from episodic.train.procedure import AbstractProcedure

Sampler = Literal["balanced", "coreset", "density", "frechet"]


@dataclasses.dataclass(eq=False)
class AbstractBatches(AbstractProcedure):
    """A procedure that trains on batches of images instead of episodes. It embeds a batch and takes the losses of the embeddings.

    Losses do not depend on the order in a batch. The accuracy of the training curve is the share of images whose nearest neighbor
    in the batch is of their class. Classes with fewer images than `images_per_class` are left out.

    **Arguments** beside those of every procedure: `classes_per_batch` (default 16), `images_per_class` (default 4): a batch has
    their product of images.

    **Raises:** `ValueError` for `images_per_class` below 2, without a loss of embeddings, and with a learner's own loss.
    """

    classes_per_batch: int = 16
    images_per_class: int = 4

    accuracy_of: ClassVar[str] = "nearest image in the batch"
    reports_retrieval: ClassVar[bool] = True
    unread: ClassVar[Mapping[str, str]] = {
        "task.train": "it takes batches of images in the place of training episodes",
        "pretrain": "a first stage is for training by episodes; init_from=<run> begins with the weights of any run",
    }

    def __post_init__(self):
        if self.images_per_class < 2:
            raise ValueError(f"trainer.images_per_class must be at least 2, got {self.images_per_class}")
        objective = self.setup.objective
        if not objective.losses:
            raise ValueError(
                f"trainer={self.name} trains by losses of embeddings: choose one, e.g. loss=multi_similarity, or loss=classifier "
                "for plain supervised pre-training"
            )
        if objective.own_weight is not None:
            raise ValueError(
                f"trainer={self.name} trains by losses of embeddings alone, and cross_entropy is a learner's loss of episodes: "
                "leave it out of loss="
            )
        super().__post_init__()

    @property
    def images_per_step(self) -> int:
        return self.classes_per_batch * self.images_per_class

    def batches(self, steps: int, candidates: int = 1, **changes) -> EpisodeSampler:
        """A sampler of batches, `candidates` of them for each step. They are drawn as episodes, of which the labels in the episode
        are not used.

        **Arguments:** `changes`: settings of `EpisodeSampler` that are to be others.
        """
        setup = self.setup
        settings = {"n_way": self.classes_per_batch, "labels": setup.store.labels.numpy(), "labeled": setup.labeled}
        return EpisodeSampler(
            **(settings | changes),
            n_shot=self.images_per_class - 1,
            n_query=1,
            episodes=steps * candidates,
            episodes_per_batch=candidates,
            seed=setup.seed,
            epoch=0,
            too_small="drop",
        )

    def loss_of_batch(
        self, items: Int64[Tensor, " item"], generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, "item dim"]]:
        """Embed the images `items` and take the losses. Returns
        `(loss, share of images whose nearest one is of their class, embeddings)`.
        """
        embeddings, labels = self.embed_batch(items, generator)
        loss = self.setup.objective.of_batch(embeddings, labels)
        return loss, nearest_are_right(embeddings.detach(), labels), embeddings.detach()

    def embed_batch(
        self, items: Int64[Tensor, " item"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "item dim"], Int64[Tensor, " item"]]:
        """The embeddings of the images `items`, which are augmented at random first, and the labels of these images. Where several
        processes share the batch, each embeds a part and gets all embeddings.
        """
        setup = self.setup
        labels = setup.store.labels[items].to(setup.hardware.device)
        with dealt(len(items), "images") as share, setup.hardware.autocast():
            images = setup.store.gather(items[share.slice]).to(setup.hardware.device, non_blocking=True)
            embeddings = setup.learner.backbone(setup.normalize(images, setup.augment, generator)).float().flatten(1)
            return gathered(embeddings, share), labels

    def embed_all(self) -> Float[Tensor, "image dim"]:
        """The embeddings that the network gives all training images now, without augmentation."""
        setup = self.setup
        self.fit_transforms()
        features = embed(setup.learner.backbone, setup.store, setup.normalize, setup.hardware)
        setup.learner.train()
        return features.flatten(1)

    def register_bank(self) -> None:
        """Give `state` a buffer `bank` for an embedding of every training image."""
        bank = torch.zeros(len(self.setup.store), math.prod(self.setup.learner.backbone.shape))
        self.state.register_buffer("bank", bank)

    def refuse_hidden_images(self) -> None:
        """**Raises:** `ValueError` where some training images may not be used, or not with their labels."""
        if self.setup.labeled is not None:
            raise ValueError(f"trainer={self.name} takes any training image, so none may be held out or unlabeled")


@dataclasses.dataclass(eq=False)
class MetricTraining(AbstractBatches):
    """Trains the backbone on batches of several images of several classes. Each batch has `images_per_class` images of each of
    `classes_per_batch` classes.

    With `sampler=balanced` classes and images are drawn at random, all alike. The other samplers draw `candidates` such batches,
    and choose by the embeddings that their images had last (see `core.functional.batches`). `coreset` puts a batch together from
    groups of images that are far from each other. `density` and `frechet` take the batch that is most like all candidates together.
    The embeddings are in the buffer `bank` of `state`; the first ones are those of the network at the start.

    Roth, Milbich, Sinha, Gupta, Ommer, Cohen: *Revisiting Training Strategies and Generalization Performance in Deep Metric
    Learning*, ICML 2020, https://arxiv.org/abs/2002.08473, compare the samplers and find little difference.

    **Arguments** beside those of batches: `sampler` (default `"balanced"`). `candidates` (default 8): at least 2; only for the
    other samplers.

    **Raises:** `ValueError` for another sampler, or too few candidates.
    """

    sampler: Sampler = "balanced"
    candidates: int = 8

    def prepare(self) -> None:
        choice("trainer.sampler", self.sampler, Sampler)
        chooses = self.sampler != "balanced"
        if chooses and self.candidates < 2:
            raise ValueError(f"trainer.candidates must be at least 2 to choose from, got {self.candidates}")
        self.source = self.batches(self.steps, self.candidates if chooses else 1)
        if chooses:
            self.register_bank()

    def compute_loss(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        episodes = self.source.batch(self.step)
        if self.sampler == "balanced":
            return self.loss_of_batch(torch.from_numpy(episodes.flat()), generator)[:2]
        if self.step == 0:
            self.state.bank.copy_(self.embed_all())
        items = from_first(lambda: self.chosen(episodes))
        loss, accuracies, embeddings = self.loss_of_batch(items, generator)
        self.state.bank[items] = embeddings
        return loss, accuracies

    def chosen(self, episodes: EpisodeIndices) -> Int64[Tensor, " item"]:
        """The images of the batch that is chosen among the candidates `episodes`."""
        support = torch.from_numpy(episodes.support).unflatten(1, (self.classes_per_batch, -1))
        groups = torch.cat([support, torch.from_numpy(episodes.query)[..., None]], dim=-1)
        candidates = unit(self.state.bank[groups])
        if self.sampler == "coreset":
            chosen = greedy_coreset(candidates, torch.from_numpy(episodes.class_ids).to(candidates.device))
            return groups.flatten(0, 1)[chosen.cpu()].flatten()
        gaps = density_gaps(candidates) if self.sampler == "density" else frechet_gaps(candidates)
        return groups[gaps.argmin().cpu()].flatten()


def nearest_are_right(embeddings: Tensor, labels: Tensor) -> Tensor:
    """The share of items whose nearest other item, by the cosine, has the same label.

    >>> nearest_are_right(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    tensor(0.6667)
    """
    similarity = cosine(embeddings, embeddings).fill_diagonal_(-torch.inf)
    return (labels[similarity.argmax(1)] == labels).float().mean()
