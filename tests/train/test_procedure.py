import pytest
import torch

from episodic.learners.base_classifier import BaseClassifier
from episodic.learners.maml import MAML
from episodic.learners.prototypical import Prototypical
from episodic.semi.pseudo_labels import PseudoLabels
from episodic.train.schedule import Step
from tests.conftest import random_store
from tests.train.training import conv4, episodic_of, resume, states_equal


def test_a_step_is_a_pure_function_of_weights_seed_and_step():
    whole, parts = episodic_of(random_store()), episodic_of(random_store())
    for _ in range(6):
        whole.training_step()
    for _ in range(3):
        parts.training_step()
    torch.rand(7)  # whatever else draws from the global generator in between
    resumed = resume(episodic_of(learner=Prototypical(conv4(seed=1))), parts, 3)
    for _ in range(3):
        resumed.training_step()
    assert states_equal(whole, resumed)


def test_another_seed_is_another_training():
    a, b = episodic_of(random_store(), seed=0), episodic_of(random_store(), seed=1)
    a.training_step(), b.training_step()
    weights = zip(a.setup.learner.parameters(), b.setup.learner.parameters(), strict=True)
    assert not all(torch.equal(x, y) for x, y in weights)


def test_schedule_sets_the_rate_and_clipping_bounds_the_gradient():
    training = episodic_of(random_store(), steps=5, clip_norm=1e-3, schedule=Step(every=2, gamma=0.1))
    rates = []
    for _ in range(5):
        training.training_step()
        rates.append(training.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4])
    norm = torch.stack([p.grad.norm() for p in training.setup.learner.parameters()]).norm()
    assert norm <= 1.001e-3


@pytest.mark.parametrize("setting", [dict(steps=0), dict(log_every=0), dict(clip_norm=-1.0)])
def test_settings_are_checked(setting):
    with pytest.raises(ValueError, match=f"trainer.{next(iter(setting))} must be a number"):
        episodic_of(**setting)


def test_the_gradient_is_clipped_as_the_learner_is_published_with():
    assert episodic_of(clip_norm=None).clip_norm == 0
    assert episodic_of(learner=MAML(conv4(), n_way=3), clip_norm=None).clip_norm == 10
    assert episodic_of(learner=MAML(conv4(), n_way=3), clip_norm=0.0).clip_norm == 0


def test_a_step_has_as_many_episodes_as_the_learner_is_published_with():
    assert episodic_of(episodes_per_step=None).per_step == 1
    maml = MAML(conv4(), n_way=3)
    assert episodic_of(learner=maml, episodes_per_step=None).per_step == 4
    assert episodic_of(learner=maml, episodes_per_step=2).per_step == 2
    with pytest.raises(ValueError, match=r"trainer\.episodes_per_step must be an integer, at least 1, got 0"):
        episodic_of(episodes_per_step=0)


def test_a_state_of_another_training_is_refused():
    plain, other = episodic_of(), episodic_of()
    other.state.register_buffer("bank", torch.zeros(3))
    with pytest.raises(ValueError, match="the checkpoint is of another training: bank differ"):
        plain.load_state_dict(other.state_dict())


def test_a_procedure_is_named_by_its_file():
    assert episodic_of().name == "episodes"


def test_learners_that_one_procedure_trains_are_refused_by_others():
    learner = PseudoLabels(BaseClassifier(conv4(), 8))
    with pytest.raises(
        ValueError, match="PseudoLabels is trained by trainer=pseudo_labels alone, not by trainer=episodes"
    ):
        episodic_of(learner=learner)


def test_a_schedule_that_changes_nothing_is_refused():
    with pytest.raises(ValueError, match=r"schedule\.every=2000 is never reached in trainer\.steps=20"):
        episodic_of(schedule=Step())
