"""The options of the commands on people's own pictures, `episodic.predict` and `episodic.demo`.

A command line names one model: a run, a file that was saved, or a pretrained backbone. What this model does not read is refused.
"""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from episodic.assemble.load import PARTS, with_saved_parts, with_saved_transform
from episodic.config.compose import ConfigError, compose_config
from episodic.config.overrides import given_options

SOURCES = ("run", "backbone", "model")
# The task of a pretrained backbone. Only the form of its pictures is used: color, 224 pixels.
PRETRAINED_TASK = ("task=folder_5w1s", "task.dataset.path=.", "task.image_size=224")
NO_MODEL = (
    "which model? run=<dir> that episodic.train made, model=<file> that save= wrote, or backbone=resnet50, whose weights of "
    "ImageNet are downloaded once (a file of yours: backbone.weights=<file.pth>)"
)

# Settings of a task that say what a picture is made like, or how many classes a learner was trained on. The others say what
# episodes are drawn.
READ_OF_TASK = ("dataset", "channels", "image_size", "train_classes")
UNREAD_OF_TASK = (
    *("n_way", "n_shot", "n_query", "n_unlabeled", "n_distractors", "imbalanced", "within_super_class", "too_small"),
    *("labeled_fraction", "labeled_seed", "base_way", "base_query", "held_out", "fold", "folds", "train"),
)
_EPISODES = "no episodes are drawn, the examples are yours; of a task only the form of its pictures is used"
UNREAD = {
    "augment": "only training changes pictures at random",
    "data_dir": "no data set is read, the pictures are yours",
    **dict.fromkeys(("optimizer", "schedule", "pretrain", "trainer"), "nothing is trained"),
    **{f"task.{name}": _EPISODES for name in UNREAD_OF_TASK},
}


def with_parts(arguments: list[str]) -> list[str]:
    """Make task, learner and wrapper of the model the choices `saved`.

    They are those of the run. Where there is no run they are a task for the form of the pictures, `prototypical`, and no wrapper.

    **Raises:** `ConfigError` where the arguments name no model, or several, or parts that a saved file has itself.
    """
    given = {key.split(".")[0] for key in given_options(arguments)}
    flags = [a for a in arguments if a.startswith("-")]
    sources = [name for name in SOURCES if name in given]
    if len(sources) > 1:
        raise ConfigError(f"give one of run=, backbone= and model=, not {' and '.join(sources)}")
    if not sources and not flags:
        raise ConfigError(NO_MODEL)
    if "run" in given:
        with_saved_parts(arguments)
        return with_saved_transform(arguments)
    if "model" in given and (extra := given & {"task", *PARTS}):
        raise ConfigError(f"model=<file> has a {min(extra)} of its own: leave {min(extra)} out")
    plain = compose_config("train", list(PRETRAINED_TASK))
    for part in ("task", *PARTS):
        ConfigStore.instance().store(group=part, name="saved", node=plain[part])
    return with_saved_transform(arguments)


def check_seed(cfg: DictConfig) -> None:
    """Refuse a seed where no weights are drawn at random.

    **Raises:** `ConfigError`.
    """
    if cfg.seed is None:
        return
    for source in ("run", "model"):
        if cfg[source] is not None:
            raise ConfigError(f"seed would have no effect here: all weights come from {source}={cfg[source]}")
    if cfg.backbone.get("weights") is not None:
        raise ConfigError("seed would have no effect here: the backbone's weights are pretrained, none are drawn")
