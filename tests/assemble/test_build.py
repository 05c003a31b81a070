"""From configuration to objects: every learner trains and answers, and what does not go together is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from episodic.assemble.build import build_training, with_losses
from episodic.assemble.learner import build_label_swap, build_parts
from episodic.assemble.load import load_parts, load_start, with_saved_parts
from episodic.assemble.task import build_sampler, count_train_classes, episode_shape, load_store
from episodic.config.compose import ConfigError, compose_config, conf_dir
from episodic.core.losses.memory.xbm import XBM
from episodic.core.losses.proxy_anchor import ProxyAnchor
from episodic.data.labels.fraction import labeled_mask
from episodic.data.labels.held_out import held_out_masks
from episodic.evaluate.scoring import evaluate
from episodic.run.checkpoint import CheckpointError
from episodic.run.run import Run
from episodic.semi.mean_teacher import MeanTeacher
from episodic.semi.wrapper import unwrapped

REAL = Path(__file__).parents[1] / ".." / "shared" / "data"
LEARNERS = sorted(path.stem for path in (conf_dir() / "learner").glob("[!_]*.yaml"))
INCREMENTAL = ["task.base_way=4", "task.base_query=1", "task.held_out=0.5"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """25 classes of 8 noisy copies of a pattern: 16 to train, 4 for validation, 5 for test."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for c in range(25):
        pattern = random.uniform(60, 200, size=(16, 16))
        (folder / f"class{c:02}").mkdir()
        for i in range(8):
            pixels = (pattern + random.normal(0, 40, size=(16, 16))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{c:02}" / f"{i}.png")
    return folder


@pytest.fixture
def config(pictures, monkeypatch):
    """A small configuration with the options given."""
    monkeypatch.setenv("EPISODIC_CACHE", str(pictures.with_name("cache")))

    def compose(*options):
        size = ["channels=1", "image_size=16", "dataset.channels=1", "dataset.image_size=16", "n_way=3", "n_query=2"]
        size += ["train.n_way=3", "train.n_query=2", f"dataset.path={pictures}"]
        fixed = [
            "task=folder_5w1s",
            *(f"task.{s}" for s in size),
            "backbone.widths=[8,8]",
            "augment=none",
            "device=cpu",
        ]
        cfg = compose_config("train", [*fixed, "trainer.steps=2", "trainer.episodes_per_step=2", *options])
        count_train_classes(cfg)
        return cfg

    return compose


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_trains_and_answers_by_its_name(config, learner):
    if learner in ("maml", "anil"):
        pytest.importorskip("learn2learn")
    cfg = config(f"learner={learner}")
    parts = build_parts(cfg)
    training = build_training(cfg, parts)
    before = {name: value.clone() for name, value in parts.learner.named_parameters()}
    loss, accuracy = training.advance()
    assert loss.isfinite()
    assert 0 <= accuracy <= 1
    assert any(not torch.equal(before[name], value) for name, value in parts.learner.named_parameters())
    store = load_store(parts.dataset, cfg.task, "val")
    episodes = build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream="val", episodes=20)
    result = evaluate(parts.learner, store, episodes, parts.normalize, parts.hardware)
    assert result.accuracies.shape == (20,)
    assert result.details == {}


WRAPPERS = sorted(path.stem for path in (conf_dir() / "semi").glob("[!_]*.yaml") if path.stem != "pseudo_labels")
UNLABELED = [
    "task.n_unlabeled=2",
    "task.n_distractors=1",
    "task.labeled_fraction=0.5",
    "task.n_query=1",
    "task.train.n_query=1",
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_trains_and_answers_by_its_name(config, wrapper):
    cfg = config(f"semi={wrapper}", *UNLABELED)
    parts = build_parts(cfg)
    training = build_training(cfg, parts)
    drawn = training.sampler[0:4]
    mask = labeled_mask(training.store.labels.numpy(), 0.5, seed=0)
    assert mask[drawn.support].all()
    assert mask[drawn.query].all()
    assert not mask[drawn.unlabeled].any()
    loss, accuracy = training.advance()
    assert loss.isfinite()
    assert 0 <= accuracy <= 1
    store = load_store(parts.dataset, cfg.task, "test")
    episodes = build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream="test", episodes=20)
    cached = evaluate(parts.learner, store, episodes, parts.normalize, parts.hardware)
    plain = evaluate(parts.learner, store, episodes, parts.normalize, parts.hardware, cached=False)
    assert np.abs(cached.accuracies - plain.accuracies).mean() < 0.05  # bf16 in batches of another size
    measured = {"unlabeled accuracy", "unlabeled purity"} if wrapper not in ("supervised", "mean_teacher") else set()
    assert set(cached.details) == measured


def test_wrappers_stack_where_that_makes_sense(config):
    cfg = config("semi=[soft_kmeans,mean_teacher]", *UNLABELED)
    parts = build_parts(cfg)
    assert [type(layer).__name__ for layer in unwrapped(parts.learner)] == [
        "MetricMeanTeacher",
        "SoftKMeans",
        "Prototypical",
    ]
    assert build_training(cfg, parts).advance()[0].isfinite()
    cfg = config("semi=[mean_teacher,soft_kmeans]", *UNLABELED)
    with pytest.raises(ConfigError, match=r"in training it comes last: semi=\[...,mean_teacher\]"):
        build_training(cfg, build_parts(cfg))
    for semi in ("[masked_soft_kmeans,soft_kmeans]", "[masked_soft_kmeans,mean_teacher,soft_kmeans]"):
        with pytest.raises(
            ValueError, match="semi=soft_kmeans cannot go around MaskedSoftKMeans: unlabeled items are used"
        ):
            build_parts(config(f"semi={semi}", *UNLABELED))


def test_wrappers_of_embeddings_refuse_a_learner_without(config):
    pytest.importorskip("learn2learn")
    with pytest.raises(ValueError, match="semi=soft_kmeans works on embeddings, but MAML has none"):
        build_parts(config("semi=soft_kmeans", "learner=maml", *UNLABELED))


@pytest.mark.parametrize("learner", ["base_classifier", "attention_attractor"])
def test_incremental_tasks_hold_images_of_the_base_classes_out(config, learner):
    cfg = config(f"learner={learner}", *INCREMENTAL)
    parts = build_parts(cfg)
    training = build_training(cfg, parts)
    assert training.advance()[0].isfinite()
    stores = {split: load_store(parts.dataset, cfg.task, split) for split in ("val", "test")}
    names = {split: set(store.item_names[: 16 * 2]) for split, store in stores.items()}
    drawn = training.sampler[0:4]
    seen = {training.store.item_names[i] for i in np.concatenate([drawn.support, drawn.query], axis=1).reshape(-1)}
    assert not names["val"] & names["test"]
    assert not seen & (names["val"] | names["test"])
    for store in stores.values():
        assert store.n_base == 16
        episodes = build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream="test", episodes=20)
        result = evaluate(parts.learner, store, episodes, parts.normalize, parts.hardware)
        assert result.details["base alone"].shape == (20,)
    assert episode_shape(cfg.task)["base_way"] == 4


def test_learners_that_know_no_base_classes_refuse_an_incremental_task(config):
    with pytest.raises(ConfigError, match="Prototypical answers with the classes of the episode only"):
        build_parts(config(*INCREMENTAL))


@pytest.mark.parametrize("odd", ["task.n_way=[2,3]", "task.imbalanced=true", "task.n_unlabeled=1"])
def test_incremental_tasks_have_fixed_numbers(config, odd):
    cfg = config("learner=base_classifier", *INCREMENTAL)
    parts = build_parts(cfg)
    store = load_store(parts.dataset, cfg.task, "val")
    cfg = config("learner=base_classifier", *INCREMENTAL, odd)
    with pytest.raises(ConfigError, match="an incremental task has fixed numbers"):
        build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream="val", episodes=20)


def saved(folder, cfg, teacher=1.0):
    """A run in `folder` with weights of its own; `teacher`: what is added to those of a mean teacher, 1 to others."""
    learner, run = build_parts(cfg).learner, Run(folder)
    folder.mkdir(exist_ok=True)
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            parameter.add_(teacher if name.startswith("teacher.") else 1.0)
    run.save("best", learner, torch.optim.SGD(learner.parameters()), {"step": 1})
    folder.joinpath("config.yaml").write_text(OmegaConf.to_yaml(cfg))
    return learner


def test_a_start_gives_what_fits_by_name_and_shape(config, tmp_path):
    first = saved(tmp_path, config("learner=base_classifier"))
    cfg = config("learner=attention_attractor", f"init_from={tmp_path}")
    learner = build_parts(cfg).learner
    untouched = learner.linear.shift.clone()
    said = load_start(cfg, learner)
    weights = {name: value for name, value in learner.state_dict().items() if name.startswith(("backbone", "base."))}
    assert said == f"{len(weights)} of {len(learner.state_dict())} tensors from {tmp_path}"
    for name, value in weights.items():
        assert torch.equal(value, first.state_dict()[name]), name
    assert torch.equal(learner.linear.shift, untouched)


def test_a_start_of_another_backbone_or_none_where_one_is_needed_is_refused(config, tmp_path):
    saved(tmp_path, config("learner=base_classifier"))
    cfg = config("backbone.widths=[8,4]", f"init_from={tmp_path}")
    with pytest.raises(ConfigError, match=r"does not fit: backbone\.blocks\.1\.0\.weight is not there"):
        load_start(cfg, build_parts(cfg).learner)
    cfg = config("learner=attention_attractor")
    with pytest.raises(ConfigError, match=r"AttentionAttractor goes on .* learner=base_classifier .* then init_from="):
        load_start(cfg, build_parts(cfg).learner)
    cfg = config()
    assert load_start(cfg, build_parts(cfg).learner) == ""


def test_what_stays_frozen_must_come_from_the_start(config, tmp_path):
    saved(tmp_path, config("learner=prototypical"))
    cfg = config("learner=attention_attractor", f"init_from={tmp_path}")
    with pytest.raises(ConfigError, match=r"does not fit: base\.weight is not there .* wanted: .*base_classifier"):
        load_start(cfg, build_parts(cfg).learner)


def test_a_start_that_was_trained_on_the_images_held_out_is_refused(config, tmp_path):
    saved(tmp_path, config("learner=base_classifier"))
    cfg = config("learner=attention_attractor", f"init_from={tmp_path}", *INCREMENTAL)
    with pytest.raises(
        ConfigError, match=r"was trained with held_out=0\.0 on Folder; this incremental task holds 0\.5"
    ):
        load_start(cfg, build_parts(cfg).learner)


def test_a_start_that_was_trained_on_the_fold_is_refused(config, tmp_path):
    saved(tmp_path, config("learner=prototypical", "task.fold=1"))
    cfg = config("task.fold=1", f"init_from={tmp_path}")
    assert load_start(cfg, build_parts(cfg).learner)
    for other in ("task.fold=0", "task.folds=3"):
        cfg = config("task.fold=1", other, f"init_from={tmp_path}")
        with pytest.raises(ConfigError, match=r"was trained on classes of task\.fold=[01], which are for validation"):
            load_start(cfg, build_parts(cfg).learner)


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
    assert build_training(cfg, parts).sampler.batch(0).query.shape == (1, 25 + 25)


def test_a_run_is_evaluated_in_other_wrappers_than_it_was_trained_in(config, tmp_path):
    """The supervised run of soft k-means' baseline, the student of a mean teacher, and k-means around the teacher."""

    def loaded(run, *options):
        cfg = compose_config("evaluate", with_saved_parts([f"run={run}", "device=cpu", "episodes=5", *options]))
        return load_parts(cfg, str(run)).learner

    plain, taught = tmp_path / "plain", tmp_path / "taught"
    backbone = saved(plain, config(*UNLABELED)).backbone.state_dict()
    teacher = saved(taught, config("semi=mean_teacher", *UNLABELED), teacher=2.0)
    as_trained = loaded(taught)
    assert isinstance(as_trained, MeanTeacher)
    around = loaded(taught, "semi=[saved,soft_kmeans]").eval()
    for found, expected in (
        (loaded(plain, "semi=soft_kmeans").backbone, backbone),
        (loaded(taught, "semi=supervised").backbone, teacher.learner.backbone.state_dict()),
        (as_trained.teacher.backbone, teacher.teacher.backbone.state_dict()),
        (around.backbone, teacher.teacher.backbone.state_dict()),
    ):
        assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
    with pytest.raises(CheckpointError, match=r"best has no weights for mask\.0\.bias, .* must be trained"):
        loaded(plain, "semi=masked_soft_kmeans")
    with pytest.raises(CheckpointError, match=r"best has no weights for steps, teacher\."):
        loaded(plain, "semi=mean_teacher")
    weighted = saved(tmp_path / "weighted", config("semi=self_training", *UNLABELED))
    without = loaded(tmp_path / "weighted", "semi.self_training.weighting=false")
    assert without.weighting is None
    assert all(
        torch.equal(v, without.state_dict()[n]) for n, v in weighted.state_dict().items() if "weighting" not in n
    )


def test_a_start_fits_whatever_wraps_it(config, tmp_path):
    first = saved(tmp_path, config("semi=mean_teacher", *UNLABELED))
    cfg = config("semi=[masked_soft_kmeans,mean_teacher]", f"init_from={tmp_path}", *UNLABELED)
    learner = build_parts(cfg).learner
    load_start(cfg, learner)
    student = first.learner.backbone.state_dict()
    assert all(torch.equal(v, student[n]) for n, v in learner.learner.learner.backbone.state_dict().items())


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("task", "labeled", "of", "query", "most"), [("omniglot", 2, 20, 14, 5), ("miniimagenet", 240, 600, 20, 20)]
)
def test_semi_supervised_tasks_of_real_data(task, labeled, of, query, most):
    """Ren et al.: queries and support from the labeled part, in training; 5 distractor classes; nothing twice."""
    if not (REAL / task).is_dir():
        pytest.skip(f"needs {task} in ../shared/data")
    options = [f"task={task}_semi_5w1s", f"data_dir={REAL}", "semi=soft_kmeans", "task.n_distractors=5"]
    cfg = compose_config("train", options)
    parts = build_parts(cfg)
    training = build_training(cfg, parts)
    labels = training.store.labels.numpy()
    drawn = training.sampler[0:1000]
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
    again = build_training(other, parts).sampler[0:1000]
    assert np.setdiff1d(again.support, kept).size > 0, "another split labels other images"


FEW = [
    "learner=base_classifier",
    *INCREMENTAL,
    "task.labeled_fraction=0.5",
    "task.train.n_way=3",
    "task.train.n_query=1",
]


def test_labels_are_hidden_among_the_images_that_an_incremental_task_trains_on(config):
    cfg = config(*FEW)
    training = build_training(cfg, build_parts(cfg))
    labels = training.store.labels.numpy()
    seen = held_out_masks(labels, 0.5)["train"]
    labeled = seen.copy()
    labeled[seen] = labeled_mask(labels[seen], 0.5, seed=0)
    assert np.bincount(labels[labeled]).tolist() == [2] * 16
    drawn = training.sampler[0:2]
    assert labeled[np.concatenate([drawn.support, drawn.query], axis=1)].all()
    pseudo = config(*FEW, "semi=pseudo_labels")
    training = build_training(pseudo, build_parts(pseudo))
    assert np.array_equal(training.seen, seen)
    assert np.array_equal(training.labeled, labeled)
    assert training.learner.labels.shape == (64,)
    assert (training.learner.labels >= 0).sum() == 32
    assert training.advance()[0].isfinite()


def test_pseudo_labels_take_one_learner_and_no_wrapper_around_them(config):
    with pytest.raises(ValueError, match="takes learner=base_classifier, got Prototypical"):
        build_parts(config("semi=pseudo_labels", "task.labeled_fraction=0.5"))
    cfg = config("learner=base_classifier", "semi=[pseudo_labels,mean_teacher]", *UNLABELED)
    with pytest.raises(ConfigError, match="without another wrapper around it"):
        build_training(cfg, build_parts(cfg))
    cfg = config("learner=base_classifier", "semi=pseudo_labels")
    with pytest.raises(ValueError, match=r"task\.labeled_fraction must leave"):
        build_training(cfg, build_parts(cfg))
    cfg = config(*FEW, "semi=pseudo_labels")
    with pytest.raises(ConfigError, match=r"PseudoLabels goes on .* learner=base_classifier .* then init_from="):
        load_start(cfg, build_parts(cfg).learner)


@pytest.mark.parametrize(
    ("first", "fine"),
    [
        ("task.labeled_fraction=0.5", True),
        ("task.labeled_fraction=0.25", True),
        ("task.labeled_fraction=0.75", False),
        ("task.labeled_seed=1", False),
    ],
)
def test_a_start_that_saw_labels_which_are_hidden_now_is_refused(config, tmp_path, first, fine):
    saved(tmp_path, config(*FEW, first))
    cfg = config(*FEW, "semi=pseudo_labels", f"init_from={tmp_path}")
    learner = build_parts(cfg).learner
    if fine:
        assert f"tensors from {tmp_path}" in load_start(cfg, learner)
    else:
        with pytest.raises(ConfigError, match=r"this task, with 0\.5 and 0, hides some of its labels"):
            load_start(cfg, learner)


@pytest.mark.realdata
def test_two_drawings_in_twelve_are_labeled():
    if not (REAL / "omniglot").is_dir():
        pytest.skip("needs omniglot in ../shared/data")
    cfg = compose_config("train", ["experiment=pseudo_labels_omniglot", f"data_dir={REAL}"])
    count_train_classes(cfg)
    training = build_training(cfg, build_parts(cfg))
    labels = training.store.labels.numpy()
    assert np.bincount(labels[training.seen]).tolist() == [12] * 1028
    assert np.bincount(labels[training.labeled]).tolist() == [2] * 1028


LOSSES = sorted(path.stem for path in (conf_dir() / "loss").glob("*.yaml"))


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "cross_entropy"])
def test_every_loss_trains_on_batches_by_its_name_and_beside_an_episodes_own(config, loss):
    for options in (
        (f"loss={loss}", "trainer=dml", "trainer.classes_per_batch=3", "trainer.images_per_class=4", "trainer.steps=2"),
        (f"loss=[cross_entropy,{loss}]", f"loss.{loss}.weight=0.5"),
    ):
        cfg = config(*options)
        training = build_training(cfg, build_parts(cfg))
        assert training.learner.weights[loss] == cfg.loss[loss].weight
        before = {name: value.clone() for name, value in training.learner.named_parameters()}
        losses = [training.advance()[0] for _ in range(2)]
        assert torch.stack(losses).isfinite().all()
        assert all((value != before[name]).any() for name, value in training.learner.named_parameters())


def test_the_memory_wraps_losses_of_pairs_and_rows_are_exchanged_along_a_graph(config, monkeypatch, tmp_path):
    cfg = config("loss=[circle,proxy_anchor]", "memory=xbm", "memory.size=7", "sse=se", "sse.probability=0.2")
    learner = with_losses(cfg, (parts := build_parts(cfg)).learner, parts.dataset)
    assert (type(learner.losses["circle"]), learner.losses["circle"].size) == (XBM, 7)
    assert type(learner.losses["proxy_anchor"]) is ProxyAnchor
    label_swap = learner.losses["proxy_anchor"].label_swap
    assert (label_swap.n_rows, label_swap.probability) == (cfg.task.train_classes, 0.2)
    assert learner.rates == {"proxy_anchor": cfg.loss.proxy_anchor.rate}
    with pytest.raises(ConfigError, match=r"has no super-classes, .* sse\.edges=<file>, or take sse=se"):
        build_parts(config("learner=base_classifier", "sse=graph"))
    store = dataclasses.replace(parts.dataset.store("train"), super_classes=torch.arange(cfg.task.train_classes) // 3)
    monkeypatch.setattr(parts.dataset, "store", lambda split: store)
    graph = build_label_swap(config("sse=graph"), parts.dataset)
    assert graph.degrees[:3].tolist() == [2, 2, 2]
    names = parts.dataset.store("train").class_names
    (tmp_path / "edges.csv").write_text(f"{names[4]},{names[0]}\n{names[0]},{names[9]}\n")
    graph = build_label_swap(config("sse=graph", f"sse.edges={tmp_path}/edges.csv"), parts.dataset)
    assert torch.where(graph.degrees)[0].tolist() == [0, 4, 9]


@pytest.mark.parametrize("learner", ["base_classifier", "cross_attention", "attention_attractor"])
def test_learners_with_a_table_are_given_the_exchange_of_its_rows(config, learner):
    cfg = config(f"learner={learner}", "sse=se", "sse.probability=0.4")
    built = build_parts(cfg).learner
    assert (built.label_swap.n_rows, built.exchange.probability) == (cfg.task.train_classes, 0.4)


def test_batches_need_a_loss_of_embeddings(config):
    few = ("trainer=dml", "trainer.classes_per_batch=3", "trainer.sampler=schem", "task.labeled_fraction=0.5")
    cfg = config(*few, "loss=schem", "task.n_unlabeled=1")
    with pytest.raises(ConfigError, match="none may be held out or unlabeled"):
        build_training(cfg, build_parts(cfg))
    cfg = config("trainer=dml", "trainer.classes_per_batch=3")
    with pytest.raises(ConfigError, match="trainer=dml trains by losses of embeddings: choose one"):
        build_training(cfg, build_parts(cfg))


def test_a_run_with_a_downloaded_backbone_is_evaluated_without_downloading(config, tmp_path, monkeypatch):
    cfg = config()
    cfg.backbone = compose_config("train", ["backbone=pretrained", "backbone.name=resnet18"]).backbone
    cfg.backbone.weights = None
    learner = saved(tmp_path, cfg)
    stored = tmp_path / "config.yaml"
    stored.write_text(stored.read_text().replace("weights: null", "weights: default"))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: pytest.fail("downloaded"))
    options = with_saved_parts([f"run={tmp_path}", "device=cpu", "episodes=5"])
    found = load_parts(compose_config("evaluate", options), str(tmp_path)).learner
    assert all(torch.equal(value, learner.state_dict()[name]) for name, value in found.state_dict().items())


def test_weights_fit_with_any_head_on_the_backbone(config, tmp_path):
    headed, plain = tmp_path / "headed", tmp_path / "plain"
    with_head = saved(headed, config("head=linear", "head.embedding_dim=5")).backbone
    assert with_head.shape == (5,)
    without = saved(plain, config()).backbone
    for start, options, expected in (
        (headed, (), with_head.body),
        (headed, ("head=linear", "head.embedding_dim=7"), with_head.body),
        (plain, ("head=linear",), without),
    ):
        cfg = config(*options, f"init_from={start}")
        learner = build_parts(cfg).learner
        load_start(cfg, learner)
        found = learner.backbone.body if options else learner.backbone
        assert all(torch.equal(value, expected.state_dict()[name]) for name, value in found.state_dict().items())
    options = with_saved_parts([f"run={headed}", "device=cpu", "episodes=5"])
    again = load_parts(compose_config("evaluate", options), str(headed)).learner.backbone
    assert torch.equal(again.head.weight, with_head.head.weight)
