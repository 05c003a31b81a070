"""Training on batches of images by losses of their embeddings: deep metric learning, and pre-training."""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Int64
from torch import Tensor

from episodic.core.batches import MATCHES, greedy_coreset, hard_negatives
from episodic.core.losses.divide_and_conquer import clusters_of
from episodic.loop import Trainer, Training, embed
from episodic.sampler import EpisodeSampler, Numbers

CHOOSE = ("coreset", *MATCHES)  # one batch of several
SAMPLERS = ("balanced", *CHOOSE, "schem", "clustered")
ASKS = {"schem": "schem", "clustered": "divide_and_conquer"}  # samplers that need a loss


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
    neighbour in the batch is of their class. A sampler that chooses by embeddings keeps those that each image had last in the
    learner's buffer `bank`, a part of its checkpoints; the first are those of the network at the start.
    """

    sampler: EpisodeSampler
    trainer: MetricTrainer

    def __post_init__(self):
        super().__post_init__()
        sampler, loss = self.trainer.sampler, ASKS.get(self.trainer.sampler)
        if loss and loss not in self.learner.losses:
            raise ValueError(f"trainer.sampler={sampler} makes batches for loss={loss}, which is not among the losses")
        self._samplers: dict[int, tuple[Tensor, EpisodeSampler | None]] = {}  # by cluster, since the last clustering
        if sampler == "clustered":
            self.learner.register_buffer("clusters", torch.zeros(len(self.store), dtype=torch.long))
        elif sampler != "balanced":
            bank = torch.zeros(len(self.store), math.prod(self.learner.backbone.shape))
            self.learner.register_buffer("bank", bank.to(self.hardware.device))

    def outcome(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        items = self.items()
        images = self.store.gather(items).to(self.hardware.device, non_blocking=True)
        labels = self.store.labels[items].to(self.hardware.device)
        with self.hardware.autocast():
            embeddings = self.learner.backbone(self.normalize(images, self.augment, generator)).float().flatten(1)
        if self.trainer.sampler not in ("balanced", "clustered"):
            self.learner.bank[items] = embeddings.detach()
        return self.learner.of_batch(embeddings, labels), nearest_are_right(embeddings.detach(), labels)

    def items(self) -> Int64[Tensor, " item"]:
        """The images of this step."""
        episodes = self.sampler.batch(self.step)
        if self.trainer.sampler == "balanced":
            return torch.from_numpy(episodes.flat())
        if self.trainer.sampler == "clustered":
            return self._of_a_cluster(torch.from_numpy(episodes.flat()))
        if self.step == 0:
            features = embed(self.learner.backbone, self.store, self.normalize, self.hardware)
            self.learner.bank.copy_(features.flatten(1))
            self.learner.train()
        if self.trainer.sampler == "schem":
            return self._with_hard_negatives(torch.from_numpy(episodes.flat()))
        support = torch.from_numpy(episodes.support).unflatten(1, (self.trainer.classes_per_batch, -1))
        groups = torch.cat([support, torch.from_numpy(episodes.query)[..., None]], dim=-1)
        candidates = torch.nn.functional.normalize(self.learner.bank[groups], dim=-1)
        if self.trainer.sampler == "coreset":
            chosen = greedy_coreset(candidates, torch.from_numpy(episodes.class_ids).to(candidates.device))
            return groups.flatten(0, 1)[chosen.cpu()].flatten()
        return groups[MATCHES[self.trainer.sampler](candidates).argmin().cpu()].flatten()

    def _of_a_cluster(self, of_all: Int64[Tensor, " item"]) -> Int64[Tensor, " item"]:
        """A batch of the cluster whose turn it is, or `of_all` images in the end."""
        loss = self.learner.losses["divide_and_conquer"]
        loss.cluster = None
        if self.step >= (1 - loss.finish) * self.trainer.steps:
            return of_all
        if self.step % loss.recluster_every == 0:
            features = embed(self.learner.backbone, self.store, self.normalize, self.hardware).flatten(1)
            before = self.learner.clusters if self.step else None
            self.learner.clusters = clusters_of(features, loss.n_learners, before, self.seed)
            self._samplers.clear()
            self.learner.train()
        cluster = self.step % loss.n_learners
        if cluster not in self._samplers:
            self._samplers[cluster] = self._sampler_of(cluster)
        inside, sampler = self._samplers[cluster]
        if sampler is None:
            return of_all
        loss.cluster = cluster
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

    def _with_hard_negatives(self, anchors: Int64[Tensor, " anchor"]) -> Int64[Tensor, " item"]:
        bank, signatures = self.learner.bank, self.learner.losses["schem"].signatures.detach()
        labels = self.store.labels.to(bank.device)
        wanted = self.trainer.classes_per_batch - 1, self.trainer.candidates
        return torch.cat([anchors, hard_negatives(bank, labels, signatures, anchors.to(bank.device), *wanted).cpu()])


def nearest_are_right(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Whether each item's nearest other one, by cosine, has its label: `[N]`, 0 or 1."""
    x = torch.nn.functional.normalize(embeddings, dim=1)
    similarity = (x @ x.T).fill_diagonal_(-torch.inf)
    return (labels[similarity.argmax(1)] == labels).float()
