import pickle
from itertools import product

import pytest
import torch
from scipy.stats import chisquare

from episodic.core.distances.cosine import Cosine
from episodic.core.distances.dot import Dot
from episodic.core.distances.euclidean import Euclidean
from episodic.core.distances.snr import SNR
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.core.functional.pairs import euclidean, masks, squared_euclidean, unit
from episodic.core.losses.miners import (
    FARTHEST,
    MINERS,
    NEAREST,
    batch_hard,
    distance_weighted,
    log_weights,
    make_miner,
    rho_swap,
    semi_hard,
    soft_hard,
)
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch

ALL_MINERS = [
    batch_hard,
    semi_hard,
    soft_hard,
    lambda *matrices: distance_weighted(*matrices, dim=16),
    lambda *matrices: rho_swap(*matrices, miner=semi_hard, probability=0.5),
]


def matrices(embeddings, labels, distance=euclidean):
    """Distances, and who is positive and negative, of a batch against itself."""
    x = unit(embeddings)
    return distance(x, x), *masks(labels, labels, torch.arange(len(labels)))


def on_a_line(places, labels):
    """Whole distances, with many ties."""
    places = torch.tensor(places, dtype=torch.float64)
    labels = torch.tensor(labels)
    return (places[:, None] - places).abs(), *masks(labels, labels, torch.arange(len(labels)))


def listed(triplets):
    """The triplets (a, p, n), where the positive is not the anchor itself."""
    return {(a, p, triplets.negative[a, p].item()) for a, p in (triplets.valid & ~triplets.itself).nonzero().tolist()}


def of_row(mask, row):
    return mask[row].nonzero()[:, 0].tolist()


def rows(positive, negative):
    """Each anchor that has both, with its positives and its negatives."""
    for a in range(len(positive)):
        if positive[a].any() and negative[a].any():
            yield a, of_row(positive, a), of_row(negative, a)


@pytest.mark.parametrize("miner", ALL_MINERS)
def test_triplets_are_of_a_class_and_another(miner):
    embeddings, _ = batch(classes=6, per_class=4)
    labels = torch.tensor([0] * 9 + [1] * 7 + [2] * 5 + [3, 3, 4])  # the last has no positive
    distances, positive, negative = matrices(embeddings[: len(labels)], labels)
    triplets = miner(distances, positive, negative)
    assert triplets.valid.any()
    assert (positive | ~triplets.valid).all()
    good = torch.where(triplets.itself, positive.gather(1, triplets.negative), negative.gather(1, triplets.negative))
    assert good[triplets.valid].all()
    assert (triplets.valid.any(1) == positive.any(1)).all()


def test_batch_hard_takes_farthest_positive_and_nearest_negative():
    distances, positive, negative = matrices(*batch())
    wanted = {
        (a, max(p, key=lambda i: distances[a, i]), min(n, key=lambda i: distances[a, i]))
        for a, p, n in rows(positive, negative)
    }
    assert listed(batch_hard(distances, positive, negative)) == wanted


def test_semi_hard_of_four_vectors_by_hand():
    found = listed(semi_hard(*matrices(FOUR, FOUR_LABELS, squared_euclidean)))
    assert found == {(0, 1, 2), (1, 0, 3), (2, 3, 0), (3, 2, 1)}  # of (2, 3) none is farther: the farthest of all


def test_semi_hard_takes_the_next_farther_negative_never_a_tie():
    distances, positive, negative = on_a_line([0, 2, -2, 2, 3, -3, 7, 5, 9, 9], [0, 0, 0, 1, 1, 2, 2, 2, 3, 4])
    triplets = semi_hard(distances, positive, negative)
    assert (triplets.valid == positive).all()
    fell_back = 0
    for a, p, n in listed(triplets):
        away = [distances[a, i].item() for i in of_row(negative, a)]
        farther = [d for d in away if d > distances[a, p]]
        fell_back += not farther
        assert distances[a, n] == (min(farther) if farther else max(away))
    assert fell_back
    assert distances[0, 3] == distances[0, 1]  # the tie
    assert triplets.negative[0, 1] != 3


def test_soft_hard_draws_every_hard_positive_and_negative_and_no_other():
    distances, positive, negative = matrices(*batch(classes=3, per_class=4, dim=4))
    wanted, narrowed = set(), False
    for a, p, n in rows(positive, negative):
        hard_p = [i for i in p if distances[a, i] > min(distances[a, n])]
        hard_n = [i for i in n if distances[a, i] < max(distances[a, p])]
        narrowed |= 0 < len(hard_p) < len(p) and 0 < len(hard_n) < len(n)
        wanted |= {(a, *pair) for pair in product(hard_p or p, hard_n or n)}
    assert narrowed
    torch.manual_seed(0)
    draws = [soft_hard(distances, positive, negative) for _ in range(400)]
    assert all((each.valid.sum(1) == 1).all() for each in draws)
    assert set.union(*map(listed, draws)) == wanted


def test_soft_hard_draws_from_all_where_classes_are_apart():
    distances, positive, negative = on_a_line([0, 1, 3, 100, 101], [0, 0, 0, 1, 1])
    torch.manual_seed(0)
    found = set.union(*(listed(soft_hard(distances, positive, negative)) for _ in range(200)))
    assert found == {(a, p, n) for a, ps, ns in rows(positive, negative) for p, n in product(ps, ns)}


@pytest.mark.parametrize("dim", [3, 8, 24])
def test_weights_are_one_over_the_density_of_distances_on_the_sphere(dim):
    torch.manual_seed(0)
    found = euclidean(*torch.nn.functional.normalize(torch.randn(2, 3000, dim), dim=-1)).flatten()
    edges = torch.linspace(NEAREST, FARTHEST, 10)
    counts = torch.histogram(found, edges).hist
    shares = 1 / log_weights((edges[1:] + edges[:-1]) / 2, dim).exp()
    kept = counts > 1000
    assert kept.sum() >= 4
    ratios = (counts / shares)[kept]
    torch.testing.assert_close(ratios, ratios.mean().expand_as(ratios), rtol=0.15, atol=0)


def test_weights_in_space_are_one_over_the_distance_down_to_the_nearest():
    at = log_weights(torch.tensor([0.1, NEAREST, 1.0], dtype=torch.float64), 3).exp()
    torch.testing.assert_close(at / at[2], torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    high = log_weights(torch.tensor([0.5, 0.6, 1.0, 1.2, 1.4], dtype=torch.float64), 512)
    torch.testing.assert_close(high, high.new_tensor([369.9, 284.5, 73.2, 20.6, -0.2]), atol=0.06, rtol=0)


def first_row(distances, positives=1):
    """One anchor with `positives` positives and negatives at `distances`, as three matrices."""
    row = torch.tensor([[0.3] * positives + distances])
    positive = torch.arange(row.shape[1])[None] < positives
    return row, positive, ~positive


@pytest.mark.parametrize("distance", [Euclidean(), SquaredEuclidean(), Cosine()], ids=str)
def test_negatives_are_drawn_as_often_as_they_weigh(distance):
    away = torch.tensor([0.4, 0.8, 1.1, 1.3, 1.45, 1.9], dtype=torch.float64)
    n = 6
    near = away[:4].clamp(min=0.5)
    weights = near ** (2 - n) * (1 - near**2 / 4) ** ((3 - n) / 2)
    kinds = {Euclidean(): away, SquaredEuclidean(): away**2, Cosine(): away**2 / 2}
    pairs = 4000
    torch.manual_seed(0)
    row, positive, negative = first_row(kinds[distance].tolist(), pairs)
    triplets = distance_weighted(row, positive, negative, dim=n, distance=distance)
    counts = torch.bincount(triplets.negative[triplets.valid] - pairs, minlength=6)
    assert counts.sum() == pairs
    assert (counts[4:] == 0).all()
    assert chisquare(counts[:4].numpy(), (pairs * weights / weights.sum()).numpy()).pvalue > 0.001


def test_negatives_beyond_the_farthest_are_drawn_evenly_where_there_is_no_other():
    torch.manual_seed(0)
    triplets = distance_weighted(*first_row([1.5, 1.7, 2.0], 3000), dim=128)
    counts = torch.bincount(triplets.negative[triplets.valid] - 3000, minlength=3)
    assert chisquare(counts.numpy()).pvalue > 0.001


def test_no_anchor_is_lost_at_512_dimensions():
    """Weights of one anchor are as nothing beside another's; each still draws, and only what is near enough."""
    distances, positive, negative = (m.repeat(2, 1) for m in first_row([1.5, 1.39, 1.3], 500))
    distances[0, -1] = 0.5
    torch.manual_seed(0)
    triplets = distance_weighted(distances, positive, negative, dim=512)
    assert (triplets.valid == positive).all()
    assert (triplets.negative[0] == 502).all()
    assert set(triplets.negative[1].tolist()) == {501, 502}


def test_swap_of_probability_0_is_the_miner():
    given = matrices(*batch())
    torch.manual_seed(0)
    expected = distance_weighted(*given, dim=16)
    torch.manual_seed(0)
    found = rho_swap(*given, miner=lambda *each: distance_weighted(*each, dim=16), probability=0.0)
    assert (found.valid == expected.valid).all()
    assert (found.negative == expected.negative).all()
    assert not found.itself.any()


def test_swap_pushes_random_positives_from_their_anchor():
    distances, positive, negative = matrices(*batch(classes=2, per_class=40))
    torch.manual_seed(0)
    all_swapped = rho_swap(distances, positive, negative, miner=semi_hard, probability=1.0)
    to_positive, to_negative = all_swapped.distances(distances)
    assert (to_positive[positive] == 0).all()
    taken = positive.gather(1, all_swapped.negative)
    assert taken[positive].all()
    torch.testing.assert_close(to_negative, distances.gather(1, all_swapped.negative))
    counts = torch.zeros_like(distances).scatter_add(1, all_swapped.negative, positive.to(distances.dtype))
    assert chisquare(counts[positive].numpy()).pvalue > 0.001
    some = rho_swap(distances, positive, negative, miner=semi_hard, probability=0.35)
    assert some.itself.sum() / positive.sum() == pytest.approx(0.35, abs=0.03)
    assert listed(some) < listed(semi_hard(distances, positive, negative))


@pytest.mark.parametrize("miner", ALL_MINERS)
def test_counts_are_those_of_the_list_of_triplets(miner):
    given = matrices(*batch())
    torch.manual_seed(0)
    triplets = miner(*given)
    as_positive, as_negative = torch.zeros(2, 20, 20, dtype=torch.long)
    for a, p in triplets.valid.nonzero().tolist():
        as_positive[a, p] += not triplets.itself[a, p]
        as_negative[a, triplets.negative[a, p]] += 1
    for found, wanted in zip(triplets.counts(), (as_positive, as_negative), strict=True):
        assert (found == wanted).all()


@pytest.mark.parametrize("miner", ALL_MINERS)
@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3)])
def test_nothing_of_nothing(miner, shape):
    nothing = torch.zeros(shape, dtype=torch.bool)
    assert miner(torch.zeros(shape), nothing, nothing).valid.shape == shape


@pytest.mark.parametrize("miner", ALL_MINERS)
@pytest.mark.parametrize("kind", ["one class", "no positive"])
def test_no_triplet_without_a_positive_or_a_negative(miner, kind):
    embeddings, _ = batch()
    labels = torch.zeros(20, dtype=torch.long) if kind == "one class" else torch.arange(20)
    assert not miner(*matrices(embeddings, labels)).valid.any()


def test_settings_make_a_miner():
    given = matrices(*batch())
    assert make_miner("all", SNR(), False, None, 0.0) is None
    assert make_miner("hard", SNR(), False, None, 0.0) is MINERS["hard"]
    miner = pickle.loads(pickle.dumps(make_miner("distance_weighted", Cosine(), True, 16, 0.5)))
    assert miner(*given).itself.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("easy", Euclidean(), True, None, 0.0), "triplets must be one of all, hard, .*, got 'easy'"),
        (("hard", Euclidean(), True, None, 1.5), "rho must be a probability, got 1.5"),
        (("all", Euclidean(), True, None, 0.5), "rho swaps mined triplets"),
        (("distance_weighted", Euclidean(), True, None, 0.0), "need dim, .* got dim=None"),
        (("distance_weighted", Euclidean(), False, 16, 0.0), "got dim=16, normalize=False"),
        (("distance_weighted", SNR(), True, 16, 0.0), r"distance=SNR\(\)"),
        (("distance_weighted", Dot(), True, 16, 0.0), r"distance=Dot\(\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_odd_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_miner(*settings)
