"""Models that answer people's own pictures: a run, a saved file, or a pretrained backbone."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from episodic.assemble.load import with_saved_parts
from episodic.config.compose import ConfigError, compose_config

SOURCES = ("run", "backbone", "model")
# A folder's task at the size of pretrained networks, for the form of pictures alone.
PLAIN = ("task=folder_5w1s", "task.dataset.path=.", "task.image_size=224")
NO_MODEL = (
    "which model? run=<dir> that episodic.train made, model=<file> that save= wrote, or backbone=resnet50, whose weights of "
    "ImageNet are downloaded once (a file of yours: backbone.weights=<file.pth>)"
)


def with_parts(arguments: list[str]) -> list[str]:
    """Make task, learner and wrapper of the run the choices `saved`; without a run a plain task, `prototypical` and none."""
    given = {a.split("=", 1)[0].split(".")[0] for a in arguments if "=" in a}
    flags = [a for a in arguments if a.startswith("-")]
    sources = [name for name in SOURCES if name in given]
    if len(sources) > 1:
        raise ConfigError(f"give one of run=, backbone= and model=, not {' and '.join(sources)}")
    if not sources and not flags:
        raise ConfigError(NO_MODEL)
    if "run" in given:
        with_saved_parts(arguments)
        return arguments
    if "model" in given and (extra := given & {"task", "learner", "semi"}):
        raise ConfigError(f"model=<file> has a {min(extra)} of its own: leave {min(extra)} out")
    plain = compose_config("train", list(PLAIN))
    for part in ("task", "learner", "semi"):
        ConfigStore.instance().store(group=part, name="saved", node=plain[part])
    return arguments
