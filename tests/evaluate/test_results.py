import numpy as np
import pytest

from episodic.evaluate.clustering import Clustering
from episodic.evaluate.results import Results
from episodic.evaluate.retrieval import retrieval
from episodic.evaluate.scoring import Evaluation
from episodic.evaluate.spread import Density
from tests.conftest import random_store
from tests.core.losses.laws import batch
from tests.evaluate.test_tables import SHAPE


def evaluation(*accuracies):
    return Evaluation(np.array(accuracies), np.empty(0), "abc", False, 1.0)


def test_what_is_printed_is_what_is_written():
    store, results = random_store(split="test"), Results(SHAPE)
    results.add(evaluation(0.5, 0.7), store, evaluation(0.4, 0.7))
    found = retrieval(*batch(classes=4, per_class=5))
    results.add_retrieval(found, store)
    results.add_spread(Clustering(0.5, 0.4, 0.3), Density(0.2, 0.4, 0.5), 0.1, store)
    assert results.protocol == "5-way 1-shot, 15 queries a class, inductive"
    assert results.record["test/difference"] == pytest.approx(0.05)
    assert results.record["test/recall@1"] == found.precision_at_1
    assert results.record["test/nmi"] == 0.5
    blocks = str(results).split("\n\n")
    assert len(blocks) == 3
    assert "60.00" in blocks[0]
    assert "  difference" in blocks[0]
    assert f"{100 * found.precision_at_1:.2f}" in blocks[1]
    assert "50.00" in blocks[2]


def test_without_a_rival_there_is_no_difference():
    results = Results(SHAPE)
    results.add(evaluation(0.5, 0.7), random_store())
    assert "difference" not in str(results)
    assert not any("difference" in key for key in results.record)
