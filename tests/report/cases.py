"""What several tests of the report measure: small learners, stores, episodes, and counts made by hand."""

import dataclasses

import numpy as np
import torch
from scipy import stats

from episodic import EpisodeSampler
from episodic.core.backbones.conv4 import Conv4
from episodic.data.augment import Normalize
from episodic.episodes.incremental import IncrementalEpisodes
from episodic.learners.base_classifier import BaseClassifier
from episodic.learners.prototypical import Prototypical
from episodic.report.measurements import ConfusionCounts
from episodic.run.device import Hardware
from episodic.semi.label_propagation import LabelPropagation
from tests.conftest import random_store

FP32 = Hardware.choose("cpu", "fp32")
PLAIN = Normalize([0.5], [0.25])
SEMI = {"n_unlabeled": 3, "n_distractors": 2}


def conv4(seed=0):
    torch.manual_seed(seed)
    return Conv4(in_channels=1, image_size=16, widths=(8, 8, 8, 8))


def sampler_of(store, episodes=40, **shape):
    shape = {"n_way": 3, "n_shot": 2, "n_query": 4, **shape}
    return EpisodeSampler(store.labels, **shape, episodes=episodes)


def semi_supervised():
    store = random_store(separation=0.2)
    learner = LabelPropagation(Prototypical(conv4()))
    episodes = sampler_of(store, episodes=300, **SEMI)  # more than a block, and not a multiple of one
    return learner, store, episodes


def with_base_classes():
    store = dataclasses.replace(random_store(classes=9, separation=0.2), n_base=5)
    return BaseClassifier(conv4(), 5), store, IncrementalEpisodes(store.labels.numpy(), 5, 2, 1, 3, 3, 2, episodes=40)


def student(values, low=0, high=1):
    """Both ends of Student's 95 % interval."""
    reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return np.clip([np.mean(values) - reach, np.mean(values) + reach], low, high)


def counts_of(*episodes):
    """Counts of the episodes given as `(classes, queries of each, {(class, answer): mistakes})`."""
    counts = ConfusionCounts(6)
    for classes, queries, mistakes in episodes:
        truth = np.repeat(np.arange(len(classes)), queries)
        indices = EpisodeSampler(np.repeat(np.arange(6), 60), len(classes), 1, queries, episodes=1)[0:1]
        indices = dataclasses.replace(indices, class_ids=np.array([classes]), query_y=truth[None])
        answers = truth.copy()
        for (c, answer), times in mistakes.items():
            answers[np.flatnonzero(truth == classes.index(c))[:times]] = classes.index(answer)
        counts.add(indices, answers[None])
    return counts
