"""Training on batches of images by losses of their embeddings: deep metric learning, and pre-training."""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from episodic.core.functional.batches import MATCHES, greedy_coreset, hard_negatives
from episodic.core.functional.pairs import cosine, unit
from episodic.core.losses.divide_and_conquer import clusters_of
from episodic.episodes.sampler import EpisodeIndices, EpisodeSampler, Numbers
from episodic.run.embed import embed
from episodic.train.loop import Trainer, Training

CHOOSE = ("coreset", *MATCHES)  # one batch of several
SAMPLERS = ("balanced", *CHOOSE, "schem", "clustered")
ANY_IMAGE = ("schem", "clustered")  # samplers that take whatever training image suits them


@dataclasses.dataclass(frozen=True)
class MetricTrainer(Trainer):
    """A `Trainer` whose steps are batches: `images_per_class` images of each of `classes_per_batch` training classes.

    Classes with fewer images than `images_per_class` are left out.

    `sampler`: `balanced` draws classes and images evenly. `coreset`, `density` and `frechet` draw `candidates` such batches and
    choose by the embeddings that their images had last, see `core.batches`: the first puts a batch together from groups far
    from each other, the others take the batch that is most like all candidates together. `schem`, for `loss=schem`, takes the
    images of one class and as many negatives as fill the batch, out of `candidates` times as many hard classes and images.
    `clustered`, for `loss=divide_and_conquer`, takes batches from one cluster of the images after the other, of as many classes
    as it has.
    """

    classes_per_batch: int = 16
    images_per_class: int = 4
    sampler: str = "balanced"
    candidates: int = 8

    def __post_init__(self):
        super().__post_init__()
        if self.images_per_class < 2:
            raise ValueError(f"trainer.images_per_class must be at least 2, got {self.images_per_class}")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"trainer.sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.sampler in CHOOSE and self.candidates < 2:
            raise ValueError(f"trainer.candidates must be at least 2 to choose from, got {self.candidates}")

    def batches(self, labels: Numbers, *, seed: int, epoch: int, labeled: Numbers | None = None) -> EpisodeSampler:
        """The candidates of each step: episodes, of which only the items count."""
        candidates = self.candidates if self.sampler in CHOOSE else 1
        return EpisodeSampler(
            labels,
            n_way=1 if self.sampler == "schem" else self.classes_per_batch,
            n_shot=self.images_per_class - 1,
            n_query=1,
            episodes=self.steps * candidates,
            episodes_per_batch=candidates,
            seed=seed,
            epoch=epoch,
            labeled=labeled,
            too_small="drop",
        )


@dataclasses.dataclass(eq=False)
class MetricTraining(Training):
    """The training of an `objective.WithLosses` on batches in the place of episodes, by its losses of embeddings alone.

    The order inside a batch tells the losses nothing. The accuracy of the curves is the share of images whose nearest
    neighbour in the batch is of their class.
    """

    sampler: EpisodeSampler
    trainer: MetricTrainer

    def outcome(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        items = self.items()
        images = self.store.gather(items).to(self.hardware.device, non_blocking=True)
        labels = self.store.labels[items].to(self.hardware.device)
        with self.hardware.autocast():
            embeddings = self.learner.backbone(self.normalize(images, self.augment, generator)).float().flatten(1)
        self.note(items, embeddings.detach())
        return self.learner.of_batch(embeddings, labels), nearest_are_right(embeddings.detach(), labels)

    def items(self) -> Int64[Tensor, " item"]:
        """The images of this step."""
        return torch.from_numpy(self.sampler.batch(self.step).flat())

    def note(self, items: Int64[Tensor, " item"], embeddings: Float[Tensor, "item dim"]) -> None:
        """Called with the embeddings that the images of this step have."""

    def embed_all(self) -> Float[Tensor, "image dim"]:
        """The embeddings that all training images have now."""
        features = embed(self.learner.backbone, self.store, self.normalize, self.hardware)
        self.learner.train()
        return features.flatten(1)

    def loss_of_the_sampler(self, name: str) -> nn.Module:
        """The loss that the batches are for.

        **Raises:** `ValueError` where it is not among the losses.
        """
        if name not in self.learner.losses:
            raise ValueError(
                f"trainer.sampler={self.trainer.sampler} makes batches for loss={name}, which is not among the losses"
            )
        return self.learner.losses[name]


class ChosenTraining(MetricTraining):
    """Chooses each batch by the embeddings that the images of its candidates had last (see `core.batches`).

    They are kept in the learner's buffer `bank`, a part of its checkpoints; the first are those of the network at the start.
    """

    def __post_init__(self):
        super().__post_init__()
        bank = torch.zeros(len(self.store), math.prod(self.learner.backbone.shape))
        self.learner.register_buffer("bank", bank.to(self.hardware.device))

    def items(self) -> Int64[Tensor, " item"]:
        if self.step == 0:
            self.learner.bank.copy_(self.embed_all())
        return self.chosen(self.sampler.batch(self.step))

    def chosen(self, episodes: EpisodeIndices) -> Int64[Tensor, " item"]:
        """The batch that the candidates give."""
        support = torch.from_numpy(episodes.support).unflatten(1, (self.trainer.classes_per_batch, -1))
        groups = torch.cat([support, torch.from_numpy(episodes.query)[..., None]], dim=-1)
        candidates = unit(self.learner.bank[groups])
        if self.trainer.sampler == "coreset":
            chosen = greedy_coreset(candidates, torch.from_numpy(episodes.class_ids).to(candidates.device))
            return groups.flatten(0, 1)[chosen.cpu()].flatten()
        return groups[MATCHES[self.trainer.sampler](candidates).argmin().cpu()].flatten()

    def note(self, items: Int64[Tensor, " item"], embeddings: Float[Tensor, "item dim"]) -> None:
        self.learner.bank[items] = embeddings


class HardNegativesTraining(ChosenTraining):
    """Fills each batch with hard negatives of the class that it begins with, for `loss=schem`."""

    def __post_init__(self):
        super().__post_init__()
        self._loss = self.loss_of_the_sampler("schem")
        self._labels = self.store.labels.to(self.hardware.device)

    def chosen(self, episodes: EpisodeIndices) -> Int64[Tensor, " item"]:
        anchors, bank = torch.from_numpy(episodes.flat()), self.learner.bank
        negatives = hard_negatives(
            bank,
            self._labels,
            self._loss.signatures.detach(),
            anchors.to(bank.device),
            n_classes=self.trainer.classes_per_batch - 1,
            pool=self.trainer.candidates,
        )
        return torch.cat([anchors, negatives.cpu()])


class ClusteredTraining(MetricTraining):
    """Takes batches from one cluster of the images after the other, for `loss=divide_and_conquer`, which describes it.

    The clusters are the learner's buffer `clusters`, a part of its checkpoints.
    """

    def __post_init__(self):
        super().__post_init__()
        self._loss = self.loss_of_the_sampler("divide_and_conquer")
        self._samplers: dict[int, tuple[Tensor, EpisodeSampler | None]] = {}  # by cluster, since the last clustering
        self.learner.register_buffer("clusters", torch.zeros(len(self.store), dtype=torch.long))

    def items(self) -> Int64[Tensor, " item"]:
        self._loss.cluster = None
        if self.step >= (1 - self._loss.finish) * self.trainer.steps:
            return super().items()
        if self.step % self._loss.recluster_every == 0:
            before = self.learner.clusters if self.step else None
            self.learner.clusters = clusters_of(self.embed_all(), self._loss.n_learners, before, self.seed)
            self._samplers.clear()
        cluster = self.step % self._loss.n_learners
        if cluster not in self._samplers:
            self._samplers[cluster] = self._sampler_of(cluster)
        inside, sampler = self._samplers[cluster]
        if sampler is None:
            return super().items()
        self._loss.cluster = cluster
        return inside[torch.from_numpy(sampler.batch(self.step).flat())]

    def _sampler_of(self, cluster: int) -> tuple[Int64[Tensor, " item"], EpisodeSampler | None]:
        """The images of a cluster and their batches; None where there are no two classes to tell apart."""
        inside = torch.where(self.learner.clusters.cpu() == cluster)[0]
        labels = self.store.labels[inside]
        classes = int((labels.bincount() >= self.trainer.images_per_class).sum())
        if classes < 2:
            return inside, None
        classes = min(classes, self.trainer.classes_per_batch)
        trainer = dataclasses.replace(self.trainer, sampler="balanced", classes_per_batch=classes)
        return inside, trainer.batches(labels.numpy(), seed=self.seed, epoch=self.sampler.epoch)


TRAININGS = {
    "balanced": MetricTraining,
    **dict.fromkeys(CHOOSE, ChosenTraining),
    "schem": HardNegativesTraining,
    "clustered": ClusteredTraining,
}


def nearest_are_right(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Whether each item's nearest other one, by cosine, has its label: `[N]`, 0 or 1."""
    similarity = cosine(embeddings, embeddings).fill_diagonal_(-torch.inf)
    return (labels[similarity.argmax(1)] == labels).float()
