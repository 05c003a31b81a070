"""Deep metric learning: every step is a class-balanced batch of images, trained by losses of their embeddings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.functional.batches import density_gaps, frechet_gaps, greedy_coreset
from episodic.core.functional.pairs import cosine, unit
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.sampler import EpisodeSampler
from episodic.run.embed import embed
from episodic.train.procedure import AbstractProcedure

SAMPLERS = ("balanced", "coreset", "density", "frechet")


@dataclasses.dataclass(eq=False)
class AbstractBatches(AbstractProcedure):
    """What procedures on batches of images share: embed a batch, take the losses of the embeddings.

    The order inside a batch tells the losses nothing. The accuracy of the curves is the share of images whose nearest
    neighbor in the batch is of their class. Classes with fewer images than `images_per_class` are left out.
    """

    classes_per_batch: int = 16
    images_per_class: int = 4

    accuracy_of: ClassVar[str] = "nearest image in the batch"
    reports_retrieval: ClassVar[bool] = True
    unread: ClassVar[Mapping[str, str]] = {"task.train": "it takes batches of images in the place of training episodes"}

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

    def batches(self, steps: int, candidates: int = 1, **changes) -> EpisodeSampler:
        """The candidates of each step: episodes, of which only the items count."""
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
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " item"], Float[Tensor, "item dim"]]:
        """`(loss, whether the nearest is right, embeddings)` of the images `items`."""
        embeddings, labels = self.embed_batch(items, generator)
        loss = self.setup.objective.of_batch(embeddings, labels)
        return loss, nearest_are_right(embeddings.detach(), labels), embeddings.detach()

    def embed_batch(
        self, items: Int64[Tensor, " item"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "item dim"], Int64[Tensor, " item"]]:
        """The embeddings that the network gives the images `items` under a draw of the augmentation, and their labels."""
        setup = self.setup
        images = setup.store.gather(items).to(setup.hardware.device, non_blocking=True)
        labels = setup.store.labels[items].to(setup.hardware.device)
        with setup.hardware.autocast():
            embeddings = setup.learner.backbone(setup.normalize(images, setup.augment, generator)).float().flatten(1)
        return embeddings, labels

    def embed_all(self) -> Float[Tensor, "image dim"]:
        """The embeddings that all training images have now."""
        setup = self.setup
        features = embed(setup.learner.backbone, setup.store, setup.normalize, setup.hardware)
        setup.learner.train()
        return features.flatten(1)

    def register_bank(self) -> None:
        """A buffer `bank` for an embedding of every training image."""
        bank = torch.zeros(len(self.setup.store), math.prod(self.setup.learner.backbone.shape))
        self.state.register_buffer("bank", bank)

    def refuse_hidden_images(self) -> None:
        """**Raises:** `ValueError` where some training images may not be used, or not with their labels."""
        if self.setup.labeled is not None:
            raise ValueError(f"trainer={self.name} takes any training image, so none may be held out or unlabeled")


@dataclasses.dataclass(eq=False)
class MetricTraining(AbstractBatches):
    """Trains the backbone on batches of `images_per_class` images of each of `classes_per_batch` classes.

    With `sampler=balanced` classes and images are drawn evenly. `coreset`, `density` and `frechet` draw `candidates` such
    batches and choose by the embeddings that their images had last (see `core.functional.batches`): the first puts a batch together
    from groups far from each other, the others take the batch that is most like all candidates together. These embeddings are
    kept in the buffer `bank`; the first are those of the network at the start.

    Roth, Milbich, Sinha, Gupta, Ommer, Cohen: *Revisiting Training Strategies and Generalization Performance in Deep Metric
    Learning*, ICML 2020, https://arxiv.org/abs/2002.08473, compare the choices and find little between them.
    """

    sampler: str = "balanced"
    candidates: int = 8

    def prepare(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"trainer.sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
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
        items = self.chosen(episodes)
        loss, accuracies, embeddings = self.loss_of_batch(items, generator)
        self.state.bank[items] = embeddings
        return loss, accuracies

    def chosen(self, episodes: EpisodeIndices) -> Int64[Tensor, " item"]:
        """The batch that the candidates give."""
        support = torch.from_numpy(episodes.support).unflatten(1, (self.classes_per_batch, -1))
        groups = torch.cat([support, torch.from_numpy(episodes.query)[..., None]], dim=-1)
        candidates = unit(self.state.bank[groups])
        if self.sampler == "coreset":
            chosen = greedy_coreset(candidates, torch.from_numpy(episodes.class_ids).to(candidates.device))
            return groups.flatten(0, 1)[chosen.cpu()].flatten()
        gaps = density_gaps(candidates) if self.sampler == "density" else frechet_gaps(candidates)
        return groups[gaps.argmin().cpu()].flatten()


def nearest_are_right(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Whether each item's nearest other one, by cosine, has its label: `[N]`, 0 or 1."""
    similarity = cosine(embeddings, embeddings).fill_diagonal_(-torch.inf)
    return (labels[similarity.argmax(1)] == labels).float()
