"""Small trainings for the tests of training procedures."""

import numpy as np
import torch

from episodic import EpisodeSampler
from episodic.core.backbones.conv4 import Conv4
from episodic.data.augment import Augment, Normalize
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.train.episodes import EpisodicTraining
from episodic.train.objective import Objective
from episodic.train.procedure import Setup
from episodic.train.schedule import Constant
from tests.conftest import random_store

FP32 = Hardware.choose("cpu", "fp32")
PLAIN = Normalize([0.5], [0.25])


def conv4(seed=0):
    torch.manual_seed(seed)
    return Conv4(in_channels=1, image_size=16, widths=(8, 8, 8, 8))


def setup_of(store=None, learner=None, *, objective=None, augment=None, schedule=None, seed=0, optimizer=None,
             labeled=None, seen=None, shape=(3, 1, 4)) -> Setup:  # fmt: skip
    """What a procedure is given: 8 classes of 20 images, Conv4 with Prototypical Networks, Adam."""
    store = store if store is not None else random_store()

    def episodes(count, per_step):
        return EpisodeSampler(
            store.labels, *shape, episodes=count, seed=seed, episodes_per_batch=per_step, labeled=labeled
        )

    return Setup(
        learner=learner or Prototypical(conv4()),
        store=store,
        normalize=PLAIN,
        optimizer=optimizer or (lambda groups: torch.optim.Adam(groups, lr=0.01)),
        hardware=FP32,
        episodes=episodes,
        objective=objective or Objective(),
        augment=augment or Augment(0.15, 1.0, True, 0.1),
        schedule=schedule or Constant(),
        seed=seed,
        labeled=labeled,
        seen=seen,
    )


def episodic_of(store=None, learner=None, *, steps=20, episodes_per_step=1, clip_norm=0.0, log_every=20, validate_every=500,
                save_every=500, **given) -> EpisodicTraining:  # fmt: skip
    return EpisodicTraining(
        setup_of(store, learner, **given),
        steps=steps,
        episodes_per_step=episodes_per_step,
        clip_norm=clip_norm,
        log_every=log_every,
        validate_every=validate_every,
        save_every=save_every,
    )


def states_equal(a, b) -> bool:
    """Whether two procedures have the same weights and the same state, bit for bit."""
    pairs = [(a.setup.learner.state_dict(), b.setup.learner.state_dict()), (a.state.state_dict(), b.state.state_dict())]
    assert all(x.keys() == y.keys() for x, y in pairs)
    return all(torch.equal(value, y[name]) for x, y in pairs for name, value in x.items())


def resume(procedure, other, step):
    """Put the weights and the state of `other` at `step` into `procedure`."""
    procedure.setup.learner.load_state_dict(other.setup.learner.state_dict())
    procedure.load_state_dict(other.state_dict())
    procedure.step = step
    return procedure


def masks(labels, share, seed=0):
    return np.random.default_rng(seed).random(len(labels)) < share
