import pytest
import torch

from episodic.train.fit import Journal, NonFiniteLossError, fit
from episodic.train.interrupt import StopRequest
from tests.train.training import episodic_of


class Recording(Journal):
    """Which steps were logged, validated and saved."""

    def __init__(self):
        self.logged, self.values, self.validated, self.saved = [], [], [], []

    def log(self, step, values):
        self.logged.append(step)
        self.values.append(values)

    def validate(self, step):
        self.validated.append(step)

    def save(self, step):
        self.saved.append(step)


def test_the_journal_is_called_when_it_should_be():
    training = episodic_of(steps=10, log_every=4, validate_every=3, save_every=6)
    journal = Recording()
    assert fit(training, journal)
    assert journal.validated == [3, 6, 9, 10]
    assert journal.saved == [6, 10]
    assert journal.logged == [3, 6, 9, 10]
    assert set(journal.values[0]) == {"loss", "accuracy", "episodes_per_second", "learning_rate"}


def test_a_stop_request_saves_the_step_that_was_reached():
    stop, training, journal = StopRequest(), episodic_of(), Recording()
    step = training.training_step

    def stop_after_four():
        if training.step == 3:
            stop.signal = 15
        return step()

    training.training_step = stop_after_four
    assert not fit(training, journal, stop=stop)
    assert journal.saved == [4]
    assert journal.logged == [4]
    assert stop.exit_code == 143


def test_a_loss_that_is_not_finite_names_the_first_step_and_is_never_saved():
    training, journal = episodic_of(steps=20, log_every=10, save_every=15), Recording()
    step = training.training_step

    def poisoned():
        if training.step == 6:
            with torch.no_grad():
                next(training.setup.learner.parameters()).fill_(float("nan"))
        return step()

    training.training_step = poisoned
    with pytest.raises(NonFiniteLossError, match=r"loss is nan at step 6 \(seed 0, episodes 6 to 6\)"):
        fit(training, journal)
    assert journal.saved == []
