"""`python -m episodic.evaluate`, in this process."""

import json

import pytest

import episodic.train
from episodic.run.run import Run
from tests.command import run_command


@pytest.fixture(scope="module")
def place(pictures, tmp_path_factory):
    """A folder with a tiny run in it."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPISODIC_CACHE", str(pictures.with_name("cache")))
        patch.chdir(folder)
        episodic.train.train(
            *(
                "task=folder_5w1s",
                f"task.dataset.path={pictures}",
                "task.channels=1",
                "task.image_size=16",
                "task.n_way=3",
            ),
            *("task.n_query=2", "backbone.widths=[4,4]", "augment=none", "device=cpu", "precision=fp32", "episodes=10"),
            *("trainer.validation_episodes=5", "trainer.steps=2", "run=r"),
        )
        yield folder


def evaluate(place, *options):
    code, out, err = run_command("evaluate", "run=r", "episodes=10", *options, cwd=place)
    return code, out + err


def test_the_record_and_the_table_agree_with_those_of_training(place):
    code, said = evaluate(place)
    assert code == 0, said
    trained = json.loads((place / "r" / "metrics.json").read_text())
    scored = json.loads(Run(place / "r").evaluations()[-1].read_text())
    assert f"The numbers: r/evaluations/{Run(place / 'r').evaluations()[-1].name}" in said
    assert scored["test/accuracy"] == trained["test/accuracy"]
    assert f"{100 * scored['test/accuracy']:.2f} ±" in said


def test_retrieval_compares_by_the_distance_that_is_chosen(place):
    for distance in ("cosine", "snr"):
        code, said = evaluate(place, "retrieval=true", f"distance={distance}")
        assert code == 0, said
        assert "Recall@1 %" in said
    code, said = evaluate(place, "distance=snr")
    assert code == 2
    assert "add retrieval=true" in said


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("augment=crop_flip", "it counts in training alone"),
        ("task.train.n_way=2", "it counts in training alone"),
        ("semi=soft_kmeans", "episodes of this task have none"),
        ("task.folds=3", "no fold is chosen"),
        ("task.n_distractors=1", "distractors give unlabeled items only"),
    ],
)
def test_what_would_have_no_effect_is_refused(place, option, reason):
    code, said = evaluate(place, option)
    assert code == 2
    assert reason in said
    assert "Traceback" not in said


def test_a_wrapper_with_unlabeled_items_is_fine(place):
    code, said = evaluate(place, "semi=soft_kmeans", "task.n_unlabeled=2", "audit=true")
    assert code == 0, said
    assert "Audit: inductive" in said
