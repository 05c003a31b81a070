"""The training loop: the one place where draw, forward, backward, step, log, validate and save stand in order."""

from __future__ import annotations

import time

import torch
from torch import Tensor
from tqdm import tqdm

from episodic.run.distributed import is_first, mean_over_processes, wait_for_all
from episodic.train.interrupt import StopRequest
from episodic.train.procedure import AbstractProcedure


class NonFiniteLossError(ArithmeticError):
    """The loss of training became NaN or infinite. The message says at which step."""


class Journal:
    """What happens beside training while it goes on: logging, validation, checkpoints. This one does nothing; `train.session` has
    the one that keeps a run's folder.

    A subclass writes those of `log`, `validate` and `save` that it needs.

    >>> class Losses(Journal):
    ...     def __init__(self):
    ...         self.losses = []
    ...     def log(self, step, values):
    ...         self.losses.append(values["loss"])
    >>> journal = Losses()
    >>> journal.log(20, {"loss": 1.5, "accuracy": 0.4})
    >>> journal.losses
    [1.5]
    """

    def log(self, step: int, values: dict[str, float]) -> None:
        """Hook: a point of the training curve. `values` are means over the steps since the last one, by name."""

    def validate(self, step: int) -> None:
        """Hook: score the learner on the validation classes."""

    def save(self, step: int) -> None:
        """Hook: write a checkpoint."""


def fit(
    procedure: AbstractProcedure,
    journal: Journal | None = None,
    *,
    stop: StopRequest | None = None,
    progress: bool = False,
) -> bool:
    """Train to the end, or until the user asks to stop. In both cases the last step is saved. The result says whether training
    reached `procedure.steps`.

    **Arguments:**

    - `procedure`: begins at its `step`, so a resumed one goes on where it was.
    - `journal` (default None): logs, validates and saves, as often as the procedure says and at the end; None for nothing.
    - `stop` (default None): says that the user asks to stop. `progress` (default false): whether to show a bar.

    **Raises:** `NonFiniteLossError` with the step where the loss was first not finite; nothing is saved after it.

    >>> from torch import nn
    >>> from episodic.data.augment import Normalize
    >>> from episodic.data.store import ImageStore
    >>> from episodic.episodes.sampler import EpisodeSampler
    >>> from episodic.learners.prototypical import Prototypical
    >>> from episodic.run.device import Hardware
    >>> from episodic.train.episodes import EpisodicTraining
    >>> from episodic.train.procedure import Setup
    >>> images, labels = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8), torch.arange(20) // 10
    >>> store = ImageStore(images, labels, ("cat", "dog"), tuple(map(str, range(20))), None, (), "pets", "train", "ours")
    >>> setup = Setup(
    ...     learner=Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(16, 4))), store=store, normalize=Normalize([0.5], [0.5]),
    ...     optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1), hardware=Hardware.choose("cpu", "fp32"),
    ...     episodes=lambda n, per_step: EpisodeSampler(labels, 2, 1, 4, episodes=n, episodes_per_batch=per_step),
    ... )
    >>> class Steps(Journal):
    ...     def log(self, step, values):
    ...         print(f"the mean loss is known at step {step}")
    >>> fit(EpisodicTraining(setup, steps=4, log_every=2), Steps())
    the mean loss is known at step 2
    the mean loss is known at step 4
    True
    """
    journal = journal or Journal()
    window = Window(procedure)
    saved = procedure.step
    bar = tqdm(
        total=procedure.steps,
        initial=procedure.step,
        desc="training",
        unit="step",
        disable=None if progress and is_first() else True,
    )
    with bar:
        while procedure.step < procedure.steps and not (stop and stop.agreed()):
            window.add(*procedure.training_step())  # draw, forward, backward, step
            bar.update()
            step, last = procedure.step, procedure.step == procedure.steps
            validating = step % procedure.validate_every == 0 or last
            saving = step % procedure.save_every == 0 or last
            if len(window) == procedure.log_every or validating or saving:
                values = window.means()
                bar.set_postfix(
                    loss=f"{values['loss']:.3f}",
                    acc=f"{values['accuracy']:.1%}",
                    rate=f"{values[f'{procedure.unit}_per_second']:.1f} {procedure.unit}/s",
                )
                journal.log(step, values)
            if validating:
                journal.validate(step)
            if saving:
                journal.save(step)
                saved = step
        if len(window):
            journal.log(procedure.step, window.means())
        if saved != procedure.step:
            journal.save(procedure.step)
        wait_for_all()  # or the first process to leave would end the one that still writes
    return procedure.step == procedure.steps


class Window:
    """The losses and accuracies of the steps since the last point of the training curve. They stay on the device until their means
    are asked for.
    """

    def __init__(self, procedure: AbstractProcedure):
        self.procedure = procedure
        self.steps: list[tuple[Tensor, Tensor]] = []
        self.first, self.began = procedure.step, time.perf_counter()

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, loss: Tensor, accuracy: Tensor) -> None:
        """Take a step's loss and accuracy."""
        self.steps.append((loss, accuracy))

    def means(self) -> dict[str, float]:
        """The means of these steps by name, with steps a second and the learning rate. A new window begins.

        **Raises:** `NonFiniteLossError`.
        """
        procedure = self.procedure
        both = torch.stack([torch.stack(values).float() for values in zip(*self.steps, strict=True)])
        losses, corrects = mean_over_processes(both).cpu()
        start = procedure.step - len(self.steps)
        self.steps.clear()
        if not losses.isfinite().all():
            bad, per_step = start + int((~losses.isfinite()).nonzero()[0]), procedure.per_step
            raise NonFiniteLossError(
                f"the loss is {losses[bad - start].item()} at step {bad} (seed {procedure.setup.seed}, {procedure.unit} "
                f"{bad * per_step} to {(bad + 1) * per_step - 1})"
            )
        rate = (procedure.step - self.first) * procedure.per_step / (time.perf_counter() - self.began)
        return {
            "loss": losses.mean().item(),
            "accuracy": corrects.mean().item(),
            f"{procedure.unit}_per_second": rate,
            "learning_rate": procedure.optimizer.param_groups[0]["lr"],
            **procedure.metrics,
        }
