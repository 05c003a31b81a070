"""`python -m episodic.train task=... learner=... backbone=...`: train a learner, keep the best, test it."""

from __future__ import annotations

import time

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from tqdm import tqdm

from episodic.assemble.build import build_training
from episodic.assemble.learner import build_parts
from episodic.assemble.load import load_start
from episodic.assemble.task import build_sampler, count_train_classes, episode_shape, load_store
from episodic.config.command import command
from episodic.data.store import ImageStore
from episodic.episodes.source import Episodes
from episodic.evaluate.intervals import Interval
from episodic.evaluate.retrieval import retrieval
from episodic.evaluate.scoring import evaluate
from episodic.evaluate.tables import (
    DETAIL_HEADER,
    RETRIEVAL_HEADER,
    SCORE_HEADER,
    detail_rows,
    percent,
    record,
    retrieval_record,
    retrieval_row,
    score_row,
    table,
)
from episodic.run.embed import embeddings_of
from episodic.run.run import Run
from episodic.run.tensorboard import Curves
from episodic.train.dml import MetricTraining
from episodic.train.interrupt import StopRequest
from episodic.train.loop import NonFiniteLossError, Training, fit


def train(cfg: DictConfig) -> None:
    """Train as `cfg` says, in a run directory; ends with the score of the best checkpoint on validation and test."""
    choices = HydraConfig.get().runtime.choices
    count_train_classes(cfg)
    parts = build_parts(cfg)
    training = build_training(cfg, parts)
    val_store = load_store(parts.dataset, cfg.task, "val")
    test_store = load_store(parts.dataset, cfg.task, "test")

    def episodes_of(store: ImageStore, stream: str, count: int) -> Episodes:
        return build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream=stream, episodes=count)

    # All samplers before the first step: an impossible episode should not show after an hour.
    val_episodes = episodes_of(val_store, "val", training.trainer.validation_episodes)
    scored = {s.split: (s, episodes_of(s, "test", cfg.episodes)) for s in (val_store, test_store)}
    wrappers, losses = "+".join(cfg.semi), "+".join(cfg.loss)
    added = [name for name in (*cfg.semi, *cfg.loss) if name not in ("supervised", "cross_entropy")]
    run = Run.open(cfg, "-".join([choices.task, choices.learner, *added]))
    state = {"step": 0, "best": None, "seconds": 0.0}
    if cfg.resume and run.has("last"):
        state = run.restore("last", training.learner, training.optimizer)
        training.step, begun = state["step"], f"from step {state['step']}"
    else:
        begun = load_start(cfg, training.learner)
    parameters = sum(p.numel() for p in training.learner.parameters())
    print(f"{choices.task}: {choices.learner} on {choices.backbone} ({parameters:,} parameters), {wrappers}, {losses}")
    print("; ".join([parts.hardware.describe(), str(run.folder), *([begun] if begun else [])]))

    curves = Curves(run.folder, training)
    began = time.perf_counter() - state["seconds"]

    def validate() -> Interval:
        return evaluate(training.learner, val_store, val_episodes, parts.normalize, parts.hardware).interval

    def on_validation(step: int, interval: Interval) -> None:
        curves.validation(step, interval)
        tqdm.write(f"step {step:>6}  validation {percent(interval)} %")
        if state["best"] is None or interval.mean > state["best"]["accuracy"]:
            state["best"] = {"accuracy": interval.mean, "step": step}
            run.save("best", training.learner, training.optimizer, {"step": step, "validation": interval.mean})

    def save() -> None:
        state.update(step=training.step, seconds=time.perf_counter() - began)
        run.save("last", training.learner, training.optimizer, state)

    again = f"resume with: python -m episodic.train <the same options> run={run.folder} resume=true"
    with StopRequest() as stop:
        try:
            done = fit(
                training,
                validate=validate,
                on_log=curves.training,
                on_validation=on_validation,
                save=save,
                stop=stop,
                progress=True,
            )
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"{error}.\nThe last good checkpoint is step {state['step']} in {run.folder}. Lower optimizer.lr, set "
                "trainer.clip_norm, or try precision=fp32."
            ) from None
        except OSError as error:
            raise OSError(f"{error}. Training stopped; step {state['step']} is kept. Make room and {again}") from None
        finally:
            curves.close()
    if not done:
        print(f"Stopped at step {training.step}, saved in {run.folder}; {again}")
        raise SystemExit(stop.exit_code)

    seconds = time.perf_counter() - began
    measured = {f"train/{name}": round(value, 4) for name, value in training.measured.items()}  # of the last step
    run.restore("best", training.learner)
    unit = "episodes" if type(training) is Training else "batches"
    metrics = {
        "seed": cfg.seed,
        "steps": training.step,
        "best_step": state["best"]["step"],
        "train/seconds": round(seconds, 1),
        f"train/{unit}_per_second": round(training.step * training.trainer.episodes_per_step / seconds, 1),
        "train/peak_memory_gib": round(parts.hardware.peak_memory() / 2**30, 2),
        **measured,
        "train/classes": len(training.store.class_names),
        "train/class_hash": training.store.class_hash,
        "hardware": parts.hardware.describe(),
        "task": choices.task,
        "learner": choices.learner,
        "backbone": choices.backbone,
        "semi": wrappers,
        "loss": losses,
    }
    rows, details, found = [], [], []
    for store, episodes in scored.values():
        evaluation = evaluate(training.learner, store, episodes, parts.normalize, parts.hardware, progress=True)
        metrics |= record(evaluation, store, episode_shape(cfg.task))
        rows.append(score_row(evaluation, store))
        details += detail_rows(evaluation, store)
        if isinstance(training, MetricTraining):
            retrieved = retrieval(*embeddings_of(training.learner, store, parts.normalize, parts.hardware))
            metrics |= retrieval_record(retrieved, store)
            found.append(retrieval_row(retrieved, store))
    run.write_metrics(metrics)
    print(f"\n{metrics[f'{store.split}/protocol']}; best of step {state['best']['step']}; {seconds / 60:.1f} min\n")
    print(table(SCORE_HEADER, rows))
    if details:
        print("\n" + table(DETAIL_HEADER, details))
    if found:
        print("\n" + table(RETRIEVAL_HEADER, found))
    print(f"\nMore episodes, other tasks, comparisons: python -m episodic.evaluate run={run.folder}")


if __name__ == "__main__":
    command("train", train)
