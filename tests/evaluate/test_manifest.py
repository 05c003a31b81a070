import dataclasses
import json

import numpy as np
import pytest

from episodic import EpisodeSampler
from episodic.episodes.source import episodes_hash
from episodic.evaluate.manifest import read_manifest, write_manifest
from tests.conftest import random_store


@pytest.fixture
def written(tmp_path):
    store = random_store()
    sampler = EpisodeSampler(store.labels, 3, 2, 2, 1, 1, episodes=300, seed=5)
    write_manifest(tmp_path / "episodes.jsonl", sampler, store)
    return tmp_path / "episodes.jsonl", sampler, store


def test_comes_back_as_it_was(written):
    path, sampler, store = written
    episodes = read_manifest(path, store)
    assert episodes.episodes == 300
    assert episodes_hash(episodes) == episodes_hash(sampler)
    ours, theirs = sampler[20:30], episodes[20:30]
    for field in dataclasses.fields(ours):
        assert np.array_equal(getattr(ours, field.name), getattr(theirs, field.name)), field.name


def test_ranged_shapes_and_imbalance_come_back(tmp_path):
    store = random_store()
    sampler = EpisodeSampler(store.labels, (2, 4), 2, 2, episodes=600, imbalanced=True)
    write_manifest(tmp_path / "e.jsonl", sampler, store)
    assert episodes_hash(read_manifest(tmp_path / "e.jsonl", store)) == episodes_hash(sampler)


def test_items_are_matched_by_name_when_the_store_is_in_another_order(written):
    path, sampler, store = written
    order = np.random.default_rng(0).permutation(len(store))
    moved = dataclasses.replace(
        store,
        images=store.images[order],
        labels=store.labels[order],
        item_names=tuple(store.item_names[i] for i in order),
    )
    ours, theirs = sampler[0:50], read_manifest(path, moved)[0:50]
    assert np.array_equal(order[theirs.query], ours.query)
    assert np.array_equal(order[theirs.unlabeled], ours.unlabeled)


def edited(line, **changes):
    return json.dumps(json.loads(line) | changes) + "\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "should hold 300 episodes, but has 299"),
        (lambda lines: ["not json\n"], "is no episode manifest"),
        (lambda lines: [], "is no episode manifest"),
        (lambda lines: ["[" * 100_000], "is no episode manifest"),
        (lambda lines: ["3\n"], "is no episode manifest"),
        (lambda lines: [edited(lines[0], items=3), *lines[1:]], "is no episode manifest"),
        (lambda lines: [edited(lines[0], classes=[["a"]]), *lines[1:]], "is no episode manifest"),
        (lambda lines: [edited(lines[0], episodes="300"), *lines[1:]], "is no episode manifest"),
        (lambda lines: [edited(lines[0], episodes_hash=None), *lines[1:]], "was changed"),
        (lambda lines: [*lines[:-1], edited(lines[-1], query=[[-1]])], "cannot be read"),
        (lambda lines: [*lines[:-1], edited(lines[-1], query=[[10**30]])], "cannot be read"),
        (lambda lines: [*lines[:-1], edited(lines[-1], query=3)], "cannot be read"),
        (lambda lines: [*lines[:-1], "3\n"], "cannot be read"),
        (lambda lines: ['{"a": 1}\n', *lines[1:]], "is no episode manifest"),
        (lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]], "damaged"),
        (lambda lines: [lines[0], lines[2], *lines[2:]], "was changed"),
        (lambda lines: [*lines[:-1], lines[-1].replace('"query"', '"quarry"')], "cannot be read"),
        (lambda lines: [lines[0].replace("train0/1", "elsewhere"), *lines[1:]], "are not in patterns train: elsewhere"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(written, change, message):
    path, _, store = written
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    with pytest.raises(ValueError, match=message):
        read_manifest(path, store)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda line: {"query": line["support"]}, "there twice"),
        (lambda line: {"query": line["query"][::-1]}, "query items of other classes"),
        (lambda line: {"classes": line["classes"][::-1]}, "items of other classes"),
        (lambda line: {"distractors": line["query"][0]}, "items of other classes"),
        (lambda line: {"classes": [-1, *line["classes"][1:]]}, "the classes"),
        (lambda line: {"query": [[] for _ in line["query"]]}, "no queries"),
        (lambda line: {"support": [[], *line["support"][1:]]}, "without examples"),
    ],
)
def test_an_episode_with_wrong_answers_is_refused_whatever_its_hash(written, changes, message):
    path, _, store = written
    *lines, last = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, edited(last, **changes(json.loads(last)))]))
    with pytest.raises(ValueError, match=f"cannot be read .*{message}"):
        read_manifest(path, store)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no episode manifest at"):
        read_manifest(tmp_path / "none.jsonl", random_store())


def test_lines_are_readable_by_others(written):
    path, _, _ = written
    header, first = (json.loads(line) for line in path.read_text().splitlines()[:2])
    assert header["dataset"] == "patterns"
    assert len(first["support"]) == len(first["classes"]) == 3
    name = header["items"][first["support"][1][0]]
    assert name.startswith(header["classes"][first["classes"][1]] + "/")
    assert len(first["distractors"]) == 1
