"""Trained weights: a run to start from, a run to evaluate."""

import pytest
import torch

from episodic.assemble.learner import build_parts
from episodic.assemble.load import load_initial, load_parts, with_saved_parts
from episodic.config.compose import ConfigError, compose_config
from episodic.run.checkpoint import CheckpointError
from episodic.semi.mean_teacher import MeanTeacher
from tests.configured import FEW, INCREMENTAL, UNLABELED, saved


def test_a_start_gives_what_fits_by_name_and_shape(config, tmp_path):
    first = saved(tmp_path, config("learner=base_classifier"))
    cfg = config("learner=attention_attractor", f"init_from={tmp_path}")
    learner = build_parts(cfg).learner
    untouched = learner.linear.shift.clone()
    said = load_initial(cfg, learner)
    weights = {name: value for name, value in learner.state_dict().items() if name.startswith(("backbone", "base."))}
    assert said == f"{len(weights)} of {len(learner.state_dict())} tensors from {tmp_path}"
    for name, value in weights.items():
        assert torch.equal(value, first.state_dict()[name]), name
    assert torch.equal(learner.linear.shift, untouched)


def test_a_start_without_a_mean_is_taken_by_a_transform_that_fits_its_own(config, tmp_path):
    saved(tmp_path, config())
    cfg = config("transform=cl2n", f"init_from={tmp_path}")
    learner = build_parts(cfg).learner
    mine = len(learner.state_dict())
    assert load_initial(cfg, learner) == f"{mine - 1} of {mine} tensors from {tmp_path}"
    assert learner.backbone.mean.isnan().all()  # until it is fitted


def test_a_start_of_another_backbone_or_none_where_one_is_needed_is_refused(config, tmp_path):
    saved(tmp_path, config("learner=base_classifier"))
    cfg = config("backbone.widths=[8,4]", f"init_from={tmp_path}")
    with pytest.raises(ConfigError, match=r"does not fit: backbone\.blocks\.1\.0\.weight is not there"):
        load_initial(cfg, build_parts(cfg).learner)
    cfg = config("learner=attention_attractor")
    with pytest.raises(ConfigError, match=r"AttentionAttractor goes on .* learner=base_classifier .* then init_from="):
        load_initial(cfg, build_parts(cfg).learner)
    cfg = config()
    assert load_initial(cfg, build_parts(cfg).learner) == ""


def test_what_stays_frozen_must_come_from_the_start(config, tmp_path):
    saved(tmp_path, config("learner=prototypical"))
    cfg = config("learner=attention_attractor", f"init_from={tmp_path}")
    with pytest.raises(ConfigError, match=r"does not fit: base\.weight is not there .* wanted: .*base_classifier"):
        load_initial(cfg, build_parts(cfg).learner)


def test_a_start_that_was_trained_on_the_images_held_out_is_refused(config, tmp_path):
    saved(tmp_path, config("learner=base_classifier"))
    cfg = config("learner=attention_attractor", f"init_from={tmp_path}", *INCREMENTAL)
    with pytest.raises(
        ConfigError, match=r"was trained with held_out=0\.0 on Folder; this incremental task holds 0\.5"
    ):
        load_initial(cfg, build_parts(cfg).learner)


def test_a_start_that_was_trained_on_the_fold_is_refused(config, tmp_path):
    saved(tmp_path, config("learner=prototypical", "task.fold=1"))
    cfg = config("task.fold=1", f"init_from={tmp_path}")
    assert load_initial(cfg, build_parts(cfg).learner)
    for other in ("task.fold=0", "task.folds=3"):
        cfg = config("task.fold=1", other, f"init_from={tmp_path}")
        with pytest.raises(ConfigError, match=r"was trained on classes of task\.fold=[01], which are for validation"):
            load_initial(cfg, build_parts(cfg).learner)


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
    load_initial(cfg, learner)
    student = first.learner.backbone.state_dict()
    assert all(torch.equal(v, student[n]) for n, v in learner.learner.learner.backbone.state_dict().items())


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
        assert f"tensors from {tmp_path}" in load_initial(cfg, learner)
    else:
        with pytest.raises(ConfigError, match=r"this task, with 0\.5 and 0, hides some of its labels"):
            load_initial(cfg, learner)


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
        load_initial(cfg, learner)
        found = learner.backbone.body if options else learner.backbone
        assert all(torch.equal(value, expected.state_dict()[name]) for name, value in found.state_dict().items())
    options = with_saved_parts([f"run={headed}", "device=cpu", "episodes=5"])
    again = load_parts(compose_config("evaluate", options), str(headed)).learner.backbone
    assert torch.equal(again.head.weight, with_head.head.weight)
