"""A training from its configuration to its results: the run's folder, curves, checkpoints, and the score of the best weights."""

from __future__ import annotations

import contextlib
import errno
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from episodic.assemble.learner import Parts, build_parts
from episodic.assemble.load import load_initial
from episodic.assemble.task import (
    build_sampler,
    check_task,
    count_train_classes,
    episode_shape,
    is_incremental,
    load_store,
)
from episodic.config.compose import ConfigError
from episodic.config.instantiate import make
from episodic.config.types import fits
from episodic.data.store import ImageStore
from episodic.episodes.source import Episodes
from episodic.evaluate.published import published
from episodic.evaluate.results import Results
from episodic.evaluate.retrieval import retrieval
from episodic.evaluate.scoring import evaluate
from episodic.evaluate.tables import percent
from episodic.run.checkpoint import CheckpointError
from episodic.run.distributed import first_ahead, largest, launcher, peers, processes, wait_for_all
from episodic.run.embed import embeddings_of
from episodic.run.run import Run
from episodic.run.tensorboard import Curves, episode_picture
from episodic.train.fit import Journal, NonFiniteLossError, fit
from episodic.train.interrupt import StopRequest
from episodic.train.pretraining import FOLDER, Pretraining
from episodic.train.procedure import AbstractProcedure
from episodic.train.setup import OWN, build_procedure, check_effects

REMEDIES = {  # what helps where something cannot be written
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Make room, since your quota is used up",
    errno.EACCES: "Give yourself the permission",
    errno.EPERM: "Give yourself the permission",
    errno.EROFS: "Let the file system be written",
}


class Session(Journal):
    """One training in a run's folder. It builds everything from a configuration, keeps checkpoints and curves, and scores the best
    weights at the end. The folder is there while `opened` is entered.

    `state` is what a checkpoint has beside weights: the `step`, the `best` validation, and the `seconds` that training took so far.

    **Arguments:** as in `train`. `then` (default None): the training whose first stage this is, which takes its weights.

    **Raises:** `ConfigError` or `ValueError` for parts that do not go together, could have no effect, or cannot be had.
    """

    def __init__(self, cfg: DictConfig, choices: dict[str, Any], overrides: list[str], then: Session | None = None):
        self.cfg, self.choices, self.options, self.then = cfg, choices, overrides, then
        check_task(cfg.task)
        with first_ahead():  # it fills the caches of images and of weights
            count_train_classes(cfg)
            self.parts: Parts = build_parts(cfg)
            stores = [load_store(self.parts.dataset, cfg.task, split) for split in ("val", "test")]
        self.val_store, self.test_store = stores
        self.procedure: AbstractProcedure = build_procedure(cfg, self.parts)
        check_effects(cfg, overrides, self.procedure)
        # All samplers before the first step: an impossible episode should not show after an hour.
        self.val_episodes = self._episodes(self.val_store, "val", self.procedure.validation_episodes)
        self.scored = {s.split: (s, self._episodes(s, "test", cfg.episodes)) for s in (self.val_store, self.test_store)}
        self.wrappers, self.losses = "+".join(cfg.semi), "+".join(cfg.loss)
        self.state: dict[str, Any] = {"step": 0, "best": None, "seconds": 0.0}
        self.first_point: tuple[int, float] | None = None  # of the training curve: step and time
        self.expected: float | None = None  # seconds that training will take, once that is known
        self.pretraining = self._pretraining()
        self.begun = "" if cfg.resume or self.pretraining else load_initial(cfg, self.learner)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Opens the run's folder, where no one else can train meanwhile. Training begins, or goes on where the run stands.

        **Raises:** `ConfigError` as `Run.open`, and for fewer steps than the run has; `CheckpointError`.
        """
        cfg, procedure = self.cfg, self.procedure
        added = [name for name in (*cfg.semi, *cfg.loss) if name not in ("supervised", OWN)]
        follows = procedure.follows_length or procedure.setup.schedule.follows_length
        name = "-".join([self.choices["task"], self.choices["learner"], *added])
        with Run.open(cfg, name, free=[] if follows else ["trainer.steps"]) as self.run:
            if cfg.resume and self.run.has("last"):
                self.state = _checked(self.run.restore("last", self.learner, procedure), self.run.folder)
                procedure.step = done = self.state["step"]
                if done > procedure.steps:
                    raise ConfigError(
                        f"{self.run.folder} has {done} steps already: give trainer.steps={done} or more, or take another run=<dir>"
                    )
                ended = done == procedure.steps
                self.begun = f"all {done} steps are done, scored again" if ended else f"from step {done}"
            elif cfg.resume and self.pretraining is None:  # it was stopped before its first checkpoint
                self.begun = load_initial(cfg, self.learner)
            wait_for_all()  # all have read before the first process writes
            self.run.write_config(cfg, self.options)  # from here on the folder is that of this training
            if self.pretraining is not None and not self.run.has("last"):
                self.begun = self._begin_with(self.pretraining)
            self.began = time.perf_counter() - self.state["seconds"]
            yield

    def _pretraining(self) -> Pretraining | None:
        """The first stage; None where there is none, or the task chose one that this training cannot begin with.

        **Raises:** `ConfigError` where it was chosen by hand and could not be begun with.
        """
        cfg, learner = self.cfg, self.learner
        reason = ""
        if cfg.init_from is not None:
            reason = "weights begin with those of init_from="
        elif learner.capabilities.needs_init:
            reason = f"{type(learner).__name__} begins with a run of its own kind (init_from=<run>)"
        elif is_incremental(cfg.task):
            reason = "a first stage answers with the classes of an episode, and this task is incremental"
        if reason and any(option.startswith(("pretrain=", "pretrain.")) for option in self.options):
            raise ConfigError(f"pretrain= would have no effect here: {reason}")
        if reason or "pretrain" in self.procedure.unread:
            return None
        return make(cfg.pretrain, allow_any_target=cfg.allow_any_target)

    def _begin_with(self, pretraining: Pretraining) -> str:
        """Train the first stage, or what is left of it, and take its weights. Says what was taken."""
        cfg, choices = pretraining.config(self.cfg, self.choices, self.run.folder)
        first = Run(Path(cfg.run))
        cfg.resume = (first.folder / "config.yaml").is_file()
        if not first.metrics():
            print(f"First, pretrain={self.choices['pretrain']}:")
            stage = Session(cfg, choices, list(pretraining.options), then=self)
            with stage.opened():
                print(stage)
                stage.fit()
                stage.run.write_metrics(stage.facts())
            print("\nThen, with its weights:")
        return load_initial(OmegaConf.merge(self.cfg, {"init_from": cfg.run}), self.learner)

    def _first_stage(self) -> dict[str, Any]:
        """What the record says of the stages before, where there were any."""
        found = Run(self.run.folder / FOLDER).metrics() if self.pretraining else {}
        names = [name for name in ("images", "seconds") if f"train/{name}" in found]
        return {f"pretrain/{name}": found[f"train/{name}"] + found.get(f"pretrain/{name}", 0) for name in names}

    @property
    def learner(self):
        """The learner in training."""
        return self.parts.learner

    @property
    def resume_command(self) -> str:
        """How to go on with this training, for messages."""
        if self.then is not None:
            return self.then.resume_command
        trusted = " allow_any_target=true" * bool(self.cfg.allow_any_target)
        options = f"resume=true run={shlex.quote(str(self.run.folder))}{trusted}"
        return f"resume with: {launcher()} -m episodic.train {options}"

    def _episodes(self, store: ImageStore, stream: str, count: int) -> Episodes:
        return build_sampler(self.cfg.task, store, shape=self.cfg.task, seed=0, stream=stream, episodes=count)

    def __str__(self) -> str:
        parameters = sum(p.numel() for p in self.learner.parameters())
        parameters += sum(p.numel() for p in self.procedure.state.parameters())
        task, learner, backbone = (self.choices[part] for part in ("task", "learner", "backbone"))
        head = f"{task}: {learner} on {backbone} ({parameters:,} parameters), {self.wrappers}, {self.losses}"
        return f"{head}\n" + "; ".join(filter(None, [self.parts.hardware.describe(), str(self.run.folder), self.begun]))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write a point of the training curve. The second time, say how long training will take on this machine; the first steps
        are slower.
        """
        self.curves.training(step, values)
        now, (first, began) = time.perf_counter(), self.first_point or (0, 0.0)
        if self.first_point is None:
            self.first_point = step, now
        elif self.expected is None and step < self.procedure.steps:
            rate, left = (step - first) / (now - began), self.procedure.steps - step
            self.expected, images = left / rate, self.procedure.images_per_step
            of = f" of {images:,} images ({rate * images:,.0f} images/s)" if images else ""
            told = f"{duration(self.expected)} for {left:,} steps{of}"
            if images and (then := self.pixels_to_come):
                all_of_it = self.expected * (1 + then / (left * images * self.cfg.task.image_size**2))
                told += f", {duration(all_of_it)} with what comes then"
            say(f"{told}; validation takes some more")

    @property
    def pixels_to_come(self) -> int:
        """Of the training images of all stages after this one."""
        if (then := self.then) is None:
            return 0
        own = then.procedure.steps * (then.procedure.images_per_step or 0) * then.cfg.task.image_size**2
        return own + then.pixels_to_come

    def validate(self, step: int) -> None:
        """Score the learner on the validation classes. The weights are saved as `best` where they are better than all before."""
        parts = self.parts
        self.procedure.fit_transforms()
        found = evaluate(parts.learner, self.val_store, self.val_episodes, parts.normalize, parts.hardware).interval
        self.curves.validation(step, found.mean, found.half_width)
        say(f"step {step:>6}  validation {percent(found)} %")
        if self.state["best"] is None or found.mean > self.state["best"]["accuracy"]:
            self.run.save("best", self.learner, self.procedure, {"step": step, "validation": found.mean})
            self.state["best"] = {"accuracy": found.mean, "step": step}

    def save(self, step: int) -> None:
        """Write the checkpoint `last`."""
        state = self.state | {"step": step, "seconds": time.perf_counter() - self.began}
        self.run.save("last", self.learner, self.procedure, state)
        self.state = state  # what is told of it is on the disk

    def fit(self) -> None:
        """Train to the end.

        **Raises:** `SystemExit` where the user asked to stop; `NonFiniteLossError` and `OSError` that say how to go on.
        """
        procedure = self.procedure
        if procedure.step == 0:
            procedure.fit_transforms()  # learners that keep their backbone in eval mode need it
        first = None if procedure.source is None else episode_picture(procedure.setup.store, procedure.source[0])
        self.curves = Curves(self.run.folder, procedure.step, first)
        with StopRequest() as stop:
            try:
                with peers():
                    fit(procedure, self, stop=stop, progress=True)
            except NonFiniteLossError as error:
                raise NonFiniteLossError(
                    f"{error}.\nThe last good checkpoint is step {self.state['step']} in {self.run.folder}. Lower optimizer.lr, "
                    "set trainer.clip_norm, or try precision=fp32."
                ) from None
            except BrokenPipeError:  # whoever read what is printed has gone: nothing that a message would reach
                raise
            except OSError as error:
                raise OSError(self._stopped_by(error)) from None
            except (KeyboardInterrupt, SystemExit):  # a second signal
                say(f"Ended at once, within step {procedure.step}; {self._kept}; {self.resume_command}")
                raise
            finally:
                self.curves.close()
        if stop.agreed():
            say(f"Stopped at step {procedure.step}, saved in {self.run.folder}; {self.resume_command}")
            wait_for_all()
            raise SystemExit(stop.exit_code)

    def _stopped_by(self, error: OSError) -> str:
        """What to say where training cannot go on."""
        told = f"{error}. Training stopped in step {self.procedure.step}; {self._kept}"
        remedy = REMEDIES.get(error.errno or 0, "Mend that")
        return f"{told}. {remedy}, then {self.resume_command}" if self.run.has("last") else told

    @property
    def _kept(self) -> str:
        if not self.run.has("last"):
            return "no checkpoint is kept"
        return f"step {self.state['step']} is kept in {self.run.folder}"

    def score(self) -> dict[str, Any]:
        """Score the best weights on validation and test classes. Prints the tables, writes `metrics.json`, and returns its
        numbers.
        """
        parts, metrics = self.parts, self.facts()
        self.run.restore("best", self.learner)
        results = Results(episode_shape(self.cfg.task))
        for store, episodes in self.scored.values():
            results.add(evaluate(self.learner, store, episodes, parts.normalize, parts.hardware, progress=True), store)
            if self.procedure.reports_retrieval:
                embeddings = embeddings_of(self.learner, store, parts.normalize, parts.hardware)
                results.add_retrieval(retrieval(*embeddings), store)
        self.run.write_metrics(metrics | results.record)
        minutes = f"{metrics['train/seconds'] / 60:.1f} min"
        print(f"\n{results.protocol}; best of step {self.state['best']['step']}; {minutes}\n\n{results}")
        if self.wrappers == "supervised" and (
            paper := published(*(metrics[k] for k in ("task", "learner", "backbone")))
        ):
            print(f"\n{paper}")
        print(f"\nMore episodes, other tasks, comparisons: python -m episodic.evaluate run={self.run.folder}")
        return metrics | results.record

    def facts(self) -> dict[str, Any]:
        """What the record says of the training itself."""
        cfg, parts, procedure, choices = self.cfg, self.parts, self.procedure, self.choices
        seconds = time.perf_counter() - self.began
        measured = {f"train/{name}": round(value, 4) for name, value in procedure.metrics.items()}  # of the last step
        return {
            "seed": cfg.seed,
            "steps": procedure.step,
            "best_step": self.state["best"]["step"],
            "train/seconds": round(seconds, 1),
            f"train/{procedure.unit}_per_second": round(procedure.step * procedure.per_step / seconds, 1),
            **({"train/images": procedure.step * images} if (images := procedure.images_per_step) else {}),
            "train/peak_memory_gib": round(largest(parts.hardware.peak_memory()) / 2**30, 2),  # of one process
            **measured,
            **self._first_stage(),
            "train/classes": len(procedure.setup.store.class_names),
            "train/class_hash": procedure.setup.store.class_hash,
            "train/accuracy_of": procedure.accuracy_of,
            "hardware": parts.hardware.describe(),
            **({"sync_batch_norm": cfg.sync_batch_norm} if processes() > 1 else {}),
            "task": choices["task"],
            "learner": choices["learner"],
            "backbone": choices["backbone"],
            "semi": self.wrappers,
            "loss": self.losses,
        }


def _checked(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The `state` of a checkpoint, which may come from a stranger."""
    step, seconds, best = (state.get(name) for name in ("step", "seconds", "best"))
    whole = fits(step, int) and fits(seconds, float) and min(step, seconds) >= 0
    found = best is None or (
        isinstance(best, dict) and fits(best.get("step"), int) and fits(best.get("accuracy"), float)
    )
    if not (whole and found):
        raise CheckpointError(f"{folder} is damaged: its state is {str(state)[:100]}")
    return state


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(40), duration(1300), duration(9000)
    ('about 40 seconds', 'about 22 minutes', 'about 2.5 hours')
    """
    for unit, name, digits in ((3600, "hours", 1), (60, "minutes", 0), (1, "seconds", 0)):
        if seconds >= 1.5 * unit:
            return f"about {seconds / unit:.{digits}f} {name}"
    return "about a second"


def say(text: str) -> None:
    """Print a line beside the bar. A terminal that was closed takes none, and that is no reason to lose steps."""
    try:
        tqdm.write(text)
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def train(cfg: DictConfig, choices: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Train as a configuration says, in a run's folder. At the end the best weights are scored on validation and test classes; the
    result has these numbers.

    **Arguments:** `cfg`: as of `conf/train.yaml`. `choices`: which option each group has, by name, for records. `overrides`: what
    was set by hand; each must have an effect.

    **Raises:** what `Session`, its `opened` and its `fit` raise.
    """
    session = Session(cfg, choices, overrides)
    with session.opened():
        print(session)
        session.fit()
        try:
            return session.score()
        except (KeyboardInterrupt, SystemExit):
            say(f"Training has ended, but its scores are missing; {session.resume_command}")
            raise
