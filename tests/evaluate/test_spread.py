import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from episodic.evaluate.spread import density, spectral_decay
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch
from tests.evaluate.test_retrieval import with_lone_labels


def test_density_of_four_vectors_and_of_a_loop_over_pairs():
    found = density(FOUR, FOUR_LABELS)
    assert (found.intra, found.inter, found.ratio) == pytest.approx((0.75, 1.2588190, 0.5957965), abs=1e-7)
    embeddings, labels = with_lone_labels()
    unit = (embeddings / embeddings.norm(dim=1, keepdim=True)).numpy()
    classes = [unit[(labels == c).numpy()] for c in range(6)]
    mean_distance = lambda x: np.mean([1 - a @ b for a, b in itertools.combinations(x, 2)])  # noqa: E731
    intra = np.mean([mean_distance(x) for x in classes if len(x) > 1])
    inter = mean_distance([x.sum(0) / np.linalg.norm(x.sum(0)) for x in classes])
    found = density(embeddings, labels)
    assert (found.intra, found.inter, found.ratio) == pytest.approx((intra, inter, intra / inter))


def test_density_without_pairs_is_not_a_number():
    embeddings, labels = batch()
    lone = density(embeddings, torch.arange(20))
    assert math.isnan(lone.intra)
    assert lone.inter > 0
    one = density(embeddings, torch.zeros_like(labels))
    assert one.intra > 0
    assert math.isnan(one.inter)
    assert math.isnan(one.ratio)
    collapsed = density(torch.ones(20, 4), labels)
    assert collapsed.intra == pytest.approx(0, abs=1e-6)


def with_spectrum(*values, rows=30):
    """A matrix with these singular values, in random directions."""
    torch.manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, len(values), dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64)).Q
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.mT


def test_spectral_decay_by_hand():
    embeddings = with_spectrum(4.0, 2.0, 1.0, 1.0)
    assert spectral_decay(embeddings) == pytest.approx(0.1732868, abs=1e-7)
    assert spectral_decay(embeddings, skip=1) == pytest.approx(0.0566330, abs=1e-7)
    assert spectral_decay(7 * embeddings.float()) == pytest.approx(0.1732868, abs=1e-5)
    assert spectral_decay(with_spectrum(3.0, 3.0, 3.0)) == pytest.approx(0, abs=1e-9)


def test_spectral_decay_is_the_divergence_from_uniform():
    embeddings, _ = batch()
    values = np.linalg.svd(embeddings.numpy(), compute_uv=False)
    for skip in (0, 1, 5):
        wanted = entropy(np.ones(16 - skip), values[skip:])
        assert spectral_decay(embeddings, skip) == pytest.approx(wanted)


def test_spectral_decay_of_unused_directions_is_large_but_finite():
    flat = spectral_decay(with_spectrum(1.0, 1.0, 1.0, 0.0))
    assert 5 < flat < 40
    assert math.isnan(spectral_decay(with_spectrum(1.0, 0.0, 0.0), skip=1))
    assert math.isnan(spectral_decay(torch.zeros(5, 3)))
    with pytest.raises(ValueError, match="skip must leave some of the 3 singular values, got 3"):
        spectral_decay(torch.eye(3), skip=3)
