"""What a network needs so that its copies in several processes train as one: batch norm over the batch of all of them, and random
numbers of their own.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from episodic.core.transforms.transform import AbstractCentered
from episodic.episodes.share import present_share
from episodic.learners.learner import AbstractLearner
from episodic.run.distributed import from_all, mean_over_processes, process_number, processes
from episodic.semi.wrapper import unwrapped

GOLDEN = 0x9E3779B97F4A7C15  # spreads the seeds of processes


class Replica:
    """A learner in one of several processes that train it together. With one process nothing is changed.

    Batch norm uses the mean and variance of the batch of all processes, in the forward and the backward pass, so that it does not
    depend on their number; with `sync_batch_norm=False` those of this process, and the running statistics are averaged. Where a
    learner's network sees one episode at a time, so does batch norm, and the running statistics follow the episodes in the order of
    one process. The same holds for the mean that a transform subtracts.

    Dropout and the like inside of a backbone are drawn by each process for its own images: other masks than in one process, of the
    same distribution. All else is drawn alike in all processes.

    **Raises:** `ValueError` for a network that sees single episodes and has batch norm without a momentum.

    >>> from episodic.learners.prototypical import Prototypical
    >>> replica = Replica(Prototypical(nn.Identity()), sync_batch_norm=True)
    >>> replica.begin(seed=3), replica.finish()
    (None, None)
    """

    def __init__(self, learner: AbstractLearner, sync_batch_norm: bool):
        self.averages: list[_BatchNorm] = []
        self.records: list[_EpisodeNorm] = []
        if processes() == 1:
            return
        self._draws = _states(0)
        for name, module in learner.named_modules():
            if name.rpartition(".")[2] == "backbone":
                module.register_forward_pre_hook(self._exchange_draws)
                module.register_forward_hook(self._exchange_draws)
        if not learner.capabilities.episodes_apart:
            for module in learner.modules():
                if isinstance(module, AbstractCentered):
                    module.mean_of_batch = _joint_mean
        norms = [module for module in learner.modules() if isinstance(module, _BatchNorm)]
        if learner.capabilities.episodes_apart:
            self.records = [_changed(norm, _EpisodeNorm) for norm in norms if norm.momentum != 0]
            if any(norm.momentum is None for norm in self.records):
                raise ValueError(f"{type(learner).__name__} needs a momentum of batch norm, got None")
            unwrapped(learner)[-1].register_forward_pre_hook(self._begin_pass)
        elif not sync_batch_norm:
            self.averages = [norm for norm in norms if norm.track_running_stats]
        elif any(parameter.is_cuda for parameter in learner.parameters()):
            nn.SyncBatchNorm.convert_sync_batchnorm(learner)
        elif norms:
            # A group of its own: its exchanges come between those of gradients, whose order must not matter to them.
            group = distributed.new_group()
            for norm in norms:
                _changed(norm, _JointNorm).group = group

    def begin(self, seed: int) -> None:
        """Begin a step, whose random numbers depend on `seed`."""
        if processes() > 1:
            self._draws = _states((seed + GOLDEN * (process_number() + 1)) % 2**63)
        for norm in self.records:
            norm.passes = []

    def finish(self) -> None:
        """End the backward pass of a step: the running statistics become those of all processes."""
        if self.records:
            everyone = from_all([[torch.stack(calls).cpu() for calls in norm.passes] for norm in self.records])
            for norm, of_processes in zip(self.records, zip(*everyone, strict=True), strict=True):
                norm.follow(torch.cat([torch.cat(calls) for calls in zip(*of_processes, strict=True)]))
        for norm in self.averages:
            for statistic in (norm.running_mean, norm.running_var):
                distributed.all_reduce(statistic)
                statistic /= processes()

    def _exchange_draws(self, *_: object) -> None:
        present = torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        torch.set_rng_state(self._draws[0])
        if self._draws[1] is not None:
            torch.cuda.set_rng_state(self._draws[1])
        self._draws = present

    def _begin_pass(self, learner: AbstractLearner, _: object) -> None:
        for norm in self.records if learner.training else []:
            norm.passes.append([])


def _joint_mean(features: Tensor) -> Tensor:
    """The mean of each channel over the batch of all processes."""
    positions = features.flatten(2).mean(2) if features.ndim > 2 else features
    return mean_over_processes(positions.sum(0) * (processes() / present_share().whole(len(positions))))


def _states(seed: int) -> tuple[Tensor, Tensor | None]:
    """The states of the generators of the CPU and of the GPU, where there is one, after `seed`."""
    devices = ["cpu", *["cuda"] * torch.cuda.is_available()]
    cpu, *cuda = (torch.Generator(device).manual_seed(seed).get_state() for device in devices)
    return cpu, cuda[0] if cuda else None


def _changed(norm: _BatchNorm, kind: type) -> _BatchNorm:
    """The same module, with its weights and statistics, as a `kind` of batch norm."""
    norm.__class__ = _combined(kind, type(norm))
    return norm


@functools.cache
def _combined(kind: type, norm: type) -> type:
    return type(norm.__name__, (kind, norm), {})


class _JointNorm(_BatchNorm):
    """Batch norm over the batch of all processes, on a CPU. (PyTorch's own, `SyncBatchNorm`, is for GPUs.)"""

    group: distributed.ProcessGroup

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        y, mean, variance, count = _Joint.apply(x, self.weight, self.bias, self.eps, self.group)
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.mul_(1 - share).add_(mean, alpha=share)
                self.running_var.mul_(1 - share).add_(variance * (count / (count - 1)), alpha=share)
        return y


class _Joint(torch.autograd.Function):
    """Batch norm by the statistics of all processes: `y = (x - mean) / sqrt(variance + eps) * weight + bias`.

    Each process finds the mean and variance of its own part; they are combined by their distance to the mean of all. The backward
    pass is that of fixed statistics, plus what goes through mean and variance, `offset + slope * (x - mean)` in each channel.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: distributed.ProcessGroup
    ):
        channels = x.shape[1]
        own = torch.batch_norm_update_stats(
            x, x.new_zeros(channels, dtype=torch.float32), x.new_zeros(channels, dtype=torch.float32), 1.0
        )
        mine = torch.cat([*own, torch.tensor([x.numel() / channels], device=x.device)]).double()
        parts = [torch.empty_like(mine) for _ in range(processes())]
        distributed.all_gather(parts, mine, group=group)
        means, variances, counts = torch.stack(parts).split([channels, channels, 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        statistics = mean.float(), variance.float()
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps, ctx.group = eps, group
        ctx.mark_non_differentiable(*statistics, count)
        return batch_norm(x, *statistics, weight, bias, training=False, eps=eps), *statistics, count

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Tensor):
        x, weight, mean, variance, count = ctx.saved_tensors
        ones = torch.ones_like(mean, dtype=torch.float32)
        given = gradient, x, ones if weight is None else weight, mean.float(), variance.float(), None, None
        dx, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(*given, False, ctx.eps, [True, True, True])
        sums = torch.stack([d_weight, d_bias]).double()
        distributed.all_reduce(sums, group=ctx.group)
        inverse = (variance + ctx.eps).rsqrt()
        scale = inverse * given[2] / count
        slope, offset = (-scale * inverse * sums[0]).float(), (-scale * sums[1]).float()
        dx += batch_norm(x, given[3], torch.ones_like(slope), slope, offset, training=False, eps=0.0)
        return dx, *((None, None) if weight is None else (d_weight, d_bias)), None, None


class _EpisodeNorm(_BatchNorm):
    """Batch norm in a network that sees one episode at a time. It notes the statistics of each call, and the running ones follow
    them when a step ends.

    `passes`: for each call of the learner in a step, the mean and variance `[2, C]` of each call of this module.
    """

    passes: list[list[Tensor]]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.track_running_stats:
            return super().forward(x)
        found = torch.zeros_like(torch.stack([self.running_mean, self.running_var]))
        y = batch_norm(x, *found, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        self.passes[-1].append(found)
        return y

    def follow(self, found: Tensor) -> None:
        """Move the running statistics along those of all calls `[call, 2, C]`, in their order."""
        calls, keep = len(found), 1 - self.momentum
        weights = self.momentum * keep ** torch.arange(calls - 1, -1, -1)
        moved = (weights[:, None, None] * found).sum(0).to(self.running_mean.device)
        for statistic, change in zip((self.running_mean, self.running_var), moved, strict=True):
            statistic.mul_(keep**calls).add_(change)
        self.num_batches_tracked.add_(calls)
