"""From files to the first episode: both sides have the same pixels, and the user's cache is left alone."""

import argparse
import itertools
import os

import numpy as np
import pytest
import torch


def test_the_decoders_limit_and_the_peers_episode_have_the_pixels_of_our_store(files, monkeypatch, tmp_path):
    from benchmark import disk

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
    from benchmark import disk

    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path))
    monkeypatch.setattr(disk, "EPISODES", 3)
    # Seconds of decoding, on threads and in processes; then of our episode and of the peer's, in turn.
    seconds = itertools.chain([4.0, 3.0], itertools.cycle([1.0, 2.0]))
    monkeypatch.setattr(disk, "timed", lambda work: (work(), next(seconds))[1])
    built, render = [], disk.MiniImageNet.render
    monkeypatch.setattr(
        disk.MiniImageNet, "render", lambda *a: built.append(os.environ["EPISODIC_CACHE"]) or render(*a)
    )
    entries, text = disk.disk(argparse.Namespace(data_dir=files, repeats=1))
    assert len(built) == 3  # the first start, the store of the second starts, the stages
    assert str(tmp_path) not in built[:2]
    assert os.environ["EPISODIC_CACHE"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
    rows = {entry["row"]: entry for entry in entries}
    first, each = rows["disk, first start / decoder's limit"], rows["disk, an episode / from its files"]
    assert (first["peer"], each["ours"], each["peer"]) == (4, 1, 2)
    assert first["ratio"] == pytest.approx(4 / first["ours"])
    assert first["target"] == pytest.approx(1.3 * 4)
    assert rows["disk, second start"]["target"] == 1
    assert min(rows["disk, second start"]["ours"], rows["disk, second start, with imports"]["ours"]) > 0
    paid = rows["disk, episodes that pay for the first start"]["ours"]
    assert paid == pytest.approx(first["ours"])  # each episode wins a second
    assert f"after {paid:.0f} episodes" in text


def test_a_disk_without_image_files_is_refused(tmp_path):
    from benchmark import disk

    with pytest.raises(FileNotFoundError, match="miniimagenet has no val split on disk"):
        disk.disk(argparse.Namespace(data_dir=tmp_path, repeats=1))
