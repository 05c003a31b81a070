"""Training by stochastic class-based hard example mining: each batch has one class and its hard negatives."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from episodic.core.functional.batches import hard_negatives
from episodic.run.distributed import from_first
from episodic.train.dml import AbstractBatches


@dataclasses.dataclass(eq=False)
class HardNegativeTraining(AbstractBatches):
    """Makes each batch of the images of one class, and of hard negatives of other classes. It makes the batches of `loss=schem`,
    which has the equations.

    Negatives are found by the signatures of the classes, which the loss learns, and by the embeddings that images had last (see
    `core.functional.batches.hard_negatives`). These embeddings are the buffer `bank` of `state`.

    Suh, Han, Kim, Lee: *Stochastic Class-Based Hard Example Mining for Deep Metric Learning*, CVPR 2019,
    https://openaccess.thecvf.com/content_CVPR_2019/html/Suh_Stochastic_Class-Based_Hard_Example_Mining_for_Deep_Metric_Learning_CVPR_2019_paper.html.

    **Arguments** beside those of batches: `candidates` (default 8): so many times the classes and images that are needed are taken,
    the hardest first, and the batch is drawn from them. With 1 it has the hardest.

    **Raises:** `ValueError` without `loss=schem`, and where some training images are held out or unlabeled.
    """

    candidates: int = 8

    def prepare(self) -> None:
        if "schem" not in self.setup.objective.losses:
            raise ValueError("trainer=schem makes batches for loss=schem, which is not among the losses")
        self.refuse_hidden_images()
        self.loss = self.setup.objective.losses["schem"]
        self.labels = self.setup.store.labels.to(self.setup.hardware.device)
        self.source = self.batches(self.steps, n_way=1)
        self.register_bank()

    def compute_loss(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        bank: Any = self.state.bank
        if self.step == 0:
            bank.copy_(self.embed_all())
        anchors = torch.from_numpy(self.source.batch(self.step).flat())
        negatives = hard_negatives(
            bank,
            self.labels,
            self.loss.signatures.detach(),
            anchors.to(bank.device),
            n_classes=self.classes_per_batch - 1,
            pool=self.candidates,
        )
        items = torch.cat([anchors, from_first(negatives.cpu)])
        loss, accuracies, embeddings = self.loss_of_batch(items, generator)
        bank[items] = embeddings
        return loss, accuracies
