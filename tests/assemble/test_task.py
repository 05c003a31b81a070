"""From a task's configuration to its images and episodes."""

import numpy as np
import pytest

from episodic.assemble.learner import build_parts
from episodic.assemble.task import build_sampler, check_task, count_train_classes, load_store
from episodic.config.compose import ConfigError, compose_config
from episodic.train.setup import build_procedure
from tests.configured import INCREMENTAL, REAL


@pytest.mark.parametrize("odd", ["task.n_way=[2,3]", "task.imbalanced=true", "task.n_unlabeled=1"])
def test_incremental_tasks_have_fixed_numbers(config, odd):
    cfg = config("learner=base_classifier", *INCREMENTAL)
    parts = build_parts(cfg)
    store = load_store(parts.dataset, cfg.task, "val")
    cfg = config("learner=base_classifier", *INCREMENTAL, odd)
    with pytest.raises(ConfigError, match="an incremental task has fixed numbers"):
        build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream="val", episodes=20)


def test_with_folds_validation_classes_are_for_test_where_there_are_no_others(config, monkeypatch, capsys):
    cfg = config("task.fold=0", "task.folds=4")
    dataset = build_parts(cfg).dataset
    found = {split: load_store(dataset, cfg.task, split) for split in ("train", "val", "test")}
    assert [len(store.class_names) for store in found.values()] == [12, 4, 5]
    assert (found["test"].split, found["test"].split_name) == ("test", dataset.split_name)
    real = type(dataset).store

    def without_test(self, split):
        if split == "test":
            raise FileNotFoundError("no test classes")
        return real(self, split)

    monkeypatch.setattr(type(dataset), "store", without_test)
    store = load_store(dataset, cfg.task, "test")
    assert store.class_names == dataset.store("val").class_names
    assert (store.split, store.split_name) == ("test", f"{dataset.split_name}, val")
    assert "using its val classes" in capsys.readouterr().out


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("task", "base", "novel", "images"),
    [("omniglot_incremental_5w1s", 1028, 172, 4), ("miniimagenet_incremental_5w5s", 64, 16, 60)],
)
def test_incremental_tasks_of_real_data(task, base, novel, images):
    if not (REAL / task.split("_")[0]).is_dir():
        pytest.skip(f"needs {task.split('_')[0]} in ../shared/data")
    cfg = compose_config("train", ["learner=base_classifier", f"task={task}", f"data_dir={REAL}"])
    count_train_classes(cfg)
    assert cfg.task.train_classes == base
    parts = build_parts(cfg)
    store = load_store(parts.dataset, cfg.task, "val")
    assert (store.n_base, len(store.class_names)) == (base, base + novel)
    assert np.bincount(store.labels)[:base].tolist() == [images] * base
    indices = build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream="val", episodes=600)[0:600]
    assert indices.query.shape == (600, 25 + 25)
    assert indices.n_base == base
    assert build_procedure(cfg, parts).source.batch(0).query.shape == (1, 25 + 25)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("task", "labeled", "of", "query", "most"), [("omniglot", 2, 20, 14, 5), ("miniimagenet", 240, 600, 20, 20)]
)
def test_semi_supervised_tasks_of_real_data(task, labeled, of, query, most):
    """Ren et al.: queries and support from the labeled part, in training; 5 distractor classes; nothing twice."""
    if not (REAL / task).is_dir():
        pytest.skip(f"needs {task} in ../shared/data")
    options = [
        f"task={task}_semi_5w1s",
        f"data_dir={REAL}",
        "semi=soft_kmeans",
        "task.n_distractors=5",
        "trainer.steps=1000",
    ]
    cfg = compose_config("train", options)
    parts = build_parts(cfg)
    training = build_procedure(cfg, parts)
    labels = training.setup.store.labels.numpy()
    drawn = training.source[0:1000]
    kept = np.unique(np.concatenate([drawn.support, drawn.query], axis=1))
    assert np.bincount(labels[kept]).max() <= labeled
    assert not np.isin(drawn.unlabeled, kept).any()
    test = load_store(parts.dataset, cfg.task, "val")
    tested = build_sampler(cfg.task, test, shape=cfg.task, seed=0, stream="test", episodes=1000)[0:1000]
    for indices, names, n_query, n_unlabeled in (
        (drawn, labels, cfg.task.train.n_query, 5),
        (tested, test.labels.numpy(), query, most),
    ):
        assert indices.query.shape == (1000, 5 * n_query)
        assert indices.unlabeled.shape == (1000, 10 * n_unlabeled)
        assert ((indices.unlabeled_y == -1).sum(1) == 5 * n_unlabeled).all()
        every = np.sort(np.concatenate([indices.support, indices.query, indices.unlabeled], axis=1), axis=1)
        assert (np.diff(every, axis=1) > 0).all(), "support, query and unlabeled items are disjoint"
        own = np.take_along_axis(indices.class_ids, indices.unlabeled_y.clip(0), 1)
        from_task = (names[indices.unlabeled][..., None] == indices.class_ids[:, None]).any(-1)
        assert (from_task == (indices.unlabeled_y >= 0)).all()
        assert (names[indices.unlabeled] == own)[from_task].all()
    other = compose_config("train", [*options, "task.labeled_seed=1"])
    again = build_procedure(other, parts).source[0:1000]
    assert np.setdiff1d(again.support, kept).size > 0, "another split labels other images"


@pytest.mark.parametrize(("name", "value"), [("image_size", 32), ("channels", 3)])
def test_a_data_set_of_another_form_than_the_task_is_refused(config, name, value):
    cfg = config(f"task.dataset.{name}={value}")
    with pytest.raises(
        ConfigError, match=rf"task\.dataset\.{name}={value}, but the task has .*: set task\.{name} alone"
    ):
        check_task(cfg.task)


def test_the_size_of_images_and_the_shape_of_episodes_are_said_once(config):
    cfg = compose_config("train", ["task=cub_5w1s", "task.image_size=32", "task.n_shot=7"])
    assert cfg.task.dataset.image_size == 32
    assert (cfg.task.train.n_way, cfg.task.train.n_shot) == (20, 7)
