"""The base of all training procedures. A procedure says what each step trains on, and what its loss is."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from episodic.data.augment import Augment, Normalize
from episodic.data.store import ImageStore
from episodic.episodes.arguments import number
from episodic.episodes.source import Episodes
from episodic.learners.learner import AbstractLearner
from episodic.run.device import Hardware
from episodic.run.distributed import averaged
from episodic.run.embed import fit_transforms
from episodic.run.replica import Replica
from episodic.train.objective import Objective
from episodic.train.schedule import AbstractSchedule, Constant

GOLDEN = 0x9E3779B97F4A7C15  # spreads seeds, so that (seed, step) and (seed + 1, step - 1) share no draws


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What every training procedure is given: the learner, the data, and all that procedures share. It has built objects and no
    configuration.

    - `learner`, on the device. `objective` (default: the learner's own loss), on the device.
    - `store`: the images of the training classes. `normalize`, `augment` (default: no change): what turns them into inputs.
    - `optimizer`: a function from groups of parameters to an optimizer. `schedule` (default constant): of the learning rate.
    - `hardware`: device and precision. `seed` (default 0): of all draws.
    - `episodes`: a function `(how many, how many a step) ->` training episodes in the shape of the task.
    - `labeled`, `seen` (default None): which images may be used with their labels, and which at all; booleans `[N]`, None for all.
    - `sync_batch_norm` (default true): with several processes, batch norm over the batch of all of them (see `run.replica`).

    >>> from episodic.episodes.sampler import EpisodeSampler
    >>> from episodic.learners.prototypical import Prototypical
    >>> images, labels = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8), torch.arange(20) // 10
    >>> store = ImageStore(images, labels, ("cat", "dog"), tuple(map(str, range(20))), None, (), "pets", "train", "ours")
    >>> setup = Setup(
    ...     learner=Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(16, 4))), store=store, normalize=Normalize([0.5], [0.5]),
    ...     optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1), hardware=Hardware.choose("cpu", "fp32"),
    ...     episodes=lambda n, per_step: EpisodeSampler(labels, 2, 1, 4, episodes=n, episodes_per_batch=per_step),
    ... )
    >>> setup.objective.own_weight, setup.schedule(step=0, steps=10), setup.episodes(10, 1)
    (1.0, 1.0, EpisodeSampler(2-way 1-shot 4-query, 10 episodes, seed 0))
    """

    learner: AbstractLearner
    store: ImageStore
    normalize: Normalize
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    hardware: Hardware
    episodes: Callable[[int, int], Episodes]
    objective: Objective = dataclasses.field(default_factory=Objective)
    augment: Augment = dataclasses.field(default_factory=Augment)
    schedule: AbstractSchedule = dataclasses.field(default_factory=Constant)
    seed: int = 0
    labeled: np.ndarray | None = None
    seen: np.ndarray | None = None
    sync_batch_norm: bool = True


@dataclasses.dataclass(eq=False)
class AbstractProcedure(abc.ABC):
    """A way to train a learner: what each step takes and what its loss is. Step `s` is a pure function of
    `(weights, state, seed, s)`, so a resumed run comes to the same weights.

    A subclass is one file with one YAML file in `conf/trainer`. It writes `prepare`, which makes what the steps need, and
    `compute_loss`, the loss of one step. What it keeps between steps (further networks, memories, banks, clusters, labels) are
    submodules and buffers of `state`, which checkpoints hold beside the learner's weights.

    **Arguments:**

    - `setup`: the learner, the data and all else that procedures share.
    - `steps` (default 2000): steps of the optimizer.
    - `clip_norm` (default None): the gradient's 2-norm is scaled down to this; 0 for no clipping, None for that of the learner's
      `capabilities`.
    - `validate_every` (default 500): steps between validations, on `validation_episodes` (default 600) fixed episodes of the
      validation classes. The best weights are kept.
    - `save_every` (default 500): steps between checkpoints.
    - `log_every` (default 20): steps between points of the training curve, and between checks that the loss is finite.

    **Class attributes:**

    - `unit`: what a step takes, for records.
    - `accuracy_of`: what the accuracy of the training curve is of; empty for the task's training episodes.
    - `reports_retrieval`: whether results have retrieval too.
    - `follows_length`: whether a step depends on how many there will be.
    - `unread`: parts of the configuration that the procedure does not read, each with the reason.

    **Raises:** `ValueError` for a setting that makes no sense or could have no effect.

    >>> from episodic.episodes.sampler import EpisodeSampler
    >>> from episodic.learners.prototypical import Prototypical
    >>> images, labels = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8), torch.arange(20) // 10
    >>> store = ImageStore(images, labels, ("cat", "dog"), tuple(map(str, range(20))), None, (), "pets", "train", "ours")
    >>> setup = Setup(
    ...     learner=Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(16, 4))), store=store, normalize=Normalize([0.5], [0.5]),
    ...     optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1), hardware=Hardware.choose("cpu", "fp32"),
    ...     episodes=lambda n, per_step: EpisodeSampler(labels, 2, 1, 4, episodes=n, episodes_per_batch=per_step),
    ... )
    >>> class Shrinking(AbstractProcedure):  # makes all embeddings short
    ...     def prepare(self):
    ...         self.source = self.setup.episodes(self.steps, 1)
    ...     def compute_loss(self, generator):
    ...         images = self.setup.normalize(self.setup.store.images)  # all of them; most procedures take those of `source`
    ...         squares = self.setup.learner.backbone(images).square().sum(1)
    ...         return squares.mean(), (squares < 1).float().mean()
    >>> training = Shrinking(setup, steps=10)
    >>> losses = [training.training_step()[0].item() for _ in range(10)]
    >>> training.step, losses[-1] < losses[0]
    (10, True)
    """

    setup: Setup
    steps: int = 2000
    clip_norm: float | None = None
    validate_every: int = 500
    validation_episodes: int = 600
    save_every: int = 500
    log_every: int = 20

    unit: ClassVar[str] = "batches"
    accuracy_of: ClassVar[str] = ""
    reports_retrieval: ClassVar[bool] = False
    follows_length: ClassVar[bool] = False
    unread: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self):
        if self.clip_norm is None:
            self.clip_norm = self.setup.learner.capabilities.clip_norm
        number("trainer.clip_norm", self.clip_norm, at_least=0)
        for field in dataclasses.fields(self):
            if isinstance(field.default, int | float) and not isinstance(field.default, bool):
                self._check_number(field)
        setup = self.setup
        self.step = 0
        self.source: Episodes | None = None  # what the steps take, where it can be shown as episodes
        self.state = nn.Module()
        self.state.objective = setup.objective
        wanted = setup.learner.capabilities.trainer
        if wanted and wanted != self.name:
            raise ValueError(
                f"{type(setup.learner).__name__} is trained by trainer={wanted} alone, not by trainer={self.name}"
            )
        setup.objective.check(setup.learner, self.name, self.steps)
        setup.schedule.check(self.steps)
        self.prepare()
        self.state.to(setup.hardware.device)
        self.replica = Replica(setup.learner, setup.sync_batch_norm)
        self.optimizer = setup.optimizer(self.parameter_groups())
        groups = self.optimizer.param_groups
        self._loss = averaged(self.compute_loss, [p for group in groups for p in group["params"]])
        self.base_rates = [g.setdefault("initial_lr", g["lr"] * g.get("lr_multiplier", 1.0)) for g in groups]

    def _check_number(self, field: dataclasses.Field) -> None:
        value = getattr(self, field.name)
        kind, least = (int | float, 0) if isinstance(field.default, float) else (int, 1)  # shares and norms may be 0
        if not isinstance(value, kind) or isinstance(value, bool) or value < least:
            raise ValueError(f"trainer.{field.name} must be a number, at least {least}, got {value!r}")

    @property
    def name(self) -> str:
        """The option of `conf/trainer` that chooses the procedure; it is the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def per_step(self) -> int:
        """How many of `unit` a step takes."""
        return 1

    @property
    def images_per_step(self) -> int | None:
        """How many images a step trains on, on average; None where it is not known."""
        if self.source is None:
            return None
        few = range(min(16, self.steps))  # episodes may have different numbers
        return round(sum(self.source.batch(step).flat().size for step in few) / len(few))

    @property
    def metrics(self) -> dict[str, float]:
        """What there is to report beside the loss and the accuracy, by name."""
        return {}

    @abc.abstractmethod
    def prepare(self) -> None:
        """Make what the steps need: `source`, which has the episodes or batches of all steps, and the buffers and networks of
        `state`.
        """

    @abc.abstractmethod
    def compute_loss(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The loss of this step, and the mean accuracy of its episodes or items. Augmentation draws from `generator`.

        With several processes, each computes its share of the batch (see `run.distributed`); loss and accuracy are the means of
        what they return.
        """

    def fit_transforms(self) -> None:
        """Fit the transforms of embeddings that need it on the training images, as the network embeds them now."""
        setup = self.setup
        fit_transforms(setup.learner, setup.store, setup.normalize, setup.hardware, setup.seen)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer moves: the learner's weights, and those of the losses."""
        return self.setup.objective.parameter_groups(self.setup.learner.learned_parameters())

    def training_step(self) -> tuple[Tensor, Tensor]:
        """Take one step of the optimizer. Returns `(loss, accuracy)`, detached and still on the device; with several processes,
        their means are those of the step.

        **Raises:** `ValueError` where the loss depends on no weight that is trained.
        """
        learner = self.setup.learner
        # Keyed by the step, so that dropout and augmentation need no state to resume.
        key = (self.setup.seed * GOLDEN + self.step) % 2**63
        torch.manual_seed(key)
        factor = self.setup.schedule(self.step, self.steps)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        learner.train()
        self.state.train()
        self.replica.begin(key)
        loss, correct = self._loss(torch.Generator().manual_seed(key))
        if not loss.requires_grad:
            raise ValueError("the loss depends on no weight that is trained: choose another learner, wrapper or loss")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.replica.finish()
        if self.clip_norm:
            nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], self.clip_norm)
        self.optimizer.step()
        learner.after_step()
        self.step += 1
        return loss.detach(), correct

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the procedure beside the learner: `tensors`, by name, and the `optimizer`."""
        return {"tensors": self.state.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        **Raises:** `ValueError` where it is of another procedure or other losses.
        """
        mine, theirs = self.state.state_dict(), state["tensors"]
        differ = sorted(k for k in mine.keys() | theirs.keys() if k not in mine or k not in theirs)
        differ = differ or [k for k in mine if mine[k].shape != theirs[k].shape]
        if differ:
            raise ValueError(f"the checkpoint is of another training: {', '.join(differ[:3])} differ")
        self.state.load_state_dict(theirs)
        self.optimizer.load_state_dict(state["optimizer"])
