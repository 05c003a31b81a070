"""Episodes written to a file and read from it, so that anyone can score the very same ones. The file is JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from episodic.assemble.task import build_sampler
from episodic.config.types import fits
from episodic.data.store import ImageStore
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.sampler import BLOCK
from episodic.episodes.source import EpisodeList, Episodes, episodes_hash, in_chunks
from episodic.run.files import atomic_file

ROLES = ("support", "query", "unlabeled")


def write_manifest(path: Path, episodes: Episodes, store: ImageStore) -> None:
    """Write episodes to a JSON Lines file. The first line names the data set and its items, and each further line is an episode.

    An episode is `{"classes": [...], "support": [[...], ...], "query": ..., "unlabeled": ..., "distractors": [...]}`. Items are
    numbers, the positions in the header's list `items`. `support`, `query` and `unlabeled` have one list for each class, in the
    order of `classes`; items of distractor classes are in `distractors`.

    **Arguments:** `path`: the file, which is written whole or not at all. `episodes`: of `store`.

    >>> import tempfile, torch
    >>> from episodic import EpisodeSampler
    >>> images, labels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> names = {"dataset": "pets", "split": "val", "split_name": "ours"}
    >>> store = ImageStore(images, labels, ("cat", "dog"), tuple("abcdef"), None, (), **names)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "episodes.jsonl"
    ...     write_manifest(path, EpisodeSampler(labels, n_way=2, n_shot=1, n_query=2, episodes=10), store)
    ...     header, *lines = path.read_text().splitlines()
    >>> len(lines), list(json.loads(lines[0]))
    (10, ['classes', 'support', 'query', 'unlabeled', 'distractors'])
    """
    header = {
        "dataset": store.dataset,
        "split": store.split,
        "split_name": store.split_name,
        "class_hash": store.class_hash,
        "episodes": episodes.episodes,
        "episodes_hash": episodes_hash(episodes),
        "classes": store.class_names,
        "items": store.item_names,
    }
    with atomic_file(path) as file:
        file.write(json.dumps(header) + "\n")
        for chunk in in_chunks(episodes, BLOCK):
            for i in range(len(chunk)):
                line = {"classes": chunk.class_ids[i].tolist()}
                for role in ROLES:
                    items, y = getattr(chunk, role)[i], getattr(chunk, f"{role}_y")[i]
                    line[role] = [items[y == k].tolist() for k in range(chunk.n_way)]
                line["distractors"] = chunk.unlabeled[i][chunk.unlabeled_y[i] < 0].tolist()
                file.write(json.dumps(line) + "\n")


def read_manifest(path: Path, store: ImageStore) -> EpisodeList:
    """Read the episodes that `write_manifest` wrote. Items are found in `store` by their names, so their order there may be
    another.

    **Raises:** `FileNotFoundError`; `ValueError` where the file is no manifest, is cut short or changed, or names items that
    `store` does not hold.

    >>> import tempfile, torch
    >>> from episodic import EpisodeSampler
    >>> images, labels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> names = {"dataset": "pets", "split": "val", "split_name": "ours"}
    >>> store = ImageStore(images, labels, ("cat", "dog"), tuple("abcdef"), None, (), **names)
    >>> episodes = EpisodeSampler(labels, n_way=2, n_shot=1, n_query=2, episodes=10)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_manifest(Path(folder) / "episodes.jsonl", episodes, store)
    ...     same = read_manifest(Path(folder) / "episodes.jsonl", store)
    >>> same, episodes_hash(same) == episodes_hash(episodes)
    (EpisodeList(10 episodes), True)
    """
    if not path.is_file():
        raise FileNotFoundError(f"no episode manifest at {path}")
    with open(path) as file:
        try:
            header, *lines = (json.loads(line) for line in file)
            names, wanted, classes = header["items"], header["episodes"], header["classes"]
            if not (fits(names, list[str]) and fits(classes, list[str]) and fits(wanted, int)):
                raise TypeError("its first line has no names of items and classes, or no number of episodes")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is no episode manifest, or is damaged ({error})") from None
    if len(lines) != wanted:
        raise ValueError(f"{path} should hold {wanted} episodes, but has {len(lines)}")
    place = {name: i for i, name in enumerate(store.item_names)}
    class_place = {name: i for i, name in enumerate(store.class_names)}
    lost = [name for name in names if name not in place] + [name for name in classes if name not in class_place]
    if lost:
        raise ValueError(
            f"{path} was written for {header.get('dataset')} {header.get('split')}; {len(lost)} of its items or classes "
            f"are not in {store.dataset} {store.split}: {', '.join(lost[:3])}"
        )
    items = np.array([place[name] for name in names], dtype=np.int64)
    class_of = np.array([class_place[name] for name in classes], dtype=np.int64)
    try:
        episodes = EpisodeList([_episode(line, items, class_of, store.labels.numpy()) for line in lines])
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} holds an episode that cannot be read ({error!r})") from None
    same_place = np.array_equal(items, np.arange(len(items))) and np.array_equal(class_of, np.arange(len(class_of)))
    if same_place and episodes_hash(episodes) != header.get("episodes_hash"):
        raise ValueError(f"{path} was changed: its episodes do not have the hash {header.get('episodes_hash')}")
    return episodes


def _episode(line: dict, items: np.ndarray, class_of: np.ndarray, labels: np.ndarray) -> EpisodeIndices:
    """An episode as it is in a line of the file. One whose answers are wrong, or among the examples, is refused."""
    classes = np.array([line["classes"]], dtype=np.int64)
    if classes.size == 0 or (classes < 0).any():
        raise IndexError(f"the classes {line['classes']}")
    arrays = {"class_ids": class_of[classes]}
    for role in ROLES:
        groups = line[role] + ([line["distractors"]] if role == "unlabeled" else [])
        flat = np.array([i for group in groups for i in group], dtype=np.int64)
        if (flat < 0).any():
            raise IndexError(f"the item {flat.min()}")
        y = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        arrays[role] = items[flat][None]
        arrays[f"{role}_y"] = np.where(y == len(line["classes"]), -1, y)[None]
    episode = EpisodeIndices(**arrays)
    known = episode.class_ids[0]
    for role in ROLES:
        y, of = arrays[f"{role}_y"][0], labels[arrays[role][0]]
        if not np.where(y < 0, ~np.isin(of, known), of == known[y]).all():
            raise ValueError(f"{role} items of other classes than it says")
    if episode.query.size == 0 or len(np.unique(episode.support_y)) < len(known):
        raise ValueError("no queries, or a class without examples")
    if len(set(known.tolist())) < len(known) or len(np.unique(episode.flat())) < episode.flat().size:
        raise ValueError("a class or an item that is there twice")
    return episode


def episodes_of(cfg: DictConfig, store: ImageStore) -> Episodes:
    """The episodes that a configuration asks for. Where `cfg.episodes` is a number, so many are drawn in the shape of the task;
    else it is the path of a manifest, which is read.
    """
    if not isinstance(cfg.episodes, int):
        return read_manifest(Path(cfg.episodes), store)
    return build_sampler(cfg.task, store, shape=cfg.task, seed=cfg.seed, stream="test", episodes=cfg.episodes)
