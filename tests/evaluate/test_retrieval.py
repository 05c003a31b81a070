import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from torch.overrides import TorchFunctionMode

import episodic.evaluate.retrieval
from episodic.core.distances.cosine import Cosine
from episodic.core.distances.dot import Dot
from episodic.core.distances.euclidean import Euclidean
from episodic.core.distances.snr import SNR
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.evaluate.intervals import mean_interval
from episodic.evaluate.retrieval import retrieval
from episodic.evaluate.spread import density, spectral_decay
from tests.core.losses.laws import FOUR, FOUR_LABELS, batch

KS = (1, 2, 5, 10)


def with_lone_labels(**settings):
    """Classes of unequal size, one of them of a single item."""
    embeddings, labels = batch(classes=6, per_class=9, **settings)
    keep = torch.ones(len(labels), dtype=torch.bool)
    keep[(labels == 2).nonzero()[1:, 0]] = False
    keep[(labels == 4).nonzero()[3:, 0]] = False
    return embeddings[keep], labels[keep]


def ranked(relevance):
    """A query at 0 and a gallery at 1, 2, 3, ...: `relevance` says which of it are of the query's class."""
    gallery = torch.arange(1, len(relevance) + 1)[:, None].double()
    found = retrieval(
        torch.zeros(1, 1, dtype=torch.float64),
        torch.ones(1, dtype=torch.long),
        gallery,
        torch.tensor(relevance),
        distance=Euclidean(),
    )
    return found.precision_at_1, found.r_precision, found.map_at_r


def slow(queries, labels, gallery=None, gallery_labels=None, ks=KS):
    """By the definitions, one query and one item at a time, for vectors of whole numbers."""
    alone = gallery is None
    gallery, gallery_labels = (queries, labels) if alone else (gallery, gallery_labels)
    values = {name: [] for name in [*(f"recall@{k}" for k in ks), "r_precision", "map@r"]}
    skipped = 0
    for q, (query, label) in enumerate(zip(queries.tolist(), labels.tolist(), strict=True)):
        items = [
            (sum((int(a) - int(b)) ** 2 for a, b in zip(query, item, strict=True)), other == label)
            for i, (item, other) in enumerate(zip(gallery.tolist(), gallery_labels.tolist(), strict=True))
            if not (alone and i == q)
        ]
        relevance = [own for _, own in sorted(items)]  # at equal distance False, another class, comes first
        n = sum(relevance)
        if n == 0:
            skipped += 1
            continue
        best = min(distance for distance, own in items if own)
        for k in ks:
            values[f"recall@{k}"].append(sum(d <= best and not own for d, own in items) < k)
        values["r_precision"].append(sum(relevance[:n]) / n)
        values["map@r"].append(sum(sum(relevance[: i + 1]) / (i + 1) for i in range(n) if relevance[i]) / n)
    return values, skipped


def test_four_vectors_by_hand():
    found = retrieval(FOUR, FOUR_LABELS, ks=(1, 2, 3))
    assert found.values["recall@1"].tolist() == [1, 0, 0, 1]
    assert found.recall_at == {1: 0.5, 2: 0.75, 3: 1.0}  # 0 and 3 are equally near to 2
    assert (found.precision_at_1, found.r_precision, found.map_at_r, found.skipped) == (0.5, 0.5, 0.5, 0)


@pytest.mark.parametrize(
    ("relevance", "wanted"),
    [
        ([1, 0, 1, 0, 0, 0, 1, 0, 0, 1], (1, 0.5, (1 + 2 / 3) / 4)),
        ([1, 1, 0, 0, 1, 1], (1, 0.5, 0.5)),
        ([0, 1, 1, 0, 0, 1], (0, 2 / 3, 0.3888889)),
        ([1, 1, 1, 0], (1, 1, 1)),
        ([0, 0, 1, 1], (0, 0, 0)),
    ],
)
def test_lists_of_relevance_by_hand(relevance, wanted):
    assert ranked(relevance) == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("separate", [True, False])
def test_equals_pytorch_metric_learning(normalize, separate):
    embeddings, labels = with_lone_labels(dtype=torch.float32)
    more = batch(classes=5, per_class=7, seed=1, dtype=torch.float32) if separate else ()
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        device=torch.device("cpu"),
        knn_func=CustomKNN(LpDistance(normalize_embeddings=normalize)),
    )
    wanted = calculator.get_accuracy(embeddings, labels, *more)
    found = retrieval(embeddings, labels, *more, distance=Cosine() if normalize else Euclidean())
    assert 0 < found.map_at_r < found.r_precision < 1
    assert found.precision_at_1 == pytest.approx(wanted["precision_at_1"], abs=1e-9)
    assert found.r_precision == pytest.approx(wanted["r_precision"], abs=1e-7)
    assert found.map_at_r == pytest.approx(wanted["mean_average_precision_at_r"], abs=1e-7)
    assert found.skipped == (9 if separate else 1)  # of class 5, or the lone item of class 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [2**26, 2000])
def test_equals_a_slow_loop_with_many_ties(monkeypatch, dtype, chunk):
    monkeypatch.setattr(episodic.evaluate.retrieval, "CHUNK_BYTES", chunk)
    generator = torch.Generator().manual_seed(0)
    draw = lambda high, *shape: torch.randint(high, shape, generator=generator)  # noqa: E731
    for seed in range(5):
        queries, labels = draw(4, 60, 2), draw(3 + 8 * (seed % 2), 60)  # sixteen places: copies everywhere
        labels[0] = 99
        gallery, gallery_labels = draw(4, 41, 2), draw(12, 41)
        for more in ([], [gallery, gallery_labels]):
            wanted, skipped = slow(queries, labels, *more)
            in_type = [queries.to(dtype), labels] + ([gallery.to(dtype), gallery_labels] if more else [])
            found = retrieval(*in_type, ks=KS, distance=Euclidean())
            assert found.skipped == skipped > 0
            assert found.values.keys() == wanted.keys()
            for name, values in wanted.items():
                np.testing.assert_allclose(found.values[name], np.array(values, float), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normalize", [True, False])
def test_copies_of_an_item_are_equally_near_wherever_they_stand(dtype, normalize):
    """A matrix product may give equal columns scores that differ in the last digit."""
    for n, dim in ((301, 127), (517, 512), (97, 33)):
        torch.manual_seed(n)
        points = torch.randn(n, dim).to(dtype)
        # Each point once in its class and once in the next, so that a copy of another class is as near as anything.
        embeddings = torch.cat([points, points, points])
        labels = torch.cat([torch.arange(n), torch.arange(n), (torch.arange(n) + 1) % n])
        if normalize:  # of any length
            embeddings = embeddings.float() * (torch.rand(3 * n, 1) + 0.5)
        order = torch.randperm(3 * n)
        found = retrieval(embeddings[order], labels[order], ks=(1, 2), distance=Cosine() if normalize else Euclidean())
        first_two = (order < 2 * n).numpy()
        assert found.values["recall@1"].sum() == 0
        # The first two copies have one stranger at distance 0, the third has no friend there.
        assert found.values["recall@2"][first_two].all()


def test_all_the_same_find_nothing_and_neither_do_zeros():
    labels = torch.arange(4).repeat(5)
    for embeddings in (torch.full((20, 7), 0.3), torch.zeros(20, 7)):
        for normalize in (True, False):
            found = retrieval(embeddings, labels, ks=(1, 15, 16), distance=Cosine() if normalize else Euclidean())
            assert found.recall_at == {1: 0, 15: 0, 16: 1}  # fifteen strangers come first
            assert (found.r_precision, found.map_at_r) == (0, 0)


def test_recall_rises_with_k_to_one_and_perfect_embeddings_find_all():
    embeddings, labels = batch(classes=8, per_class=3)
    recall = list(retrieval(embeddings, labels, ks=range(1, 24)).recall_at.values())
    assert recall == sorted(recall)
    assert recall[0] < recall[-1] == 1
    found = retrieval(torch.eye(8)[labels], labels)
    assert (found.precision_at_1, found.r_precision, found.map_at_r) == (1, 1, 1)


def test_names_of_labels_order_and_length_do_not_matter():
    embeddings, labels = with_lone_labels()
    before = retrieval(embeddings, labels, ks=KS)
    names = torch.tensor([-3, 2**40, 2**40 + 1, 7, 0, 12])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    lengths = torch.rand(len(labels), 1, dtype=torch.float64) + 0.5
    after = retrieval((lengths * embeddings)[order], names[labels][order], ks=KS)
    kept = labels[order] != 2
    place = (labels != 2).cumsum(0)[order][kept] - 1
    for name, values in before.values.items():
        np.testing.assert_allclose(after.values[name], values[place.numpy()])


class Largest(TorchFunctionMode):
    """How many numbers the largest tensor has that anything computes."""

    numbers = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.numel())
        return out


def test_no_tensor_is_larger_than_the_input_or_a_chunk(monkeypatch):
    embeddings, labels = batch(classes=100, per_class=10, dim=8, dtype=torch.float32)
    whole = retrieval(embeddings, labels, ks=(1, 1000))
    monkeypatch.setattr(episodic.evaluate.retrieval, "CHUNK_BYTES", 2**16)
    with Largest() as largest:
        chunked = retrieval(embeddings, labels, ks=(1, 1000))
    assert largest.numbers <= max(embeddings.numel(), 2**16 // 4) < len(labels) ** 2 / 50
    for name, values in whole.values.items():
        np.testing.assert_array_equal(chunked.values[name], values)


def test_autocast_and_coarse_products_change_nothing(monkeypatch):
    embeddings, labels = batch(classes=10, per_class=6, dtype=torch.float32)
    wanted = retrieval(embeddings, labels).values
    product, precisions = torch.addmm, []
    spy = lambda *a, **k: precisions.append(torch.get_float32_matmul_precision()) or product(*a, **k)  # noqa: E731
    monkeypatch.setattr(torch, "addmm", spy)  # many a processor has no coarse products
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = retrieval(embeddings, labels).values
        assert torch.get_float32_matmul_precision() == "medium"
        assert set(precisions) == {"highest"}
    finally:
        torch.set_float32_matmul_precision("highest")
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_finds_what_the_processor_finds():
    embeddings, labels = batch(classes=50, per_class=8, dtype=torch.float32)
    wanted = retrieval(embeddings, labels).values
    for name, values in retrieval(embeddings.cuda(), labels.cuda()).values.items():
        np.testing.assert_array_equal(values, wanted[name])
    assert density(embeddings.cuda(), labels.cuda()).ratio == pytest.approx(density(embeddings, labels).ratio, abs=1e-5)
    assert spectral_decay(embeddings.cuda()) == pytest.approx(spectral_decay(embeddings), abs=1e-4)


def test_intervals_are_those_of_the_queries():
    found = retrieval(*batch())
    assert found.intervals["map@r"] == mean_interval(found.values["map@r"])
    assert found.intervals["recall@1"].mean == found.precision_at_1 == found.recall_at[1]
    assert len(found.values["recall@1"]) == 20


def test_what_has_no_answer_is_refused():
    embeddings, labels = batch()
    with pytest.raises(ValueError, match="no query has another item of its class"):
        retrieval(embeddings, torch.arange(20))
    with pytest.raises(ValueError, match="no query has another item of its class"):
        retrieval(embeddings, labels, embeddings, labels + 10)
    with pytest.raises(ValueError, match="gallery must be some vectors with a label each, got 0 vectors and 0 labels"):
        retrieval(embeddings, labels, embeddings[:0], labels[:0])
    with pytest.raises(ValueError, match="a gallery needs its labels"):
        retrieval(embeddings, labels, embeddings)
    with pytest.raises(ValueError, match=r"at least 1, got \[0, 1\]"):
        retrieval(embeddings, labels, ks=(0, 1))
    embeddings[3, 2] = math.nan
    with pytest.raises(ValueError, match="embeddings must be finite"):
        retrieval(embeddings, labels)


@pytest.mark.parametrize("distance", [SNR(), Dot(), SquaredEuclidean()])
@pytest.mark.parametrize("separate", [True, False])
def test_any_distance_ranks_by_its_own_matrix(distance, separate):
    embeddings, labels = batch(classes=5, per_class=6, dtype=torch.float64)
    gallery = batch(classes=5, per_class=4, seed=1, dtype=torch.float64) if separate else None
    found = retrieval(embeddings, labels, *(gallery or ()), ks=(1, 3), distance=distance)
    items, names = gallery or (embeddings, labels)
    scores = distance.similarities(embeddings, items)
    if not separate:
        scores.fill_diagonal_(-torch.inf)
    order = scores.argsort(1, descending=True)
    same = names[order] == labels[:, None]
    assert found.values["recall@1"].tolist() == same[:, 0].double().tolist()
    assert found.values["recall@3"].tolist() == same[:, :3].any(1).double().tolist()
    wanted = 4 if separate else 5
    assert found.values["r_precision"] == pytest.approx(same[:, :wanted].double().mean(1).numpy())


def test_copies_are_equally_near_by_any_distance():
    embeddings, labels = batch(classes=4, per_class=3)
    copied, names = torch.cat([embeddings, embeddings]), torch.cat([labels, labels + 4])
    assert retrieval(copied, names, distance=SNR()).precision_at_1 == 0
