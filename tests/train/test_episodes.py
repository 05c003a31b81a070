from episodic.data.augment import Augment
from episodic.evaluate.scoring import evaluate
from episodic.learners.prototypical import Prototypical
from episodic.train.fit import fit
from tests.conftest import random_store
from tests.evaluate.test_scoring import sampler_of
from tests.train.training import FP32, PLAIN, conv4, episodic_of


def test_every_step_draws_episodes_of_its_own():
    training = episodic_of(steps=4, episodes_per_step=3)
    batches = [training.source.batch(step) for step in range(4)]
    assert [len(batch) for batch in batches] == [3] * 4
    assert len({batch.hash() for batch in batches}) == 4
    assert training.per_step == 3


def test_training_learns():
    store, val = random_store(separation=0.5), random_store(separation=0.5, split="val", seed=1)
    training = episodic_of(store, Prototypical(conv4(), temperature=1.0), steps=60, augment=Augment())
    before = evaluate(training.setup.learner, val, sampler_of(val, 200), PLAIN, FP32).interval
    assert fit(training)
    after = evaluate(training.setup.learner, val, sampler_of(val, 200), PLAIN, FP32).interval
    assert after.mean - after.half_width > before.mean + before.half_width
