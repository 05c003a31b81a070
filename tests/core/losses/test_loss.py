import subprocess
import sys

import pytest
import torch

from episodic.core.distances.cosine import Cosine
from episodic.core.distances.dot import Dot
from episodic.core.distances.euclidean import Euclidean
from episodic.core.distances.snr import SNR
from episodic.core.distances.squared_euclidean import SquaredEuclidean
from episodic.core.functional.pairs import References, cosine, dot, masks
from episodic.core.losses.loss import AbstractPairLoss, AbstractProxyLoss, Batch
from episodic.core.losses.margin import Margin
from episodic.core.losses.proxy_anchor import ProxyAnchor
from episodic.core.losses.upper_bound import UpperBound
from tests.conftest import NextRow


class Taken(AbstractPairLoss):
    """Keeps what it is given."""

    of_similarities = True

    def of_pairs(self, pairs):
        assert not torch.is_autocast_enabled("cpu")
        self.taken = pairs
        return pairs.matrix.sum()


class OfDistances(Taken):
    of_similarities = False


class Halved(Taken):
    """Compares the first half of a batch with the second."""

    def prepare(self, batch, against_itself):
        self.against_itself, half = against_itself, len(batch.labels) // 2
        rest = References(batch.embeddings[half:], batch.labels[half:])
        return Batch(batch.embeddings[:half], batch.labels[:half], rest)


class Shifted(AbstractProxyLoss):
    """The sum of the labels that it is given."""

    def of_classes(self, embeddings, labels):
        return embeddings.sum() * 0 + labels.sum()


@pytest.mark.parametrize(("normalize", "compare"), [(True, cosine), (False, dot)])
def test_a_pair_loss_compares_the_batch_with_itself_or_with_references(normalize, compare):
    x, y = torch.randn(4, 3), torch.tensor([0, 0, 1, 2])
    loss = Taken(Dot(), normalize)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss(x, y)
    taken = loss.taken
    for found, wanted in zip(
        (taken.matrix, taken.positive, taken.negative), (compare(x, x), *masks(y, y, torch.arange(4))), strict=True
    ):
        torch.testing.assert_close(found, wanted)
    assert taken.labels is y
    assert taken.embeddings is x
    references = References(torch.randn(5, 3), torch.tensor([2, 1, 0, 0, 7]), torch.tensor([2, 3, 1, 0]))
    loss(x, y, references)
    taken = loss.taken
    expected = compare(x, references.embeddings), *masks(y, references.labels, references.self_index)
    for found, wanted in zip((taken.matrix, taken.positive, taken.negative), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("distance", [Cosine(), Euclidean(), SquaredEuclidean(), SNR()], ids=str)
def test_any_distance_comes_in_the_direction_that_a_loss_asks_for(distance):
    x, y = torch.randn(4, 3), torch.tensor([0, 0, 1, 2])
    near, far = Taken(distance, False), OfDistances(distance, False)
    near(x, y), far(x, y)
    torch.testing.assert_close(near.taken.matrix, distance.similarities(x, x))
    torch.testing.assert_close(far.taken.matrix, distance.distances(x, x))


def test_a_subclass_may_choose_what_is_compared():
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 2])
    loss = Halved(Dot(), False)
    loss(x, y)
    assert loss.against_itself
    torch.testing.assert_close(loss.taken.matrix, x[:2] @ x[2:].T)
    assert loss.taken.positive.tolist() == [[True, False], [False, False]]
    assert loss.taken.embeddings is x
    loss(x, y, References(x, y))
    assert not loss.against_itself


def test_a_similarity_that_is_no_distance_is_refused():
    with pytest.raises(
        ValueError, match=r"OfDistances needs distances, and Dot\(\) cannot be read as one: take euclid"
    ):
        OfDistances(Dot(), True)


def test_a_proxy_loss_exchanges_labels_in_training_and_refuses_those_out_of_range():
    loss, x = Shifted(3, NextRow(3)), torch.zeros(2, 4)
    assert loss.train()(x, torch.tensor([0, 1])) == 3
    assert loss.eval()(x, torch.tensor([0, 1])) == 1
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got 1\.\.3"):
        loss(x, torch.tensor([3, 1]))
    with pytest.raises(ValueError, match="n_classes must be at least 1, got 0"):
        Shifted(0, None)


@pytest.mark.parametrize("distance", [Cosine(), Dot(), Euclidean(), SquaredEuclidean(), SNR()], ids=str)
def test_normalizing_is_without_effect_where_length_is_ignored(distance):
    x, y = 3 * torch.randn(4, 3), torch.tensor([0, 0, 1, 2])
    raw, normalized = Taken(distance, False), Taken(distance, True)
    raw(x, y), normalized(x, y)
    idle = torch.allclose(raw.taken.matrix, normalized.taken.matrix)
    assert raw.without_effect.keys() == normalized.without_effect.keys() == ({"normalize"} if idle else set())


LONG = torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("embeddings", "labels", "error", "message"),
    [
        ([[1.0]], LONG, TypeError, "embeddings must be a tensor, got list"),
        (torch.zeros(3, 4), [0, 1, 1], TypeError, "labels must be a tensor, got list"),
        (torch.zeros(3, 4).long(), LONG, TypeError, "embeddings must be floating-point numbers, got torch.int64"),
        (
            torch.zeros(3, 4),
            LONG.float(),
            TypeError,
            r"labels must be integers, got torch.float32: convert .* labels.long\(\)",
        ),
        (torch.zeros(3, 4), LONG == 1, TypeError, "labels must be integers, got torch.bool"),
        (torch.zeros(3), LONG, ValueError, r"embeddings must have the shape \[N, D\], got \[3\]"),
        (torch.zeros(3, 4, 1), LONG, ValueError, r"embeddings must have the shape \[N, D\], got \[3, 4, 1\]"),
        (torch.zeros(3, 4), LONG[:2], ValueError, r"labels must have the shape \[3\], one for each .*, got \[2\]"),
        (
            torch.zeros(3, 4),
            LONG[:, None],
            ValueError,
            r"labels must have the shape \[3\], one for each .*, got \[3, 1\]",
        ),
        (torch.zeros(3, 4), LONG.to("meta"), ValueError, "labels must be where the embeddings are, on cpu, got meta"),
        (
            torch.zeros(3, 4),
            LONG - 1,
            ValueError,
            "labels must not be negative, got -1: leave out the items without a label",
        ),
    ],
)
def test_a_batch_of_another_kind_is_refused_by_name(embeddings, labels, error, message):
    loss = Taken(Dot(), normalize=True)
    with pytest.raises(error, match=message):
        loss(embeddings, labels)
    with pytest.raises(error, match=message):
        loss(embeddings=embeddings, labels=labels)


def test_embeddings_of_another_dim_are_refused():
    with pytest.raises(ValueError, match="embeddings must have 4 coordinates, the dim of the loss, got 3"):
        UpperBound(4, 2)(torch.zeros(3, 3), LONG)


@pytest.mark.parametrize(
    "loss", [UpperBound(4, 2), Margin(triplets="all", learn_beta=True, n_classes=2), ProxyAnchor(4, 2)]
)
def test_labels_above_the_number_of_classes_are_refused(loss):
    loss(torch.ones(3, 4), LONG)
    for labels, message in ((LONG + 1, r"labels must lie in 0\.\.1, got 1\.\.2"), (LONG - 1, r"0\.\.1, got -1\.\.0")):
        with pytest.raises(ValueError, match=message):
            loss(torch.ones(3, 4), labels)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_labels_may_be_any_integers(dtype):
    loss, x = ProxyAnchor(4, 2), torch.randn(3, 4)
    assert torch.equal(loss(x, LONG.to(dtype)), loss(x, LONG))


@pytest.mark.slow
def test_values_of_labels_are_not_read_in_a_compiled_loss():
    # A value that decides would break the graph, which fullgraph refuses. The type checks of the tests cannot be compiled.
    code = (
        "import torch\n"
        "from episodic.core.losses.proxy_anchor import ProxyAnchor\n"
        "loss, x, y = ProxyAnchor(4, 2), torch.randn(3, 4), torch.tensor([0, 1, 1])\n"
        "compiled = torch.compile(loss, backend='eager', fullgraph=True)\n"
        "torch.testing.assert_close(compiled(x, y), loss(x, y))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_argument_is_told_by_python():
    with pytest.raises(TypeError, match=r"missing .*argument: 'labels'"):
        Taken(Dot(), normalize=True)(torch.zeros(3, 4))
