"""Training on batches of images by losses of their embeddings: deep metric learning, and pre-training."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from episodic.loop import Trainer, Training
from episodic.sampler import EpisodeSampler, Numbers


@dataclasses.dataclass(frozen=True)
class MetricTrainer(Trainer):
    """A `Trainer` whose steps are batches: `images_per_class` images of each of `classes_per_batch` training classes.

    The field's default is 4 images a class; with 2, N-pair batches. Classes with fewer images than `images_per_class` are left out.
    """

    classes_per_batch: int = 16
    images_per_class: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.images_per_class < 2:
            raise ValueError(f"trainer.images_per_class must be at least 2, got {self.images_per_class}")

    def batches(self, labels: Numbers, *, seed: int, epoch: int, labeled: Numbers | None = None) -> EpisodeSampler:
        """One a step: an episode, of which only the items count."""
        return EpisodeSampler(
            labels,
            n_way=self.classes_per_batch,
            n_shot=self.images_per_class - 1,
            n_query=1,
            episodes=self.steps,
            seed=seed,
            epoch=epoch,
            labeled=labeled,
            too_small="drop",
        )


class MetricTraining(Training):
    """The training of an `objective.WithLosses` on batches in the place of episodes, by its losses of embeddings alone.

    The batches are the flat episodes of `sampler`, whose order inside a batch tells the losses nothing. The accuracy of the
    curves is the share of images whose nearest neighbour in the batch is of their class.
    """

    sampler: EpisodeSampler

    def outcome(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        items = torch.from_numpy(self.sampler.batch(self.step).flat())
        images = self.store.gather(items).to(self.hardware.device, non_blocking=True)
        labels = self.store.labels[items].to(self.hardware.device)
        with self.hardware.autocast():
            embeddings = self.learner.backbone(self.normalize(images, self.augment, generator)).float().flatten(1)
        return self.learner.of_batch(embeddings, labels), nearest_are_right(embeddings.detach(), labels)


def nearest_are_right(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Whether each item's nearest other one, by cosine, has its label: `[N]`, 0 or 1."""
    x = torch.nn.functional.normalize(embeddings, dim=1)
    similarity = (x @ x.T).fill_diagonal_(-torch.inf)
    return (labels[similarity.argmax(1)] == labels).float()
