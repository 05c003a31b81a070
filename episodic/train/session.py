"""A training from its configuration to its results: the run's folder, curves, checkpoints, and the score of the best weights."""

from __future__ import annotations

import time
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from episodic.assemble.learner import Parts, build_parts
from episodic.assemble.load import load_initial
from episodic.assemble.task import build_sampler, check_task, count_train_classes, episode_shape, load_store
from episodic.data.store import ImageStore
from episodic.episodes.source import Episodes
from episodic.evaluate.results import Results
from episodic.evaluate.retrieval import retrieval
from episodic.evaluate.scoring import evaluate
from episodic.evaluate.tables import percent
from episodic.run.embed import embeddings_of
from episodic.run.run import Run
from episodic.run.tensorboard import Curves, episode_picture
from episodic.train.fit import Journal, NonFiniteLossError, fit
from episodic.train.interrupt import StopRequest
from episodic.train.procedure import AbstractProcedure
from episodic.train.setup import OWN, build_procedure, check_effects


class Session(Journal):
    """One training in a run's folder. It builds everything from a configuration, keeps checkpoints and curves, and scores the best
    weights at the end.

    `state` is what a checkpoint has beside weights: the `step`, the `best` validation, and the `seconds` that training took so far.

    **Arguments:** as in `train`.

    **Raises:** `ConfigError` or `ValueError` for parts that do not go together, could have no effect, or cannot be had.
    """

    def __init__(self, cfg: DictConfig, choices: dict[str, Any], overrides: list[str]):
        self.cfg, self.choices = cfg, choices
        check_task(cfg.task)
        count_train_classes(cfg)
        self.parts: Parts = build_parts(cfg)
        self.procedure: AbstractProcedure = build_procedure(cfg, self.parts)
        check_effects(cfg, overrides, self.procedure)
        self.val_store = load_store(self.parts.dataset, cfg.task, "val")
        self.test_store = load_store(self.parts.dataset, cfg.task, "test")
        # All samplers before the first step: an impossible episode should not show after an hour.
        self.val_episodes = self._episodes(self.val_store, "val", self.procedure.validation_episodes)
        self.scored = {s.split: (s, self._episodes(s, "test", cfg.episodes)) for s in (self.val_store, self.test_store)}
        self.wrappers, self.losses = "+".join(cfg.semi), "+".join(cfg.loss)
        added = [name for name in (*cfg.semi, *cfg.loss) if name not in ("supervised", OWN)]
        follows = self.procedure.follows_length or self.procedure.setup.schedule.follows_length
        self.run = Run.open(
            cfg, "-".join([choices["task"], choices["learner"], *added]), free=[] if follows else ["trainer.steps"]
        )
        self.state: dict[str, Any] = {"step": 0, "best": None, "seconds": 0.0}
        if cfg.resume and self.run.has("last"):
            self.state = self.run.restore("last", self.learner, self.procedure)
            self.procedure.step = self.state["step"]
            self.begun = f"from step {self.state['step']}"
        else:
            self.begun = load_initial(cfg, self.learner)
        self.began = time.perf_counter() - self.state["seconds"]

    @property
    def learner(self):
        """The learner in training."""
        return self.parts.learner

    @property
    def resume_command(self) -> str:
        """How to go on with this training, for messages."""
        return f"resume with: python -m episodic.train <the same options> run={self.run.folder} resume=true"

    def _episodes(self, store: ImageStore, stream: str, count: int) -> Episodes:
        return build_sampler(self.cfg.task, store, shape=self.cfg.task, seed=0, stream=stream, episodes=count)

    def __str__(self) -> str:
        parameters = sum(p.numel() for p in self.learner.parameters())
        parameters += sum(p.numel() for p in self.procedure.state.parameters())
        task, learner, backbone = (self.choices[part] for part in ("task", "learner", "backbone"))
        head = f"{task}: {learner} on {backbone} ({parameters:,} parameters), {self.wrappers}, {self.losses}"
        return f"{head}\n" + "; ".join(filter(None, [self.parts.hardware.describe(), str(self.run.folder), self.begun]))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write a point of the training curve."""
        self.curves.training(step, values)

    def validate(self, step: int) -> None:
        """Score the learner on the validation classes. The weights are saved as `best` where they are better than all before."""
        parts = self.parts
        found = evaluate(parts.learner, self.val_store, self.val_episodes, parts.normalize, parts.hardware).interval
        self.curves.validation(step, found.mean, found.half_width)
        tqdm.write(f"step {step:>6}  validation {percent(found)} %")
        if self.state["best"] is None or found.mean > self.state["best"]["accuracy"]:
            self.state["best"] = {"accuracy": found.mean, "step": step}
            self.run.save("best", self.learner, self.procedure, {"step": step, "validation": found.mean})

    def save(self, step: int) -> None:
        """Write the checkpoint `last`."""
        self.state.update(step=step, seconds=time.perf_counter() - self.began)
        self.run.save("last", self.learner, self.procedure, self.state)

    def fit(self) -> None:
        """Train to the end.

        **Raises:** `SystemExit` where the user asked to stop; `NonFiniteLossError` and `OSError` that say how to go on.
        """
        procedure, state = self.procedure, self.state
        first = None if procedure.source is None else episode_picture(procedure.setup.store, procedure.source[0])
        self.curves = Curves(self.run.folder, procedure.step, first)
        with StopRequest() as stop:
            try:
                done = fit(procedure, self, stop=stop, progress=True)
            except NonFiniteLossError as error:
                raise NonFiniteLossError(
                    f"{error}.\nThe last good checkpoint is step {state['step']} in {self.run.folder}. Lower optimizer.lr, set "
                    "trainer.clip_norm, or try precision=fp32."
                ) from None
            except OSError as error:
                raise OSError(
                    f"{error}. Training stopped; step {state['step']} is kept. Make room and {self.resume_command}"
                ) from None
            finally:
                self.curves.close()
        if not done:
            print(f"Stopped at step {procedure.step}, saved in {self.run.folder}; {self.resume_command}")
            raise SystemExit(stop.exit_code)

    def score(self) -> dict[str, Any]:
        """Score the best weights on validation and test classes. Prints the tables, writes `metrics.json`, and returns its
        numbers.
        """
        cfg, parts, procedure, choices = self.cfg, self.parts, self.procedure, self.choices
        seconds = time.perf_counter() - self.began
        measured = {f"train/{name}": round(value, 4) for name, value in procedure.metrics.items()}  # of the last step
        self.run.restore("best", self.learner)
        metrics = {
            "seed": cfg.seed,
            "steps": procedure.step,
            "best_step": self.state["best"]["step"],
            "train/seconds": round(seconds, 1),
            f"train/{procedure.unit}_per_second": round(procedure.step * procedure.per_step / seconds, 1),
            "train/peak_memory_gib": round(parts.hardware.peak_memory() / 2**30, 2),
            **measured,
            "train/classes": len(procedure.setup.store.class_names),
            "train/class_hash": procedure.setup.store.class_hash,
            "train/accuracy_of": procedure.accuracy_of,
            "hardware": parts.hardware.describe(),
            "task": choices["task"],
            "learner": choices["learner"],
            "backbone": choices["backbone"],
            "semi": self.wrappers,
            "loss": self.losses,
        }
        results = Results(episode_shape(cfg.task))
        for store, episodes in self.scored.values():
            results.add(evaluate(self.learner, store, episodes, parts.normalize, parts.hardware, progress=True), store)
            if procedure.reports_retrieval:
                embeddings = embeddings_of(self.learner, store, parts.normalize, parts.hardware)
                results.add_retrieval(retrieval(*embeddings), store)
        self.run.write_metrics(metrics | results.record)
        minutes = f"{seconds / 60:.1f} min"
        print(f"\n{results.protocol}; best of step {self.state['best']['step']}; {minutes}\n\n{results}")
        print(f"\nMore episodes, other tasks, comparisons: python -m episodic.evaluate run={self.run.folder}")
        return metrics | results.record


def train(cfg: DictConfig, choices: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Train as a configuration says, in a run's folder. At the end the best weights are scored on validation and test classes; the
    result has these numbers.

    **Arguments:** `cfg`: as of `conf/train.yaml`. `choices`: which option each group has, by name, for records. `overrides`: what
    was set by hand; each must have an effect.

    **Raises:** what `Session` and its `fit` raise.
    """
    session = Session(cfg, choices, overrides)
    print(session)
    session.fit()
    return session.score()
