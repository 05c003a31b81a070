"""The rows disk, growth and profile of the benchmark: what they measure, held to what can be counted."""

import argparse
import mmap
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)


def by_row(entries):
    return {entry["row"]: entry for entry in entries}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """16 validation classes of 20 small photographs."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for c in range(16):
        folder = root / "miniimagenet" / "val" / f"class{c:02}"
        folder.mkdir(parents=True)
        for i in range(20):
            pixels = np.kron(random.integers(256, size=(7, 7, 3)), np.ones((12, 12, 1))).astype(np.uint8)
            image = Image.fromarray(pixels)
            (image.convert("L") if i == 3 else image).save(folder / f"{i}.jpg")
    return root


def test_the_decoders_limit_and_the_peers_episode_have_the_pixels_of_our_store(files, monkeypatch, tmp_path):
    import benchmark_disk as disk

    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path))
    dataset, hardware = disk.MiniImageNet(files), disk.Hardware.choose("cpu")
    store = dataset.store("val")
    paths = [path for path, _ in dataset.listing("val").items]
    decoded = np.zeros((len(paths), 84, 84, 3), np.uint8)
    disk.decode_all(paths, decoded)
    assert np.array_equal(decoded.transpose(0, 3, 1, 2), store.images.numpy())
    indices = disk.EpisodeSampler(store.labels.numpy(), episodes=1)[0]
    normalize = disk.Normalize(dataset.mean, dataset.std)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (dataset.mean, dataset.std))
    expected = torch.from_numpy((store.images.numpy()[indices.flat()] / 255 - mean) / std)
    for images in (
        disk.from_store(store, indices, normalize, hardware),
        disk.from_files(paths, indices, normalize, hardware),
    ):
        torch.testing.assert_close(images, expected, check_dtype=False, rtol=0, atol=1e-5)


def test_a_first_start_fills_an_empty_cache_and_leaves_the_users_alone(files, monkeypatch, tmp_path):
    import benchmark_disk as disk

    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path))
    monkeypatch.setattr(disk, "EPISODES", 3)
    built, render = [], disk.MiniImageNet.render
    monkeypatch.setattr(
        disk.MiniImageNet, "render", lambda *a: built.append(os.environ["EPISODIC_CACHE"]) or render(*a)
    )
    entries, text = disk.disk(argparse.Namespace(data_dir=files, repeats=1))
    assert len(built) == 3  # the first start, the store of the second starts, the stages
    assert str(tmp_path) not in built[:2]
    assert os.environ["EPISODIC_CACHE"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
    rows = by_row(entries)
    first, each = rows["disk, first start / decoder's limit"], rows["disk, an episode / from its files"]
    assert first["ratio"] == pytest.approx(first["peer"] / first["ours"])
    assert first["target"] == pytest.approx(1.3 * first["peer"])
    assert rows["disk, second start"]["target"] == 1
    assert rows["disk, second start"]["ours"] < rows["disk, second start, with imports"]["ours"]
    paid = rows["disk, episodes that pay for the first start"]["ours"]
    assert first["ours"] + paid * each["ours"] == pytest.approx(paid * each["peer"])
    assert f"after {paid:.0f} episodes" in text


def test_a_disk_without_image_files_is_refused(tmp_path):
    import benchmark_disk as disk

    with pytest.raises(FileNotFoundError, match="miniimagenet has no val split on disk"):
        disk.disk(argparse.Namespace(data_dir=tmp_path, repeats=1))


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_is_that_of_the_upper_half_of_the_sizes(power):
    from benchmark_growth import exponent

    sizes = np.array([1, 10, 100, 1_000, 10_000])
    seconds = 3e-4 * sizes.astype(float) ** power
    seconds[:2] += 1  # a fixed cost that only the small sizes feel
    assert exponent(sizes, seconds) == pytest.approx(power)


def test_curves_of_growth_do_the_work_that_they_name(monkeypatch):
    import benchmark_growth as growth

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
    import benchmark_growth as growth

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


@pytest.fixture
def training():
    import benchmark_profile as profile

    return profile.ready(2, 2, 1, 16, profile.Hardware(torch.device("cpu"), torch.float32))


@pytest.mark.parametrize("shape", [(5, 15, 3, 84), (60, 5, 1, 28)])
def test_flops_of_convolutions_are_those_that_torch_counts(shape):
    import benchmark_profile as profile

    training = profile.ready(*shape, profile.Hardware(torch.device("cpu"), torch.float32))
    counter = FlopCounterMode(display=False)
    with counter:
        training.advance()
    counted = {str(operation): n for operation, n in counter.get_flop_counts()["Global"].items()}
    flops = profile.conv_flops(training)
    assert flops["forward"] == counted["aten.convolution"]
    assert flops["backward"] == counted["aten.convolution_backward"]


def slow(function):
    def call(*arguments, **options):
        time.sleep(0.1)
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize(
    ("stage", "where"),
    [
        ("data", lambda t: (t.store.__class__, "gather")),
        ("normalize", lambda t: (t.augment.__class__, "__call__")),
        ("forward, rest", lambda t: (t.learner.backbone.blocks, "forward")),
        ("head and loss", lambda t: (t.learner, "classify")),
        ("optimizer", lambda t: (t.optimizer, "step")),
        ("Python between", lambda t: (t.learner, "after_step")),
    ],
)
def test_time_counts_for_the_stage_it_is_spent_in(training, monkeypatch, stage, where):
    import benchmark_profile as profile

    owner, name = where(training)
    if stage == "optimizer":
        training.optimizer.register_step_pre_hook(lambda *_: time.sleep(0.1))
    else:
        monkeypatch.setattr(owner, name, slow(getattr(owner, name)))
    with profile.ranges():
        training.advance()
        (parts,) = profile.profiled_steps(training, 1)
    assert max(parts, key=parts.get) == stage
    assert parts[stage] >= 0.1


def test_layers_and_their_gradients_are_parts_of_a_step(training):
    import benchmark_profile as profile

    elapsed, advance = [], training.advance

    def timed():
        started = time.perf_counter()
        advance()
        elapsed.append(time.perf_counter() - started)

    with profile.ranges():
        training.advance()
        training.advance = timed
        steps = profile.profiled_steps(training, 3)
    layers = {f"{way}, {kind}" for way in ("forward", "backward") for kind in ("conv", "norm", "pool", "ReLU", "rest")}
    rest = {"data", "normalize", "head and loss", "optimizer", "Python between"}
    assert all(set(parts) == layers | rest for parts in steps)
    for parts, seconds in zip(steps, elapsed, strict=True):
        assert 0.98 * seconds < parts.total() < 1.3 * seconds
    quicker = sorted(steps, key=lambda parts: parts.total())[:2]
    halved = profile.quicker_half(steps)
    assert sum(halved.values()) == pytest.approx(sum(parts.total() for parts in quicker) / 2)


def test_a_profile_says_its_largest_parts_and_how_near_the_limit_convolutions_are(monkeypatch):
    import benchmark_profile as profile

    monkeypatch.setattr(profile, "SETTINGS", {"tiny": (2, 2, 1, 16)})
    monkeypatch.setattr(profile, "product_rate", lambda dtype: 1e9)
    entries, text = profile.profile(argparse.Namespace(seconds=0.01))
    rows = by_row(entries)
    parts = [entry for entry in entries if "share" in entry]
    assert sum(entry["share"] for entry in parts) == pytest.approx(1)
    assert sum(entry["ours"] for entry in parts) == pytest.approx(rows["profile, tiny, sum / plain step"]["ours"])
    conv = rows["profile, tiny, forward, conv"]
    # 6 images, 64 channels, 9 weights for each input channel, on 16, 8, 4 and 2 pixels a side
    flops = 2 * 6 * 64 * 9 * (16**2 + 64 * (8**2 + 4**2 + 2**2))
    assert conv["flops"] * conv["ours"] == pytest.approx(flops)
    assert conv["of_limit"] == pytest.approx(conv["flops"] / 1e9)
    largest = [entry["row"].removeprefix("profile, tiny, ") for entry in parts[:3]]
    assert f"tiny: largest are {', '.join(largest)}." in text


@pytest.mark.parametrize(("plain", "trusted"), [(1.1, True), (0.8, False), (1.3, False)])
def test_a_sum_far_from_the_plain_step_is_said(plain, trusted):
    import benchmark_profile as profile

    parts = {"forward, conv": 0.7, "data": 0.2, "optimizer": 0.1}
    _, text = profile.describe("a", parts, plain, {}, 1.0)
    assert ("trust no share" in text) is not trusted
