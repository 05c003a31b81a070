"""The training loop: one place where draw, forward, backward, step, log, validate and save stand in order."""

from __future__ import annotations

import time

import torch
from torch import Tensor
from tqdm import tqdm

from episodic.train.interrupt import StopRequest
from episodic.train.procedure import AbstractProcedure


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite."""


class Journal:
    """What is done with a training as it goes. This one does nothing; `train.session` keeps a run's folder.

    Subclasses write what they need of `log`, called with the means since the last call, `validate` and `save`.
    """

    def log(self, step: int, values: dict[str, float]) -> None:
        """Hook: a point of the training curve."""

    def validate(self, step: int) -> None:
        """Hook: score the learner on validation classes."""

    def save(self, step: int) -> None:
        """Hook: write a checkpoint."""


def fit(
    procedure: AbstractProcedure,
    journal: Journal | None = None,
    *,
    stop: StopRequest | None = None,
    progress: bool = False,
) -> bool:
    """Train until `procedure.steps`; False where `stop` asked to end early. Either way the last step is saved.

    **Arguments:** `journal` logs, validates and saves, every so many steps as the procedure says and at the end. `stop` says that
    the user wants to end. `progress` shows a bar.

    **Raises:** `NonFiniteLossError` with the step where the loss was first not finite; nothing is saved after it.
    """
    journal = journal or Journal()
    window = Window(procedure)
    saved = procedure.step
    bar = tqdm(
        total=procedure.steps, initial=procedure.step, desc="training", unit="step", disable=None if progress else True
    )
    with bar:
        while procedure.step < procedure.steps and not (stop and stop.requested):
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
    return procedure.step == procedure.steps


class Window:
    """Losses and accuracies of the steps since the last point of the curve, on the device until they are asked for."""

    def __init__(self, procedure: AbstractProcedure):
        self.procedure = procedure
        self.steps: list[tuple[Tensor, Tensor]] = []
        self.first, self.began = procedure.step, time.perf_counter()

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, loss: Tensor, accuracy: Tensor) -> None:
        self.steps.append((loss, accuracy))

    def means(self) -> dict[str, float]:
        """The point of the curve that these steps make, and a new window.

        **Raises:** `NonFiniteLossError`.
        """
        procedure = self.procedure
        losses, corrects = (torch.stack(values).float().cpu() for values in zip(*self.steps, strict=True))
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
