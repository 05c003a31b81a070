"""Curves of growth: what they measure, held to what can be counted."""

import argparse
import itertools
import mmap

import numpy as np
import pytest


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_is_that_of_the_upper_half_of_the_sizes(power):
    from benchmark.growth import exponent

    sizes = np.array([1, 10, 100, 1_000, 10_000])
    seconds = 3e-4 * sizes.astype(float) ** power
    seconds[:2] += 1  # a fixed cost that only the small sizes feel
    assert exponent(sizes, seconds) == pytest.approx(power)


def test_curves_of_growth_do_the_work_that_they_name(monkeypatch):
    from benchmark import growth

    seconds = itertools.count(1.0)
    monkeypatch.setattr(growth, "timed", lambda work: (work(), next(seconds))[1])
    monkeypatch.setattr(growth, "ENOUGH", 0)
    monkeypatch.setattr(growth, "alone", lambda function, *arguments: function(*arguments))
    for name, sizes in {"DRAWN": (100, 600), "SCORED": (50, 300), "STORED": (1_000, 5_000), "WAYS": (5, 8)}.items():
        monkeypatch.setattr(growth, name, sizes)
    blocks, scored, classified = [], [], []
    block, evaluate, classify = growth.EpisodeSampler.block, growth.evaluate, growth.Prototypical.classify
    monkeypatch.setattr(growth.EpisodeSampler, "block", lambda self, b: blocks.append(b) or block(self, b))
    entries = growth.drawing()
    assert list(entries) == [100, 600]
    assert blocks == [0, 0, 1, 2]  # 256 episodes in each

    def evaluated(*arguments):
        scored.append(evaluate(*arguments))
        return scored[-1]

    monkeypatch.setattr(growth, "evaluate", evaluated)
    monkeypatch.setattr(growth.Prototypical, "classify", lambda self, t: classified.append(t) or classify(self, t))
    entries, text = growth.growth(argparse.Namespace(repeats=1))
    assert [len(evaluation.accuracies) for evaluation in scored] == [50, 300]
    ways = [(task.n_way, task.query.shape[1]) for task in classified if task.query.shape[0] == 16]
    assert ways == [(5, 75), (8, 120)]
    curves = {"sampler": (100, 600), "evaluation": (50, 300), "store": (1_000, 5_000), "ways, logits": (5, 8)}
    for name, sizes in curves.items():
        first, second, fit = (entry for entry in entries if entry["row"].startswith(f"growth, {name}"))
        assert (first["size"], second["size"]) == sizes
        power = np.log(second["ours"] / first["ours"]) / np.log(sizes[1] / sizes[0])
        assert fit["ours"] == pytest.approx(power)
        assert f"{power:.2f}" in text


def test_images_of_a_mapped_store_are_not_in_anonymous_memory(tmp_path):
    from benchmark import growth

    if growth.anonymous_memory() is None:
        pytest.skip("the system does not tell of anonymous memory")
    path = tmp_path / "images.npy"
    growth.write_images(path, 200_000)
    images = np.load(path, mmap_mode="r")
    assert images.shape == (200_000, 1, 28, 28)
    assert 126 < images[::1000].mean() < 129
    _, beside = growth.gathering(path, 2)
    assert beside["anonymous_mib"] * 2**20 < 0.8 * images.nbytes
    before = growth.anonymous_memory()
    # Of the system itself: a copy could lie in memory that earlier tests had freed.
    with mmap.mmap(-1, images.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        taken.write(images.tobytes())
        assert growth.anonymous_memory() - before > 0.9 * images.nbytes
