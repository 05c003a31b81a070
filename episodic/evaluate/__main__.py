"""`python -m episodic.evaluate run=<dir> [task=...] [learner.<setting>=...] [split=test] [against=<dir>] [audit=true]`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from episodic.assemble.task import episode_shape, is_incremental, load_store
from episodic.config.command import command
from episodic.config.compose import ConfigError
from episodic.data.dataset import SPLITS
from episodic.evaluate.audit import audit
from episodic.evaluate.clustering import clustering
from episodic.evaluate.intervals import paired_interval
from episodic.evaluate.manifest import write_manifest
from episodic.evaluate.retrieval import retrieval
from episodic.evaluate.scoring import evaluate, predictor
from episodic.evaluate.spread import density, spectral_decay
from episodic.evaluate.tables import (
    DETAIL_HEADER,
    RETRIEVAL_HEADER,
    SCORE_HEADER,
    SPREAD_HEADER,
    detail_rows,
    percent,
    record,
    retrieval_record,
    retrieval_row,
    score_row,
    spread_record,
    spread_row,
    table,
)
from episodic.run.embed import embeddings_of
from episodic.run.run import Run


def main(cfg: DictConfig) -> None:
    """Score a run, and where `against` names another, compare both on the same episodes."""
    parts = load_parts(cfg, cfg.run)
    rival = load_parts(cfg, cfg.against, as_saved=True) if cfg.against else None
    wanted = SPLITS[1:] if cfg.split == "all" else (cfg.split,)
    stores = {store.split: store for store in (load_store(parts.dataset, cfg.task, split) for split in wanted)}
    if cfg.save_episodes and len(stores) > 1:
        raise ConfigError("save_episodes writes the episodes of one split; split=all has several")
    if is_incremental(cfg.task) and (cfg.save_episodes or not isinstance(cfg.episodes, int)):
        raise ConfigError("a manifest cannot hold incremental episodes; they are the same for everyone by their seed")
    shape = episode_shape(cfg.task)
    details: list[list[str]] = []
    metrics = {"run": str(cfg.run), "seed": cfg.seed, "hardware": parts.hardware.describe()}
    metrics |= {part: OmegaConf.to_container(cfg[part], resolve=True) for part in ("learner", "semi")}
    rows, notes, found, clustered = [], [], [], []
    for store in stores.values():
        episodes = episodes_of(cfg, store)
        if cfg.save_episodes:
            write_manifest(Path(cfg.save_episodes), episodes, store)
            notes.append(
                f"Episodes written to {cfg.save_episodes}; score them anywhere with episodes={cfg.save_episodes}."
            )
        ours = evaluate(parts.learner, store, episodes, parts.normalize, parts.hardware, progress=True)
        metrics |= record(ours, store, shape)
        rows.append(score_row(ours, store))
        details += detail_rows(ours, store)
        if rival:
            theirs = evaluate(rival.learner, store, episodes, rival.normalize, rival.hardware, progress=True)
            difference = paired_interval(ours.accuracies, theirs.accuracies)
            rows.append(["  against", *score_row(theirs, store)[1:]])
            details += detail_rows(ours, store, theirs)
            rows.append(["  difference", "", "same episodes", percent(difference), "", ""])
            metrics[f"{store.split}/difference"] = difference.mean
            metrics[f"{store.split}/difference_ci95"] = difference.half_width
        if cfg.retrieval or cfg.clustering:
            embeddings, labels = embeddings_of(parts.learner, store, parts.normalize, parts.hardware, progress=True)
        if cfg.retrieval:
            retrieved = retrieval(embeddings, labels)
            metrics |= retrieval_record(retrieved, store)
            found.append(retrieval_row(retrieved, store))
        if cfg.clustering:
            spread = clustering(embeddings, labels, n_init=1), density(embeddings, labels), spectral_decay(embeddings)
            metrics |= spread_record(*spread, store)
            clustered.append(spread_row(*spread, store))
        if cfg.audit:
            exact = dataclasses.replace(parts.hardware, dtype=torch.float32)
            predict, _ = predictor(parts.learner, store, parts.normalize, exact, cached=False)
            with torch.inference_mode():
                changes = audit(predict, episodes)
            metrics[f"{store.split}/audit"] = changes
            notes.append(_verdict(changes, parts.learner.transductive))
    print(f"{metrics[f'{store.split}/protocol']}\n")
    print(table(SCORE_HEADER, rows))
    if details:
        print("\n" + table(DETAIL_HEADER, details))
    if found:
        print("\n" + table(RETRIEVAL_HEADER, found))
    if clustered:
        print("\n" + table(SPREAD_HEADER, clustered))
    print("".join(f"\n{note}" for note in notes), end="\n" if notes else "")
    Run(Path(cfg.run)).write_metrics(metrics, "evaluation.json")


def _verdict(changes: dict[str, float], declared: bool) -> str:
    shown = ", ".join(f"{name}: {change:.1e}" for name, change in changes.items())
    tolerance = 1e-3  # of float32 rounding, which changes with the shape of a batch, a hundred times as much
    sees_queries = max(changes["queries permuted"], changes["one query at a time"]) > tolerance
    kind = "transductive" if sees_queries else "inductive"
    warning = f" It declares itself {'transductive' if declared else 'inductive'}." if sees_queries != declared else ""
    if changes["classes relabelled"] > tolerance:
        warning += " Its answer depends on how the classes are numbered."
    if changes["unlabeled permuted"] > tolerance:
        warning += " Its answer depends on the order of the unlabeled items."
    return f"Audit: {kind} (largest relative change of a log-probability; {shown}).{warning}"


if __name__ == "__main__":
    command("evaluate", main, with_saved_parts)
