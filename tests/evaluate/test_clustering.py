import itertools

import numpy as np
import pytest
import torch

from episodic.evaluate.clustering import clustering, compare_clusters
from tests.core.losses.laws import batch


def test_clusters_by_hand():
    scores = compare_clusters(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1]))
    assert (scores.nmi, scores.ami, scores.f1) == pytest.approx((0.4787040, 0.3552453, 8 / 13), abs=1e-7)
    perfect = compare_clusters(np.array([0, 0, 1, 2]), np.array([5, 5, 3, 4]))
    assert (perfect.nmi, perfect.ami, perfect.f1) == pytest.approx((1, 1, 1))
    assert compare_clusters(np.array([0, 0, 1, 1]), np.zeros(4, int)).nmi == 0
    assert compare_clusters(np.arange(4), np.arange(4)).f1 == 1  # no pairs, none wrong


def test_f1_counts_pairs():
    random = np.random.default_rng(0)
    labels, clusters = random.integers(5, size=40), random.integers(4, size=40)
    pairs = [(labels[i] == labels[j], clusters[i] == clusters[j]) for i, j in itertools.combinations(range(40), 2)]
    right = sum(a and b for a, b in pairs)
    precision, recall = right / sum(b for _, b in pairs), right / sum(a for a, _ in pairs)
    wanted = 2 * precision * recall / (precision + recall)
    assert compare_clusters(labels, clusters).f1 == pytest.approx(wanted)


def test_means_find_separate_classes_whatever_their_length():
    labels = torch.arange(5).repeat_interleave(6)
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.eye(5)[labels] + 0.01 * torch.randn(30, 5, generator=generator)
    embeddings *= 10 ** torch.randn(30, 1, generator=generator)
    scores = clustering(embeddings.requires_grad_(), labels)
    assert (scores.nmi, scores.ami, scores.f1) == pytest.approx((1, 1, 1))
    assert clustering(embeddings, labels, normalize=False).nmi < 0.9
    assert clustering(embeddings, labels, n_clusters=1).nmi == pytest.approx(0, abs=1e-9)
    embeddings, labels = batch()
    assert clustering(embeddings, labels, seed=3, n_init=1) == clustering(embeddings, labels, seed=3, n_init=1)


def test_clusters_of_copies_are_scored_without_a_warning():
    scores = clustering(torch.ones(12, 3), torch.arange(4).repeat(3), n_init=1)
    assert scores.nmi == pytest.approx(0, abs=1e-9)
