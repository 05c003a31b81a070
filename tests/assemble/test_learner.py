"""From a configuration to a learner; what does not go together is refused."""

import dataclasses

import pytest
import torch

from episodic.assemble.learner import build_label_swap, build_parts
from episodic.config.compose import ConfigError
from tests.configured import INCREMENTAL, UNLABELED


def test_wrappers_of_embeddings_refuse_a_learner_without(config):
    pytest.importorskip("learn2learn")
    with pytest.raises(ValueError, match="semi=soft_kmeans works on embeddings, but MAML has none"):
        build_parts(config("semi=soft_kmeans", "learner=maml", *UNLABELED))


def test_learners_that_know_no_base_classes_refuse_an_incremental_task(config):
    with pytest.raises(ConfigError, match="Prototypical answers with the classes of the episode only"):
        build_parts(config(*INCREMENTAL))


def test_a_seed_below_0_is_refused_by_its_name(config):
    with pytest.raises(ConfigError, match="seed must be at least 0, got -1"):
        build_parts(config("seed=-1"))


@pytest.mark.parametrize("learner", ["base_classifier", "cross_attention", "attention_attractor"])
def test_learners_with_a_table_are_given_the_exchange_of_its_rows(config, learner):
    cfg = config(f"learner={learner}", "sse=se", "sse.probability=0.4")
    built = build_parts(cfg).learner
    assert (built.label_swap.n_rows, built.label_swap.probability) == (cfg.task.train_classes, 0.4)


def test_rows_are_exchanged_along_the_graph_of_super_classes_or_of_a_file(config, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"has no super-classes, .* sse\.edges=<file>, or take sse=se"):
        build_parts(config("learner=base_classifier", "sse=graph"))
    cfg = config("sse=graph")
    parts = build_parts(config())
    threes = torch.arange(cfg.task.train_classes) // 3
    names = tuple(f"group {i}" for i in range(threes.max() + 1))
    store = dataclasses.replace(parts.dataset.store("train"), super_classes=threes, super_class_names=names)
    monkeypatch.setattr(parts.dataset, "store", lambda split: store)
    graph = build_label_swap(cfg, parts.dataset)
    assert graph.degrees[:3].tolist() == [2, 2, 2]
    names = store.class_names
    (tmp_path / "edges.csv").write_text(f"{names[4]},{names[0]}\n{names[0]},{names[9]}\n")
    graph = build_label_swap(config("sse=graph", f"sse.edges={tmp_path}/edges.csv"), parts.dataset)
    assert torch.where(graph.degrees)[0].tolist() == [0, 4, 9]
