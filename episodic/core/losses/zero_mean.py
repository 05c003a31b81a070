"""Zero-mean penalty: the coordinates of each embedding should sum to 0."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor

from episodic.core.losses.loss import AbstractLoss


class ZeroMean(AbstractLoss):
    """Keeps the mean over the coordinates of each embedding near 0. It goes beside a loss of pairs that compares by the
    signal-to-noise ratio, which assumes such embeddings: `loss=[contrastive,zero_mean]`.

        mean over items of |sum over coordinates of x|

    Yuan, Deng, Tang, Tang, Chen: *Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning*, CVPR 2019,
    https://arxiv.org/abs/1904.02616, add it to each of their losses, times a factor, here `loss.zero_mean.weight`. Labels are not
    used.

    >>> import torch
    >>> ZeroMean()(torch.tensor([[1.0, 2.0, -3.0], [1.0, 1.0, 1.0]]), torch.tensor([0, 1]))
    tensor(1.5000)
    """

    def forward(self, embeddings: Float[Tensor, "item dim"], labels: Int64[Tensor, " item"]) -> Float[Tensor, ""]:
        return embeddings.sum(1).abs().sum() / max(len(embeddings), 1)
