import numpy as np
import pytest
import torch

from episodic.assemble.predictor import Predictor
from episodic.core.distances.cosine import Cosine
from episodic.core.distances.euclidean import Euclidean
from episodic.core.distances.snr import SNR
from episodic.core.distances.squared_euclidean import SquaredEuclidean

FEATURES = np.random.default_rng(0).normal(size=(40, 6)) + 2
NAMES = ["a", "b", "c", "d"] * 5


def fitted(*options: str, **settings) -> Predictor:
    return Predictor(device="cpu", options=options, **settings).fit(FEATURES[:20], NAMES)


@pytest.mark.parametrize("learner", ["prototypical", "matching"])
@pytest.mark.parametrize(
    ("name", "distance"),
    [("squared_euclidean", SquaredEuclidean()), ("euclidean", Euclidean()), ("cosine", Cosine()), ("snr", SNR())],
)
def test_the_nearest_support_item_is_so_by_the_learners_distance(learner, name, distance):
    predictor = fitted(f"distance@learner.distance={name}", learner=learner)
    support, queries = (torch.from_numpy(x).float() for x in (FEATURES[:20], FEATURES[20:]))
    expected = distance.similarities(queries, support).argmax(-1).tolist()
    assert [answer.nearest for answer in predictor.answers(FEATURES[20:])] == expected


@pytest.mark.parametrize(
    ("options", "shifted"),
    [
        ((), True),
        (("distance@learner.distance=euclidean",), True),
        (("distance@learner.distance=cosine",), False),
        (("distance@learner.distance=snr",), False),
    ],
)
@pytest.mark.parametrize("semi", ["supervised", "soft_kmeans"])
def test_features_are_shifted_only_where_no_distance_minds(options, shifted, semi):
    assert bool(fitted(*options, semi=semi)._origin.any()) == shifted
    if semi != "supervised":
        assert not fitted(*options, "distance@semi.soft_kmeans.distance=cosine", semi=semi)._origin.any()
