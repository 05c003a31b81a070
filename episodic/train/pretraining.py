"""The first stage of a training: another training, with whose weights it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from episodic.config.compose import ConfigError
from episodic.config.overrides import composed
from episodic.episodes.arguments import integer, number, strings
from episodic.train.resume import OF_THE_COMMAND

SHARED = ("data_dir", "device", "precision", "allow_any_target", "sync_batch_norm", "seed")
FOLDER = "pretrain"  # in that of the run
COPIED = ("task", "backbone")  # parts that both stages share


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A training that comes first. The one that it is for begins with its best weights, as with `init_from=<run>/pretrain`.

    It is a training of its own in the folder `pretrain` of the run, with its own procedure, losses, optimizer and schedule, and a
    record of its own. Data, backbone, seed and hardware are those of the run; where the run's learner reads maps, the stage has
    what its own learner reads. A run that is resumed goes on with the stage that it was in. With `init_from=<run>` there is no
    first stage.

    **Arguments:** `steps`: of the first stage. `resolution` (default 1): of its images, as a share of the task's; half of it
    is four times as fast. `smallest_side` (default 1): pixels that the resolution does not go below, where the task has as many.
    `options` (default none): all else that is to be set, as on the command line; with a `pretrain=` among them there are further
    stages before.

    **Raises:** `ConfigError` for options of another kind, such as a folder.

    >>> Pretraining(steps=1000, resolution=0.5, options=["trainer=dml", "loss=classifier"]).steps
    1000
    """

    steps: int
    resolution: float = 1.0
    smallest_side: int = 1
    options: Sequence[str] = ()

    def __post_init__(self):
        integer("pretrain.steps", self.steps, at_least=1)
        number("pretrain.resolution", self.resolution, above=0, at_most=1)
        integer("pretrain.smallest_side", self.smallest_side, at_least=1)
        for option in strings("pretrain.options", self.options):
            if OF_THE_COMMAND.match(option) or option.partition("=")[0] in ("task", *SHARED):
                raise ConfigError(f"pretrain.options: {option} is that of the run, and both stages share it")

    def config(self, cfg: DictConfig, choices: dict[str, Any], folder: Path) -> tuple[DictConfig, dict[str, Any]]:
        """The configuration of the first stage, and which option each group has in it.

        **Arguments:** `cfg`, `choices`: those of the run in `folder`.

        **Raises:** `ConfigError` for options that do not exist.
        """
        chosen = [f"{part}={choices[part]}" for part in (*COPIED, "augment")]
        nested = any(option.startswith("pretrain=") for option in self.options)
        options = [*chosen, *([] if nested else ["pretrain=none"]), *self.options, f"trainer.steps={self.steps}"]
        stage, stage_choices = composed("train", options)
        own = OmegaConf.masked_copy(stage, list(COPIED))
        for part in COPIED:
            stage[part] = cfg[part]
        if stage.backbone.get("output") == "map":
            stage.backbone.output = own.backbone.output
        for option in self.options:
            key = option.partition("=")[0]
            if key.partition(".")[0] in COPIED:
                OmegaConf.update(stage, key, OmegaConf.select(own, key))
        stage.update({key: cfg[key] for key in SHARED})
        side = cfg.task.image_size
        stage.task.image_size = min(side, max(self.smallest_side, round(self.resolution * side)))
        stage.run = str(folder / FOLDER)
        return stage, stage_choices


def no_pretraining() -> None:
    """No first stage.

    >>> no_pretraining() is None
    True
    """
