"""Every learner, wrapper and loss trains and answers by its name; what does not go together is refused."""

import numpy as np
import pytest
import torch

from episodic.assemble.learner import build_parts
from episodic.assemble.load import load_initial
from episodic.assemble.task import build_sampler, count_train_classes, episode_shape, load_store
from episodic.config.compose import ConfigError, compose_config, conf_dir
from episodic.core.losses.memory.xbm import XBM
from episodic.core.losses.proxy_anchor import ProxyAnchor
from episodic.data.labels.fraction import labeled_mask
from episodic.data.labels.held_out import held_out_masks
from episodic.evaluate.scoring import evaluate
from episodic.semi.wrapper import unwrapped
from episodic.train.setup import build_objective, build_procedure, check_effects
from tests.configured import FEW, INCREMENTAL, REAL, UNLABELED

LEARNERS = sorted(path.stem for path in (conf_dir() / "learner").glob("[!_]*.yaml"))
WRAPPERS = sorted(path.stem for path in (conf_dir() / "semi").glob("[!_]*.yaml") if path.stem != "pseudo_labels")
LOSSES = sorted(path.stem for path in (conf_dir() / "loss").glob("*.yaml"))


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_trains_and_answers_by_its_name(config, learner):
    if learner in ("maml", "anil"):
        pytest.importorskip("learn2learn")
    cfg = config(f"learner={learner}")
    parts = build_parts(cfg)
    training = build_procedure(cfg, parts)
    before = {name: value.clone() for name, value in parts.learner.named_parameters()}
    loss, accuracy = training.training_step()
    assert loss.isfinite()
    assert 0 <= accuracy <= 1
    assert any(not torch.equal(before[name], value) for name, value in parts.learner.named_parameters())
    store = load_store(parts.dataset, cfg.task, "val")
    episodes = build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream="val", episodes=20)
    result = evaluate(parts.learner, store, episodes, parts.normalize, parts.hardware)
    assert result.accuracies.shape == (20,)
    assert result.details == {}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_trains_and_answers_by_its_name(config, wrapper):
    cfg = config(f"semi={wrapper}", *UNLABELED)
    parts = build_parts(cfg)
    training = build_procedure(cfg, parts)
    drawn = training.source[0:4]
    mask = labeled_mask(training.setup.store.labels.numpy(), 0.5, seed=0)
    assert mask[drawn.support].all()
    assert mask[drawn.query].all()
    assert not mask[drawn.unlabeled].any()
    loss, accuracy = training.training_step()
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
    assert build_procedure(cfg, parts).training_step()[0].isfinite()
    cfg = config("semi=[mean_teacher,soft_kmeans]", *UNLABELED)
    with pytest.raises(ConfigError, match=r"in training it comes last: semi=\[...,mean_teacher\]"):
        build_procedure(cfg, build_parts(cfg))
    for semi in ("[masked_soft_kmeans,soft_kmeans]", "[masked_soft_kmeans,mean_teacher,soft_kmeans]"):
        with pytest.raises(
            ValueError, match="semi=soft_kmeans cannot go around MaskedSoftKMeans: unlabeled items are used"
        ):
            build_parts(config(f"semi={semi}", *UNLABELED))


@pytest.mark.parametrize("learner", ["base_classifier", "attention_attractor"])
def test_incremental_tasks_hold_images_of_the_base_classes_out(config, learner):
    cfg = config(f"learner={learner}", *INCREMENTAL)
    parts = build_parts(cfg)
    training = build_procedure(cfg, parts)
    assert training.training_step()[0].isfinite()
    stores = {split: load_store(parts.dataset, cfg.task, split) for split in ("val", "test")}
    names = {split: set(store.item_names[: 16 * 2]) for split, store in stores.items()}
    drawn = training.source[0:4]
    seen = {
        training.setup.store.item_names[i] for i in np.concatenate([drawn.support, drawn.query], axis=1).reshape(-1)
    }
    assert not names["val"] & names["test"]
    assert not seen & (names["val"] | names["test"])
    for store in stores.values():
        assert store.n_base == 16
        episodes = build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream="test", episodes=20)
        result = evaluate(parts.learner, store, episodes, parts.normalize, parts.hardware)
        assert result.details["base alone"].shape == (20,)
    assert episode_shape(cfg.task)["base_way"] == 4


def test_labels_are_hidden_among_the_images_that_an_incremental_task_trains_on(config):
    cfg = config(*FEW)
    training = build_procedure(cfg, build_parts(cfg))
    labels = training.setup.store.labels.numpy()
    seen = held_out_masks(labels, 0.5)["train"]
    labeled = seen.copy()
    labeled[seen] = labeled_mask(labels[seen], 0.5, seed=0)
    assert np.bincount(labels[labeled]).tolist() == [2] * 16
    drawn = training.source[0:2]
    assert labeled[np.concatenate([drawn.support, drawn.query], axis=1)].all()
    pseudo = config(*FEW, "semi=pseudo_labels")
    training = build_procedure(pseudo, build_parts(pseudo))
    assert np.array_equal(training.setup.seen, seen)
    assert np.array_equal(training.setup.labeled, labeled)
    assert training.state.labels.shape == (64,)
    assert (training.state.labels >= 0).sum() == 32
    assert training.training_step()[0].isfinite()


def test_pseudo_labels_take_one_learner_and_no_wrapper_around_them(config):
    with pytest.raises(ValueError, match="takes learner=base_classifier, got Prototypical"):
        build_parts(config("semi=pseudo_labels", "task.labeled_fraction=0.5"))
    cfg = config("learner=base_classifier", "semi=[pseudo_labels,mean_teacher]", *UNLABELED)
    with pytest.raises(ConfigError, match="without another wrapper around it"):
        build_procedure(cfg, build_parts(cfg))
    cfg = config("learner=base_classifier", "semi=pseudo_labels")
    with pytest.raises(ValueError, match=r"task\.labeled_fraction must leave"):
        build_procedure(cfg, build_parts(cfg))
    cfg = config(*FEW, "semi=pseudo_labels")
    with pytest.raises(ConfigError, match=r"PseudoLabels goes on .* learner=base_classifier .* then init_from="):
        load_initial(cfg, build_parts(cfg).learner)


@pytest.mark.realdata
def test_two_drawings_in_twelve_are_labeled():
    if not (REAL / "omniglot").is_dir():
        pytest.skip("needs omniglot in ../shared/data")
    cfg = compose_config("train", ["experiment=pseudo_labels_omniglot", f"data_dir={REAL}"])
    count_train_classes(cfg)
    training = build_procedure(cfg, build_parts(cfg))
    labels = training.setup.store.labels.numpy()
    assert np.bincount(labels[training.setup.seen]).tolist() == [12] * 1028
    assert np.bincount(labels[training.setup.labeled]).tolist() == [2] * 1028


OTHER = [name for name in LOSSES if name != "cross_entropy"]
OWN_TRAINER = {"divide_and_conquer": "trainer=divide_and_conquer"}


@pytest.mark.parametrize("loss", OTHER)
def test_every_loss_trains_on_batches_by_its_name(config, loss):
    batches = (OWN_TRAINER.get(loss, "trainer=dml"), "trainer.classes_per_batch=3", "trainer.images_per_class=4")
    cfg = config(f"loss={loss}", *batches)
    weight, losses, moved = _two_steps(cfg, loss)
    assert weight == cfg.loss[loss].weight
    assert losses.isfinite().all()
    assert all(moved)


@pytest.mark.parametrize("loss", [name for name in OTHER if name not in OWN_TRAINER])
def test_every_loss_trains_beside_an_episodes_own(config, loss):
    weight, losses, moved = _two_steps(config(f"loss=[cross_entropy,{loss}]", f"loss.{loss}.weight=0.5"), loss)
    assert weight == 0.5
    assert losses.isfinite().all()
    assert all(moved)


def _two_steps(cfg, loss):
    """The weight of that loss, the losses of two steps, and whether each parameter moved."""
    training = build_procedure(cfg, build_parts(cfg))
    modules = (training.setup.learner, training.setup.objective)
    before = [value.clone() for module in modules for value in module.parameters()]
    losses = torch.stack([training.training_step()[0] for _ in range(2)])
    after = [value for module in modules for value in module.parameters()]
    moved = [bool((value != old).any()) for value, old in zip(after, before, strict=True)]
    return training.setup.objective.weights[loss], losses, moved


def test_the_memory_wraps_losses_of_pairs_and_tables_get_the_exchange(config):
    cfg = config("loss=[circle,proxy_anchor]", "memory=xbm", "memory.size=7", "sse=se", "sse.probability=0.2")
    parts = build_parts(cfg)
    objective = build_objective(cfg, parts.learner, parts.dataset)
    assert (type(objective.losses["circle"]), objective.losses["circle"].size) == (XBM, 7)
    assert type(objective.losses["proxy_anchor"]) is ProxyAnchor
    label_swap = objective.losses["proxy_anchor"].label_swap
    assert (label_swap.n_rows, label_swap.probability) == (cfg.task.train_classes, 0.2)
    assert objective.lr_multipliers == {"proxy_anchor": cfg.loss.proxy_anchor.lr_multiplier}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["memory=xbm"], "memory= shows past batches to losses of pairs, and cross_entropy is none"),
        (["memory=xbm", "loss=proxy_anchor"], "and proxy_anchor is none"),
        (
            ["memory=xbm", "memory.start=2", "loss=circle"],
            r"memory\.start=2 is not before the last of trainer\.steps=2",
        ),
        (
            ["sse=se"],
            "sse= exchanges rows of a table with a row for each training class, and nothing that is trained here has one",
        ),
        (["schedule=step"], r"schedule\.every=2000 is never reached"),
        (["semi=soft_kmeans"], "uses unlabeled items, and episodes of this task have none"),
        (["semi=mean_teacher"], "uses unlabeled items, and episodes of this task have none"),
        (["trainer=dml", "loss=[cross_entropy,circle]"], "cross_entropy is a learner's loss of episodes"),
        (["loss=divide_and_conquer"], "it needs trainer=divide_and_conquer"),
        (["semi=pseudo_labels", "learner=base_classifier", "loss=circle"], "has a loss of its own"),
        (
            ["semi=pseudo_labels", "learner=base_classifier", "trainer=dml", "loss=circle"],
            "is trained by trainer=pseudo_labels",
        ),
        (["trainer=pseudo_labels"], "trains semi=pseudo_labels: choose it"),
    ],
)
def test_what_could_have_no_effect_is_refused(config, options, message):
    cfg = config(*options)
    with pytest.raises(ValueError, match=message):
        build_procedure(cfg, build_parts(cfg))


@pytest.mark.parametrize(
    ("options", "given", "reason"),
    [
        (["trainer=dml", "loss=circle"], "task.train.n_way=4", "it takes batches of images"),
        ([], "task.labeled_seed=1", "all training images are labeled"),
        ([], "task.folds=3", "no fold is chosen"),
        ([], "task.base_query=2", "the task is not incremental"),
        ([], "task.n_distractors=2", "distractors give unlabeled items only"),
        (["learner=matching"], "learner.steps=3", "full_context"),
        (["loss=triplet"], "loss.triplet.margin=0.3", None),
        (["loss=triplet", "loss.triplet.smooth=true"], "loss.triplet.margin=0.3", "smooth"),
    ],
)
def test_what_is_set_by_hand_and_not_read_is_refused(config, options, given, reason):
    batches = ["trainer.classes_per_batch=3"] if "trainer=dml" in options else []
    cfg = config(*options, *batches, given)
    procedure = build_procedure(cfg, build_parts(cfg))
    if reason is None:
        check_effects(cfg, [given], procedure)
    else:
        with pytest.raises(ConfigError, match=f"{given.split('=')[0]} would have no effect here: .*{reason}"):
            check_effects(cfg, [given], procedure)


def test_batches_need_a_loss_of_embeddings(config):
    few = ("trainer=schem", "trainer.classes_per_batch=3", "task.labeled_fraction=0.5")
    cfg = config(*few, "loss=schem", "task.n_unlabeled=1")
    with pytest.raises(ValueError, match="none may be held out or unlabeled"):
        build_procedure(cfg, build_parts(cfg))
    cfg = config("trainer=dml", "trainer.classes_per_batch=3")
    with pytest.raises(ValueError, match="trainer=dml trains by losses of embeddings: choose one"):
        build_procedure(cfg, build_parts(cfg))
