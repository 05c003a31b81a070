"""Cross-batch memory: past embeddings as further references of a pair loss."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.functional.pairs import References
from episodic.core.losses.loss import AbstractLoss, AbstractPairLoss


def no_memory(loss: AbstractLoss, dim: int) -> AbstractLoss:
    """The loss as it is, without a memory. It takes what `XBM` takes, so that either can be chosen by name.

    >>> from episodic.core.losses.contrastive import Contrastive
    >>> no_memory(Contrastive(), dim=64)
    Contrastive()
    """
    return loss


class XBM(AbstractLoss):
    """Compares a batch with many past embeddings of training too, as they were then. A small batch thus sees many pairs.

        loss(batch) + weight * loss(batch, memory),    the memory being the last `size` embeddings

    Wang, Zhang, Huang, Scott: *Cross-Batch Memory for Embedding Learning*, CVPR 2020, https://arxiv.org/abs/1912.06798. Weights
    move slowly once training has settled, and so do embeddings. As in the authors' code the first `start` steps neither use nor
    fill the memory, and from then on the batch enters it before it is compared with it. Gradients flow through the batch alone, so
    a pair within it has only half of its gradient again. Embeddings are stored as the loss gets them.

    In evaluation it is the loss of the batch alone, whose classes are other ones with the same numbers. A loss that sums over
    references, such as contrastive's variant `xbm`, grows with the memory.

    **Arguments:** `loss`: of pairs. `dim`: of the embeddings. `size`: in items. `weight`: of the loss against the memory. `start`:
    see above.

    **Departures**: an item is excluded from its own positives by its index. The authors' code leaves out all positives with a
    cosine above `1 - 1e-5`, which may be copies or items that are learned already. If a batch does not fit any more, their code
    puts it in the last slots and begins again at the first; here the memory is a ring. Of a batch larger than the memory the last
    `size` items enter it, and only these are compared with it.

    >>> from episodic.core.losses.contrastive import Contrastive
    >>> loss = XBM(Contrastive(), dim=2, size=100, start=0)
    >>> for _ in range(3):
    ...     value = loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    >>> loss.count
    tensor(6)
    """

    def __init__(self, loss: AbstractLoss, dim: int, size: int = 8192, weight: float = 1.0, start: int = 1000):
        super().__init__()
        if not isinstance(loss, AbstractPairLoss):
            raise ValueError(f"a memory needs a loss of pairs, such as contrastive, got {type(loss).__name__}")
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        if start < 0:
            raise ValueError(f"start must not be negative, got {start}")
        self.loss = loss
        self.dim = dim
        self.size = size
        self.weight = weight
        self.start = start
        self.register_buffer("memory", torch.zeros(size, dim))
        self.register_buffer("memory_labels", torch.zeros(size, dtype=torch.long))
        self.register_buffer("pointer", torch.tensor(0))  # the slot written next
        self.register_buffer("count", torch.tensor(0))  # slots that are filled, from the first
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        of_batch = self.loss(embeddings, labels)
        if not self.training:
            return of_batch
        self.steps = self.steps + 1
        if self.steps <= self.start:
            return of_batch
        embeddings, labels = embeddings[-self.size :], labels[-self.size :]
        self_index = self.enqueue(embeddings, labels)
        filled = slice(int(self.count))
        past = References(self.memory[filled], self.memory_labels[filled], self_index)
        return of_batch + self.weight * self.loss(embeddings, labels, past)

    def check_length(self, steps: int) -> None:
        if self.start >= steps:
            raise ValueError(
                f"memory.start={self.start} is not before the last of trainer.steps={steps}, so the memory would never be used: "
                "take a smaller one"
            )

    @torch.no_grad()
    def enqueue(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Int64[Tensor, " item"]:
        """Write at most `size` items over the oldest ones. Returns their slots."""
        slots = (self.pointer + torch.arange(len(labels), device=labels.device)) % self.size
        self.memory[slots] = embeddings.to(self.memory.dtype)
        self.memory_labels[slots] = labels
        self.pointer = (self.pointer + len(labels)) % self.size
        self.count = (self.count + len(labels)).clamp(max=self.size)
        return slots
