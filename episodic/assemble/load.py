"""Loads trained weights: the learner of a run, or a run to start from."""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from episodic.assemble.learner import Parts, build_parts
from episodic.assemble.task import is_incremental, load_split, training_masks
from episodic.config.compose import ConfigError
from episodic.config.instantiate import make
from episodic.config.overrides import given_options
from episodic.core.transforms.transform import AbstractCentered
from episodic.episodes.arguments import file_path
from episodic.learners.learner import AbstractLearner
from episodic.run.checkpoint import unwrapped_name
from episodic.run.embed import fit_transforms
from episodic.run.run import Run
from episodic.semi.wrapper import unwrapped

PARTS = ("learner", "semi", "transform")  # of a run, which evaluation may change


def load(path: str | os.PathLike, device: str = "auto", *, allow_any_target: bool = False) -> AbstractLearner:
    """The trained learner of a run, in eval mode. It has the weights of the best checkpoint, or of the last one where none was
    validated.

    >>> import episodic, torch
    >>> learner = episodic.load("runs/prototypical", device="cpu")
    >>> images = torch.randn(1, 6, 1, 28, 28)  # one episode: two examples and four queries
    >>> task = episodic.Task(images[:, :2], torch.tensor([[0, 1]]), images[:, 2:], n_way=2)
    >>> learner(task).logits.shape
    torch.Size([1, 4, 2])

    A learner expects images as it was trained on: floats, normalized by the mean and the standard deviation of its data set.
    `FewShotClassifier(path)` reads, scales and normalizes pictures by itself.

    **Arguments:**

    - `path`: the folder of a run, which `episodic.train` made.
    - `device`: `"auto"` (CUDA, then MPS, then the CPU) or a device of torch.
    - `allow_any_target` (default false): let the run's configuration build classes of other packages, such as a learner of your
      own. By default only the choices of this package are built, whatever the configuration says.

    **Raises:** `FileNotFoundError` where the folder is no run; `ConfigError` where its configuration cannot be built;
    `CheckpointError` where no checkpoint can be read.
    """
    folder = file_path("path", path)
    if folder.is_file():
        raise ConfigError(
            f"{path} is a file, and a run is a folder. A saved classifier opens as FewShotClassifier.load(file)"
        )
    cfg = Run(folder).config()
    cfg.device, cfg.allow_any_target = device, allow_any_target
    return load_parts(cfg, str(folder), as_saved=True).learner.eval()


def with_saved_parts(arguments: list[str]) -> list[str]:
    """Make the run's own task, learner and wrappers the choices `saved` of the command line. Its `data_dir` becomes the default.

    **Raises:** `ConfigError` where the arguments name no run; `FileNotFoundError` where the folder is none.
    """
    given = given_options(arguments)
    if "run" not in given:
        raise ConfigError("which run? Give run=<dir>, a directory that episodic.train made")
    saved = Run(Path(given["run"])).config()
    for part in PARTS:
        OmegaConf.resolve(saved[part])  # the model stays that of the task it was trained for
    for part in ("task", *PARTS):
        ConfigStore.instance().store(group=part, name="saved", node=saved[part])
    arguments = with_saved_transform(arguments)
    return arguments if "data_dir" in given or saved.data_dir is None else [*arguments, f"data_dir={saved.data_dir}"]


def with_saved_transform(arguments: list[str]) -> list[str]:
    """The arguments, with the model's own transform where they choose none: a task may have another one for training.

    >>> with_saved_transform(["task=omniglot_5w1s"])
    ['task=omniglot_5w1s', 'transform=saved']
    """
    flags = {"-h", "--help"} & set(arguments)
    return arguments if flags or "transform" in given_options(arguments) else [*arguments, "transform=saved"]


def load_parts(cfg: DictConfig, folder: str, *, as_saved: bool = False) -> Parts:
    """The model of the run in `folder`, with its best weights, and the data of `cfg`. Its learner and wrappers are those of `cfg`,
    or with `as_saved` those of the run.

    **Raises:** `ConfigError` where the run does not go with the task; `CheckpointError` where its weights cannot be read or do not
    fit.
    """
    run = Run(Path(folder))
    saved = run.config()
    OmegaConf.update(saved, "allow_any_target", cfg.allow_any_target)
    for key in ("device", "precision", "data_dir"):
        if cfg[key] is not None:
            saved[key] = cfg[key]
    if saved.task.channels != cfg.task.channels:
        raise ConfigError(f"{folder} was trained on {saved.task.channels} channels; this task has {cfg.task.channels}")
    check_held_out(saved, cfg.task, folder)
    for part in ("backbone", *PARTS):
        OmegaConf.resolve(saved[part])
    trained_on, trained = saved.task, {part: OmegaConf.to_container(saved[part]) for part in PARTS[1:]}
    saved.task = cfg.task
    if not as_saved:
        saved.update({part: cfg[part] for part in PARTS})
    if "weights" in saved.backbone:
        saved.backbone.weights = None  # all come from the checkpoint
    OmegaConf.update(saved, "sse", {"_target_": "torch.nn.Identity"}, merge=False)  # in evaluation nothing is exchanged
    parts = build_parts(saved)
    # Evaluation may have fewer weights than the checkpoint, where a wrapper, or a setting of one, is left out. It may have another
    # transform, which is then fitted to the run's training images.
    changed = any(OmegaConf.to_container(saved[part], resolve=True) != trained[part] for part in trained)
    lacking = [f"{name}.mean" for name, module in parts.learner.named_modules() if isinstance(module, AbstractCentered)]
    other = OmegaConf.to_container(saved.transform, resolve=True) != trained["transform"]
    kind = "best" if run.has("best") else "last"
    run.restore(kind, parts.learner, ignore_extra=changed, may_lack=lacking if other else [])
    if other and lacking:
        store = load_split(make(trained_on.dataset, allow_any_target=cfg.allow_any_target), trained_on, "train")
        seen, _ = training_masks(trained_on, store.labels.numpy())
        fit_transforms(parts.learner, store, parts.normalize, parts.hardware, seen)
    return parts


def load_initial(cfg: DictConfig, learner: AbstractLearner) -> str:
    """Put the weights of the run `cfg.init_from` into `learner`, where name and shape agree. Says what was taken; nothing is done
    where `init_from` is None.

    **Raises:** `ConfigError` where the learner needs such a run and none is given, or the backbone of the run does not fit.
    """
    if cfg.init_from is None:
        if learner.capabilities.needs_init:
            raise ConfigError(
                f"{type(learner).__name__} goes on from trained weights: {learner.capabilities.needs_init}, then "
                "init_from=<that run>"
            )
        return ""
    run = Run(Path(cfg.init_from))
    check_held_out(run.config(), cfg.task, cfg.init_from)
    check_labels_unseen(run.config(), cfg.task, cfg.init_from)
    theirs = {unwrapped_name(name): value for name, value in run.weights().items()}
    mine = learner.state_dict()
    fit = {
        name: theirs[unwrapped_name(name)]
        for name, value in mine.items()
        if unwrapped_name(name) in theirs and value.shape == theirs[unwrapped_name(name)].shape
    }
    inner = unwrapped(learner)[-1]
    needed = {name for name, parameter in inner.named_parameters() if not parameter.requires_grad}
    needed |= {name for name in inner.state_dict() if name.startswith("backbone.") and "backbone.head." not in name}
    if isinstance(inner.backbone, AbstractCentered):  # its mean is fitted before the first step
        needed.discard("backbone.mean")
    needed = {unwrapped_name(name) for name in needed}
    lost = [unwrapped_name(name) for name in mine if name not in fit and unwrapped_name(name) in needed]
    if lost:
        wanted = f"; wanted: {learner.capabilities.needs_init}" if learner.capabilities.needs_init else ""
        raise ConfigError(f"init_from={cfg.init_from} does not fit: {lost[0]} is not there or of another shape{wanted}")
    learner.load_state_dict(fit, strict=False)
    return f"{len(fit)} of {len(mine)} tensors from {cfg.init_from}"


def check_held_out(saved: DictConfig, task: DictConfig, folder: str) -> None:
    """Refuse a run that was trained on images which the incremental `task` holds out, or on other classes.

    **Raises:** `ConfigError`.
    """
    if not is_incremental(task):
        return
    theirs = saved.task.get("held_out", 0.0)
    if theirs != task.held_out or saved.task.dataset.get("_target_") != task.dataset.get("_target_"):
        raise ConfigError(
            f"{folder} was trained with held_out={theirs} on {saved.task.dataset._target_.split('.')[-1]}; this incremental task "
            f"holds {task.held_out} of {task.dataset._target_.split('.')[-1]}'s training images out, and asks for them"
        )


def check_labels_unseen(saved: DictConfig, task: DictConfig, folder: str) -> None:
    """Refuse a run that was trained with labels which `task` hides, or on the classes of its fold.

    **Raises:** `ConfigError`.
    """
    theirs = (saved.task.get("labeled_fraction", 1.0), saved.task.get("labeled_seed", 0))
    ours = (task.labeled_fraction, task.labeled_seed)
    same_data = saved.task.dataset.get("_target_") == task.dataset.get("_target_")
    same_fold = all(saved.task.get(key) == task[key] for key in ("fold", "folds"))
    if same_data and task.fold is not None and not same_fold:
        raise ConfigError(f"{folder} was trained on classes of task.fold={task.fold}, which are for validation here")
    if same_data and ours[0] < 1 and (theirs[0] > ours[0] or theirs[1] != ours[1]):
        raise ConfigError(
            f"{folder} was trained with task.labeled_fraction={theirs[0]} and task.labeled_seed={theirs[1]}; this task, with "
            f"{ours[0]} and {ours[1]}, hides some of its labels"
        )
