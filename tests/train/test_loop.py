import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from episodic import EpisodeSampler, Prediction, Task
from episodic.core.backbones.conv4 import Conv4
from episodic.data.augment import Augment, Normalize
from episodic.episodes.source import episodes_hash, in_chunks
from episodic.evaluate.audit import audit
from episodic.evaluate.scoring import evaluate, predictor
from episodic.learners.learner import AbstractLearner
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.run.embed import embed
from episodic.train.loop import NonFiniteLossError, Trainer, Training, fit, objective
from episodic.train.schedule import constant, step
from tests.conftest import random_store

FP32 = Hardware.choose("cpu", "fp32")
PLAIN = Normalize([0.5], [0.25])


def conv4(seed=0):
    torch.manual_seed(seed)
    return Conv4(in_channels=1, image_size=16, widths=(8, 8, 8, 8))


def sampler_of(store, episodes=40, **shape):
    shape = {"n_way": 3, "n_shot": 2, "n_query": 4, **shape}
    return EpisodeSampler(store.labels, **shape, episodes=episodes)


def training_of(store, learner=None, trainer=None, seed=0, schedule=None, augment=None):
    trainer = trainer or Trainer(steps=20, episodes_per_step=2)
    learner = learner or Prototypical(conv4())
    sampler = EpisodeSampler(
        store.labels, 3, 1, 4, episodes=trainer.steps * trainer.episodes_per_step, seed=seed,
        episodes_per_batch=trainer.episodes_per_step,
    )  # fmt: skip
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
    return Training(
        learner,
        store,
        sampler,
        PLAIN,
        augment or Augment(2, True, 0.1),
        optimizer,
        schedule or constant(),
        trainer,
        FP32,
        seed,
    )


class Blind(AbstractLearner):
    """Needs images, so it cannot use cached features; answers with a prototypical learner on them."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, task: Task) -> Prediction:
        return self.inner(task)


class Leaky(Prototypical):
    """Moves the support by the mean query, somewhat as batch statistics at test time do: queries see each other."""

    def classify(self, features: Task) -> Prediction:
        moved = features.support + features.query.mean(1, keepdim=True)
        return super().classify(dataclasses.replace(features, support=moved))


def test_evaluation_equals_an_explicit_loop():
    store, learner = random_store(), Prototypical(conv4())
    sampler = sampler_of(store)
    result = evaluate(learner, store, sampler, PLAIN, FP32)
    for i in range(len(result.accuracies)):
        indices = sampler[i]
        z = learner.backbone.eval()(PLAIN(store.images[np.concatenate([indices.support[0], indices.query[0]])]))
        centers = torch.stack([z[:6][indices.support_y[0] == n].mean(0) for n in range(3)])
        right = torch.cdist(z[6:], centers).argmin(1).numpy() == indices.query_y[0]
        assert result.accuracies[i] == pytest.approx(right.mean())
    assert result.episodes_hash == episodes_hash(sampler)
    assert np.array_equal(result.class_ids[7], sampler[7].class_ids[0])


def test_cached_features_and_full_forwards_give_the_same_numbers():
    store, learner = random_store(), Prototypical(conv4())
    cached = evaluate(learner, store, sampler_of(store), PLAIN, FP32)
    full = evaluate(learner, store, sampler_of(store), PLAIN, FP32, cached=False)
    blind = evaluate(Blind(learner), store, sampler_of(store), PLAIN, FP32)
    assert np.array_equal(cached.accuracies, full.accuracies)
    assert np.array_equal(cached.accuracies, blind.accuracies)
    with pytest.raises(ValueError, match="Blind needs images"):
        evaluate(Blind(learner), store, sampler_of(store), PLAIN, FP32, cached=True)


def test_bf16_differs_by_rounding_only():
    store, learner = random_store(separation=0.3), Prototypical(conv4())
    exact = embed(learner.backbone, store, PLAIN, FP32)
    rounded = embed(learner.backbone, store, PLAIN, Hardware.choose("cpu", "bf16"))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.02


def test_embedding_is_in_eval_mode_and_keeps_the_order():
    store, backbone = random_store(), conv4().train()
    features = embed(backbone, store, PLAIN, FP32)
    assert not backbone.training
    with torch.no_grad():
        torch.testing.assert_close(features[150:151], backbone(PLAIN(store.images[150:151])))


def test_ranges_of_ways_are_evaluated():
    store = random_store()
    result = evaluate(Prototypical(conv4()), store, sampler_of(store, 600, n_way=(2, 5)), PLAIN, FP32)
    assert len(result.accuracies) == 600
    assert result.class_interval is None


def test_audit_tells_inductive_from_transductive():
    store = random_store()
    for learner, leaks in ((Prototypical(conv4()), False), (Leaky(conv4()), True)):
        predict, _ = predictor(learner.eval(), store, PLAIN, FP32)
        with torch.inference_mode():
            changes = audit(predict, sampler_of(store, 5))
        assert (changes["one query at a time"] > 1e-3) is leaks, changes
        assert changes["classes relabeled"] < 1e-5


def test_audit_refuses_answers_that_are_not_numbers():
    class Broken(Prototypical):
        def classify(self, features: Task) -> Prediction:
            return Prediction(super().classify(features).logits * float("nan"))

    store = random_store()
    predict, _ = predictor(Broken(conv4()).eval(), store, PLAIN, FP32)
    with torch.inference_mode(), pytest.raises(ValueError, match="episode 0 are not finite"):
        audit(predict, sampler_of(store, 5))


def test_training_learns():
    store, val = random_store(separation=0.5), random_store(separation=0.5, split="val", seed=1)
    training = training_of(store, trainer=Trainer(steps=60), augment=Augment())
    before = evaluate(training.learner, val, sampler_of(val, 200), PLAIN, FP32).interval
    assert fit(training)
    after = evaluate(training.learner, val, sampler_of(val, 200), PLAIN, FP32).interval
    assert after.mean - after.half_width > before.mean + before.half_width


def test_a_step_is_a_pure_function_of_weights_seed_and_step():
    whole, parts = training_of(random_store()), training_of(random_store())
    for _ in range(6):
        whole.advance()
    for _ in range(3):
        parts.advance()
    torch.rand(7)  # whatever else draws from the global generator in between
    resumed = training_of(random_store())
    resumed.learner.load_state_dict(parts.learner.state_dict())
    resumed.optimizer.load_state_dict(parts.optimizer.state_dict())
    resumed.step = 3
    for _ in range(3):
        resumed.advance()
    for (name, a), b in zip(whole.learner.state_dict().items(), resumed.learner.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_another_seed_is_another_training():
    a, b = training_of(random_store(), seed=0), training_of(random_store(), seed=1)
    a.advance(), b.advance()
    weights = zip(a.learner.parameters(), b.learner.parameters(), strict=True)
    assert not all(torch.equal(x, y) for x, y in weights)


def test_episodes_stacked_in_a_step_are_averaged():
    store = random_store()
    training = training_of(store, learner=Prototypical(conv4()).eval(), augment=Augment())
    batch = training.sampler.batch(0)
    from episodic.episodes.task import gather_episode

    losses = []
    for rows in (slice(0, 1), slice(1, 2), slice(0, 2)):
        episode = gather_episode(batch[rows], store.gather, "cpu")
        losses.append(objective(training.learner, dataclasses.replace(episode, task=episode.task.map(PLAIN)), FP32)[0])
    torch.testing.assert_close(losses[2], (losses[0] + losses[1]) / 2)


def test_auxiliary_terms_are_added():
    class WithTerm(Prototypical):
        def classify(self, features: Task) -> Prediction:
            prediction = super().classify(features)
            return Prediction(prediction.logits, auxiliary_losses={"extra": lambda episode: torch.tensor([1.0, 3.0])})

    from episodic.episodes.task import gather_episode

    store = random_store()
    losses = []
    for learner in (Prototypical(nn.Flatten()), WithTerm(nn.Flatten())):
        learner.dummy = nn.Parameter(torch.zeros(1))
        training = training_of(store, learner=learner)
        episode = gather_episode(training.sampler.batch(0), store.gather, "cpu")
        losses.append(objective(training.learner, dataclasses.replace(episode, task=episode.task.map(PLAIN)), FP32)[0])
    torch.testing.assert_close(losses[1] - losses[0], torch.tensor(2.0))


def test_a_learner_may_bring_its_own_loss():
    class Squared(Prototypical):
        def classify(self, features: Task) -> Prediction:
            prediction = super().classify(features)
            right = lambda e: nn.functional.one_hot(e.query_y, 3)  # noqa: E731
            return Prediction(prediction.logits, loss=lambda e: ((prediction.logits - right(e)) ** 2).mean((1, 2)))

    from episodic.episodes.task import gather_episode

    store = random_store()
    training = training_of(store, learner=Squared(conv4()))
    episode = gather_episode(training.sampler.batch(0), store.gather, "cpu")
    episode = dataclasses.replace(episode, task=episode.task.map(PLAIN))
    logits = training.learner(episode.task).logits
    expected = ((logits - nn.functional.one_hot(episode.query_y, 3)) ** 2).mean()
    torch.testing.assert_close(objective(training.learner, episode, FP32)[0], expected)


def test_schedule_sets_the_rate_and_clipping_bounds_the_gradient():
    training = training_of(random_store(), trainer=Trainer(steps=5, clip_norm=1e-3), schedule=step(every=2, gamma=0.1))
    rates = []
    for _ in range(5):
        training.advance()
        rates.append(training.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4])
    norm = torch.stack([p.grad.norm() for p in training.learner.parameters()]).norm()
    assert norm <= 1.001e-3


def test_callbacks_come_when_they_should():
    training = training_of(random_store(), trainer=Trainer(steps=10, log_every=4, validate_every=3, save_every=6))
    log, validations, saves = [], [], []
    interval = evaluate(training.learner, training.store, sampler_of(training.store, 5), PLAIN, FP32).interval
    fit(
        training,
        validate=lambda: interval,
        on_log=lambda s, values: log.append(s),
        on_validation=lambda s, _: validations.append(s),
        save=lambda: saves.append(training.step),
    )
    assert validations == [3, 6, 9, 10]
    assert saves == [6, 10]
    assert log == [3, 6, 9, 10]


def test_a_stop_request_saves_the_step_that_was_reached():
    from episodic.train.interrupt import StopRequest

    stop, training, saves = StopRequest(), training_of(random_store()), []
    advance = training.advance

    def stop_after_four():
        if training.step == 3:
            stop.signal = 15
        return advance()

    training.advance = stop_after_four
    assert not fit(training, save=lambda: saves.append(training.step), stop=stop)
    assert saves == [4]
    assert stop.exit_code == 143


def test_a_loss_that_is_not_finite_names_the_first_step_and_is_never_saved():
    training, saves = training_of(random_store(), trainer=Trainer(steps=20, log_every=10, save_every=15)), []
    advance = training.advance

    def poisoned():
        if training.step == 6:
            with torch.no_grad():
                next(training.learner.parameters()).fill_(float("nan"))
        return advance()

    training.advance = poisoned
    with pytest.raises(NonFiniteLossError, match=r"loss is nan at step 6 \(seed 0, episodes 6 to 6\)"):
        fit(training, save=lambda: saves.append(training.step))
    assert saves == []


@pytest.mark.parametrize("setting", [dict(steps=0), dict(log_every=0), dict(clip_norm=-1)])
def test_settings_of_the_trainer_are_checked(setting):
    with pytest.raises(ValueError, match=f"trainer.{next(iter(setting))} must be"):
        Trainer(**setting)


def test_chunks_cover_all_episodes_once():
    sampler = sampler_of(random_store(), 70)
    chunks = list(in_chunks(sampler, 32))
    assert [len(c) for c in chunks] == [32, 32, 6]
    assert np.array_equal(np.concatenate([c.query for c in chunks]), sampler[0:70].query)
