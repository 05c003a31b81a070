"""The command that scores a run, or compares two runs on the same episodes.

python -m episodic.evaluate run=<dir> [task=...] [learner.<setting>=...] [split=test] [against=<dir>] [audit=true]
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from episodic.assemble.effects import (
    check_unlabeled_are_used,
    check_wrappers_answer,
    idle_in_learner,
    idle_in_task,
    idle_transform,
    parts_of,
    refuse_idle,
)
from episodic.assemble.load import load_parts, with_saved_parts
from episodic.assemble.task import episode_shape, is_incremental, load_store
from episodic.config.command import command
from episodic.config.compose import ConfigError
from episodic.config.instantiate import make
from episodic.data.dataset import SPLITS
from episodic.evaluate.audit import audit, verdict
from episodic.evaluate.clustering import clustering
from episodic.evaluate.manifest import episodes_of, write_manifest
from episodic.evaluate.results import Results
from episodic.evaluate.retrieval import retrieval
from episodic.evaluate.scoring import episode_predictor, evaluate
from episodic.evaluate.spread import density, spectral_decay
from episodic.run.distributed import from_first, joined, peers
from episodic.run.embed import embeddings_of
from episodic.run.run import Run

TRAINING = "it counts in training alone"
UNREAD = dict.fromkeys(
    (
        "augment",
        "optimizer",
        "schedule",
        "pretrain",
        "trainer",
        "task.train",
        "task.labeled_fraction",
        "task.labeled_seed",
    ),
    TRAINING,
)


def main(cfg: DictConfig) -> None:
    """Score the run `cfg.run` and print a table. Where `cfg.against` names another run, both are scored on the same episodes."""
    with peers():
        score(cfg)


def score(cfg: DictConfig) -> None:
    """What `main` does, with one process or several."""
    overrides = [option for option in HydraConfig.get().overrides.task if option != "transform=saved"]
    parts = load_parts(cfg, cfg.run)
    idle = idle_in_task(cfg.task) | idle_in_learner(cfg, parts.learner)
    idle |= {} if cfg.retrieval or cfg.clustering else idle_transform(parts.learner)
    refuse_idle(overrides, parts_of(cfg, parts.learner), idle)
    if not cfg.retrieval and any(override.startswith(("distance=", "distance.")) for override in overrides):
        raise ConfigError("distance= is what retrieval compares by: add retrieval=true")
    if chosen := [override for override in overrides if override.startswith("semi=")]:
        check_unlabeled_are_used(cfg, parts.learner)
        check_wrappers_answer(chosen[-1], parts_of(cfg, parts.learner))
    rival = load_parts(cfg, cfg.against, as_saved=True) if cfg.against else None
    wanted = SPLITS[1:] if cfg.split == "all" else (cfg.split,)
    stores = {store.split: store for store in (load_store(parts.dataset, cfg.task, split) for split in wanted)}
    if cfg.save_episodes and len(stores) > 1:
        raise ConfigError("save_episodes writes the episodes of one split; split=all has several")
    if is_incremental(cfg.task) and (cfg.save_episodes or not isinstance(cfg.episodes, int)):
        raise ConfigError("a manifest cannot hold incremental episodes; they are the same for everyone by their seed")
    results, notes = Results(episode_shape(cfg.task)), []
    metrics = {"run": str(cfg.run), "seed": cfg.seed, "hardware": parts.hardware.describe()}
    metrics |= {part: OmegaConf.to_container(cfg[part], resolve=True) for part in ("learner", "semi")}
    for store in stores.values():
        episodes = episodes_of(cfg, store)
        if cfg.save_episodes:
            from_first(functools.partial(write_manifest, Path(cfg.save_episodes), episodes, store))
            notes.append(
                f"Episodes written to {cfg.save_episodes}; score them anywhere with episodes={cfg.save_episodes}."
            )
        scored = [
            evaluate(each.learner, store, episodes, each.normalize, each.hardware, progress=True)
            for each in ([parts, rival] if rival else [parts])
        ]
        results.add(scored[0], store, scored[1] if rival else None)
        if cfg.retrieval or cfg.clustering:
            embeddings, labels = embeddings_of(parts.learner, store, parts.normalize, parts.hardware, progress=True)
        if cfg.retrieval:
            results.add_retrieval(retrieval(embeddings, labels, distance=make(cfg.distance)), store)
        if cfg.clustering:
            groups = from_first(functools.partial(clustering, embeddings, labels, n_init=1))
            spread = groups, density(embeddings, labels), spectral_decay(embeddings)
            results.add_spread(*spread, store)
        if cfg.audit:
            exact = dataclasses.replace(parts.hardware, dtype=torch.float32)
            predict, _ = episode_predictor(parts.learner, store, parts.normalize, exact, cached=False)
            with torch.inference_mode():
                changes = audit(predict, episodes)
            metrics[f"{store.split}/audit"] = changes
            notes.append(verdict(changes, parts.learner.capabilities.transductive))
    print(f"{results.protocol}\n\n{results}")
    print("".join(f"\n{note}" for note in notes), end="\n" if notes else "")
    written = Run(Path(cfg.run)).write_evaluation(metrics | results.record, overrides)
    print(f"\nThe numbers: {written}")


if __name__ == "__main__":
    command("evaluate", main, with_saved_parts, UNREAD, joined)
