"""Draws episodes from labels. It needs NumPy, torch and two files beside it, so it can be used alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

from episodic.episodes.arguments import LARGEST, booleans, choice, flag, integer, integers, refuse
from episodic.episodes.indices import EpisodeIndices

BLOCK = 256  # episodes that share one stream of random numbers; part of what (seed, epoch, i) means, so never change it
AHEAD = 100_000  # items drawn by one call where blocks are read in order; more would leave the processor's cache

Numbers = Sequence[int] | Sequence[bool] | np.ndarray | Tensor
Count = int | Sequence[int]  # an int, or an inclusive range (low, high)
TooSmall = Literal["error", "drop"]
LEAST = {"n_way": 1, "n_shot": 1, "n_query": 1, "n_unlabeled": 0, "n_distractors": 0}  # the numbers of a shape


def items_needed(shape: Mapping[str, Count], *, imbalanced: bool = False, split_pools: bool = False) -> tuple[int, ...]:
    """How many items a class must have to appear in an episode. That is the most that an episode may take of one class.

    The result is one number. With `split_pools` it is two: for labeled items (support and query) and for unlabeled ones.

    **Arguments:** `shape`: `n_way`, `n_shot`, `n_query` and, where it is not 0, `n_unlabeled`, each an int or a range.
    `imbalanced`: as in `EpisodeSampler`. `split_pools`: whether the sampler is given `labeled`.

    >>> items_needed({"n_way": 5, "n_shot": 1, "n_query": 15, "n_unlabeled": 10})
    (26,)
    >>> items_needed({"n_way": 5, "n_shot": (1, 5), "n_query": 15, "n_unlabeled": 10}, split_pools=True)
    (20, 10)
    """
    way, shot, query, unlabeled, _ = (high for _, high in _ranges(shape).values())
    asked = _most_shots(way, shot, imbalanced) + query
    return (asked, unlabeled) if split_pools else (asked + unlabeled,)


class EpisodeSampler(Sampler[list[int]]):
    """Draws N-way K-shot episodes from the labels of a data set. It never touches an item, so it is fast for any data set.

    Episode `i` is a pure function of `(seed, epoch, i)`: NumPy's counter-based Philox generator is keyed by `(seed, epoch)`
    and started at the block of `i`. So episodes are random-access (`sampler[i]`), the same for any number of workers or
    ranks, and can be resumed anywhere. It is a batch sampler:

        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=EpisodeCollate(sampler))

    >>> sampler = EpisodeSampler(labels=[0] * 20 + [1] * 20 + [2] * 20, n_way=2, n_shot=1, n_query=3, seed=1)
    >>> sampler
    EpisodeSampler(2-way 1-shot 3-query, 1000 episodes, seed 1)
    >>> sampler[0].class_ids, sampler[0].query_y
    (array([[1, 2]]), array([[0, 0, 0, 1, 1, 1]]))
    >>> len(next(iter(sampler)))  # a batch is a flat list of items: 2 support, then 6 query
    8

    Classes, and items inside a class, are drawn uniformly without replacement (Floyd's algorithm, then a shuffle);
    support, query and unlabeled items of an episode are disjoint.

    **Arguments:**

    - `labels`: `[N]` integers, one an item. Nothing else of the data set is needed.
    - `n_way`, `n_shot`, `n_query`: classes in an episode; support and query items of each.
    - `n_unlabeled`: unlabeled items of each class. `n_distractors`: further classes that give only `n_unlabeled` items each.
      Each of these five is an int or an inclusive range `(low, high)`; a range is drawn once for every block of 256
      consecutive episodes, so that the episodes of a block can be stacked.
    - `episodes`: how many episodes an epoch has.
    - `seed`, `epoch`: the key of all draws; `set_epoch` moves on.
    - `episodes_per_batch`: episodes in each list that iteration yields.
    - `imbalanced`: give the classes of an episode unequal shots: at least one each, `n_way * n_shot` together, uniform over
      all ways to share them out.
    - `super_classes`: `[n_classes]`, the super-class of each label value; then all classes of an episode (distractors
      too) come from one super-class, drawn uniformly among those with enough classes.
    - `labeled`: `[N]` booleans; then support and query come from labeled items, unlabeled ones from the rest (Ren et al.,
      2018). Without it all come from one pool.
    - `too_small`: `"error"` refuses classes with too few items for the episode, `"drop"` leaves them out.
    - `rank`, `world_size`: this process takes every `world_size`-th batch.

    **Raises:** `ValueError` for an episode that cannot be drawn, with the numbers.
    """

    def __init__(
        self,
        labels: Numbers,
        n_way: Count = 5,
        n_shot: Count = 1,
        n_query: Count = 15,
        n_unlabeled: Count = 0,
        n_distractors: Count = 0,
        *,
        episodes: int = 1000,
        seed: int = 0,
        epoch: int = 0,
        episodes_per_batch: int = 1,
        imbalanced: bool = False,
        super_classes: Numbers | None = None,
        labeled: Numbers | None = None,
        too_small: TooSmall = "error",
        rank: int = 0,
        world_size: int = 1,
    ):
        # No super().__init__(): torch's signature of it changed, and its body holds nothing.
        given = (n_way, n_shot, n_query, n_unlabeled, n_distractors)
        self.shape = _ranges(dict(zip(LEAST, given, strict=True)))
        self.episodes = episodes = integer("episodes", episodes, at_least=1)
        if episodes > LARGEST:  # that `len` can say
            refuse("episodes", f"at most {LARGEST:,}", episodes)
        self.episodes_per_batch = episodes_per_batch = integer("episodes_per_batch", episodes_per_batch, at_least=1)
        self.seed, self.epoch = integer("seed", seed), integer("epoch", epoch)
        self.imbalanced = flag("imbalanced", imbalanced)
        self.world_size = world_size = integer("world_size", world_size, at_least=1)
        self.rank = integer("rank", rank, at_least=0, below=world_size, note=", world_size")
        if episodes % (episodes_per_batch * world_size) and world_size > 1:
            raise ValueError(
                f"{episodes} episodes cannot be dealt evenly to {world_size} ranks in batches of {episodes_per_batch}: "
                f"make episodes a multiple of {episodes_per_batch * world_size}"
            )
        if any(low != high for low, high in self.shape.values()) and BLOCK % episodes_per_batch:
            raise ValueError(
                f"with a range, episodes_per_batch must divide {BLOCK} (the shape is drawn a block), "
                f"got {episodes_per_batch}"
            )
        self._pools(integers("labels", labels), labeled, super_classes, choice("too_small", too_small, TooSmall))
        self._next = 0  # the batch that iteration starts at, for resuming
        self._drawn = (None, range(0), None)  # the last draw: (seed, epoch), its blocks, their episodes

    def __repr__(self) -> str:
        way, shot, query, unlabeled, distractors = (
            str(low) if low == high else f"{low}..{high}" for low, high in self.shape.values()
        )
        parts = [f"{way}-way {shot}-shot {query}-query"]
        parts += [f"{unlabeled} unlabeled a class"] * (unlabeled != "0")
        parts += [f"{distractors} distractors"] * (distractors != "0")
        parts += ["unequal shots"] * self.imbalanced
        parts += [f"{self.episodes} episodes", f"seed {self.seed}"]
        parts += [f"epoch {self.epoch}"] * (self.epoch != 0)
        return f"EpisodeSampler({', '.join(parts)})"

    def _pools(self, labels, labeled, super_classes, too_small) -> None:
        """Index tables: items ordered by class, where each class starts, how many it has; one table a pool."""
        most = {k: high for k, (_, high) in self.shape.items()}
        need = items_needed(self.shape, imbalanced=self.imbalanced, split_pools=labeled is not None)
        class_ids, inverse = np.unique(labels, return_inverse=True)
        if labeled is None:
            pools = [np.ones(len(labels), bool)]
        else:
            mask = booleans("labeled", labeled, len(labels))
            pools = [mask, ~mask]
        counts = np.stack([np.bincount(inverse[pool], minlength=len(class_ids)) for pool in pools])
        fits = (counts >= np.array(need)[:, None]).all(axis=0)
        if too_small == "error" and not fits.all():
            few = np.flatnonzero(~fits)
            shown = ", ".join(f"class {class_ids[c]} has {' + '.join(map(str, counts[:, c]))}" for c in few[:5])
            raise ValueError(
                f"{len(few)} of {len(class_ids)} classes have too few items for an episode, which takes "
                f"{' labeled + '.join(map(str, need))}{' unlabeled' * (len(need) > 1)} of a class "
                f"(n_shot={most['n_shot']}, n_query={most['n_query']}, n_unlabeled={most['n_unlabeled']}): {shown}"
                f"{', ...' * (len(few) > 5)}. Ask for fewer, or leave such classes out with too_small='drop' (task.too_small=drop)."
            )
        classes_needed = most["n_way"] + most["n_distractors"]
        if super_classes is None:
            group = np.zeros(len(class_ids), np.int64)
        else:
            group = integers("super_classes", super_classes)
            if not 0 <= class_ids.min(initial=0) <= class_ids.max(initial=0) < len(group):
                raise ValueError(
                    f"super_classes has an entry for each of the labels 0..{len(group) - 1}, but labels go from "
                    f"{class_ids.min()} to {class_ids.max()}"
                )
            group = np.unique(group[class_ids], return_inverse=True)[1]
        sizes = np.bincount(group[fits], minlength=1)
        groups = np.flatnonzero(sizes >= classes_needed)
        if len(groups) == 0:
            where = "the labels have" if super_classes is None else "the largest super-class has"
            raise ValueError(
                f"an episode needs {classes_needed} classes (n_way={most['n_way']} + n_distractors="
                f"{most['n_distractors']}), but {where} {sizes.max()} with enough items"
            )
        # Classes ordered by super-class, so that an episode's classes are `offset + rank within its super-class`.
        usable = np.flatnonzero(fits & np.isin(group, groups))
        self._classes = usable[np.argsort(group[usable], kind="stable")]
        self._group_sizes = sizes[groups]
        self._group_starts = np.concatenate([[0], np.cumsum(self._group_sizes)[:-1]])
        self._class_ids = class_ids
        self._counts = counts
        self._starts = np.concatenate([np.zeros((len(pools), 1), np.int64), np.cumsum(counts, axis=1)[:, :-1]], axis=1)
        self._order = [np.flatnonzero(pool)[np.argsort(inverse[pool], kind="stable")] for pool in pools]

    @property
    def n_items(self) -> int:
        """How many labels there are, as many as the data set has items."""
        return sum(map(len, self._order))

    @property
    def n_classes(self) -> int:
        """How many classes can appear in an episode."""
        return len(self._classes)

    def block(self, number: int) -> EpisodeIndices:
        """Episodes `256 * number ... 256 * number + 255`, one shape."""
        now, (key, blocks, episodes) = (self.seed, self.epoch), self._drawn
        if key != now or number not in blocks:
            in_order = key == now and number == blocks.stop
            one_shape = all(low == high for low, high in self.shape.values())
            ahead = AHEAD // episodes[:BLOCK].flat().size if in_order and one_shape else 1
            stop = min(number + ahead, -(-self.episodes // BLOCK))
            blocks = range(number, max(stop, number + 1))
            episodes = self._draw(blocks)
            self._drawn = (now, blocks, episodes)
        row = BLOCK * blocks.index(number)
        return episodes[row : row + BLOCK]

    def _draw(self, blocks: range) -> EpisodeIndices:
        random, count = _Uniform(self.seed, self.epoch, blocks), BLOCK * len(blocks)
        way, shot, query, unlabeled, distractors = (
            low + int(random.below(high - low + 1, (1, 1))[0, 0]) if high > low else low
            for low, high in self.shape.values()
        )
        group = random.below(len(self._group_sizes), (1, count))[0]
        picks = _distinct(random, self._group_sizes[group], way + distractors)
        classes = self._classes[self._group_starts[group][:, None] + picks]  # [E, way + distractors]
        own = classes[:, :way]
        most_shots = _most_shots(way, shot, self.imbalanced)
        shots = _shares(random, count, way, shot) if self.imbalanced else None

        if len(self._order) == 1:
            support, queries, spare = self._items(random, 0, own, most_shots, query, unlabeled)
            (others,) = self._items(random, 0, classes[:, way:], unlabeled)
        else:
            support, queries = self._items(random, 0, own, most_shots, query)
            (spare_all,) = self._items(random, 1, classes, unlabeled)
            spare, others = spare_all[:, :way], spare_all[:, way:]
        support_y = _labels(count, way, most_shots)
        if shots is not None:
            in_support = np.arange(most_shots) < shots[..., None]
            support, support_y = support[in_support], support_y.reshape(in_support.shape)[in_support]
        none = np.full((count, distractors * unlabeled), -1)
        return EpisodeIndices(
            support=support.reshape(count, -1),
            support_y=support_y.reshape(count, -1),
            query=queries.reshape(count, -1),
            query_y=_labels(count, way, query),
            unlabeled=np.concatenate([spare, others], axis=1).reshape(count, -1),
            unlabeled_y=np.concatenate([_labels(count, way, unlabeled), none], axis=1),
            class_ids=self._class_ids[own],
        )

    def _items(self, random: _Uniform, pool: int, classes: np.ndarray, *sizes: int) -> list[np.ndarray]:
        """Distinct items of each class `[E, W]`: one array `[E, W, size]` for each of `sizes`."""
        picks = _distinct(random, self._counts[pool][classes], sum(sizes))
        picks += self._starts[pool][classes][..., None]
        return np.split(self._order[pool].take(picks), np.cumsum(sizes)[:-1], axis=-1)

    def __getitem__(self, index: int | slice) -> EpisodeIndices:
        """Episode `index` (with `E = 1`), or a slice of episodes of one shape."""
        if isinstance(index, slice):
            start, stop, step = index.indices(self.episodes)
            if step != 1 or stop <= start:
                raise IndexError(f"slices of episodes must be contiguous and not empty, got {index}")
        else:
            index = integer("episode", index)
            start = index + self.episodes if index < 0 else index
            if not 0 <= start < self.episodes:
                raise IndexError(f"episode {index} of {self.episodes}")
            stop = start + 1
        parts = [
            self.block(b)[max(start - b * BLOCK, 0) : min(stop - b * BLOCK, BLOCK)]
            for b in range(start // BLOCK, (stop - 1) // BLOCK + 1)
        ]
        return EpisodeIndices.concatenate(parts)

    def batch(self, number: int) -> EpisodeIndices:
        """The episodes of batch `number`, counted over all ranks."""
        start = integer("batch", number, at_least=0, below=self.n_batches) * self.episodes_per_batch
        return self[start : min(start + self.episodes_per_batch, self.episodes)]

    @property
    def n_batches(self) -> int:
        """Batches of an epoch, over all ranks."""
        return -(-self.episodes // self.episodes_per_batch)

    def __len__(self) -> int:
        return len(range(self.rank, self.n_batches, self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of item indices, each flat: episode by episode, support then query then unlabeled, class by class."""
        first, self._next = self._next, 0
        size, known = self.episodes_per_batch, None
        for k in range(first, len(self)):
            self._next = k + 1
            number = self.rank + k * self.world_size
            block, row = divmod(number * size, BLOCK)
            if row + size > BLOCK:
                yield self.batch(number).flat().tolist()
                continue
            if known != (self.seed, self.epoch, block):
                known, rows = (self.seed, self.epoch, block), self.block(block).flat().reshape(BLOCK, -1)
            yield rows[row : min(row + size, self.episodes - block * BLOCK)].reshape(-1).tolist()
        self._next = 0

    def set_epoch(self, epoch: int) -> None:
        """Move to another epoch: other episodes, the same for every rank."""
        self.epoch = integer("epoch", epoch)

    def state_dict(self) -> dict[str, int]:
        """Where iteration stands. A `DataLoader` with workers draws ahead of what it has yielded."""
        return {"seed": self.seed, "epoch": self.epoch, "next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration go on from `state`."""
        if not isinstance(state, Mapping) or not {"seed", "epoch", "next"} <= set(state):
            refuse("state", "what state_dict gave, with seed, epoch and next", state)
        seed, epoch, following = (integer(name, state[name]) for name in ("seed", "epoch", "next"))
        self.seed, self.epoch, self._next = seed, epoch, integer("next", following, at_least=0)


class _Uniform:
    """Integers from the Philox streams that belong to `(seed, epoch, block)`, one a block."""

    def __init__(self, seed: int, epoch: int, blocks: range):
        # The low counter words advance with the draws; the block sits in the highest, so that streams never meet.
        key = np.array([seed % 2**64, epoch % 2**64], np.uint64)  # a list with numbers from 2^63 would become floats
        self._bits = [np.random.Philox(key=key, counter=[0, 0, 0, block]) for block in blocks]

    def below(self, bound: int | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform integers in `0..bound-1`: the high half of a 32-bit word times the bound (bias below bound / 2^32).

        The second axis holds the blocks, one after the other; each part comes from its own stream.
        """
        steps, count, *rest = shape
        words = np.empty((steps, len(self._bits), count // len(self._bits), *rest), np.uint64)
        for k, bits in enumerate(self._bits):
            part = words[:, k]
            part[:] = bits.random_raw((part.size + 1) // 2).view(np.uint32)[: part.size].reshape(part.shape)
        product = words.reshape(shape)
        product *= np.asarray(bound, np.uint64)
        product >>= np.uint64(32)
        return product.view(np.int64)


def _distinct(random: _Uniform, n: np.ndarray, m: int) -> np.ndarray:
    """`m` distinct integers below each of `n [E, ...]`, in uniformly random order: `[E, ..., m]`.

    Floyd's algorithm gives a uniform set at a cost that does not grow with `n`, but late positions favor large numbers;
    the shuffle (Fisher-Yates, all rows at once) makes every order equally likely.
    """
    shape = (m, *n.shape)
    if 0 in shape:
        return np.empty((*n.shape, m), np.int64)
    # Item axis first, so that each step works on contiguous memory; small integers, so that it compares many at once.
    steps = np.arange(m).reshape(m, *[1] * n.ndim)
    small = np.min_scalar_type(n.max())
    low = (n.max() if n.min() == n.max() else n) - m  # mostly one number, which spares an array of bounds
    floyd = random.below(low + 1 + steps, shape).astype(small).reshape(m, -1)
    low = low.astype(small).reshape(-1)
    for j in range(1, m):
        taken = (floyd[:j] == floyd[j]).any(axis=0)
        np.copyto(floyd[j], low + j, where=taken)
    other = random.below(m - steps, shape).reshape(m, -1)
    flat, columns = floyd.reshape(-1), np.arange(n.size)
    for j in range(m - 1):
        place = (other[j] + j) * n.size + columns  # in the flat array, which is indexed faster than one of two axes
        chosen = flat.take(place)
        flat[place] = floyd[j]
        floyd[j] = chosen
    return np.moveaxis(floyd.reshape(shape), 0, -1).astype(np.int64, order="C")


def _shares(random: _Uniform, count: int, way: int, shot: int) -> np.ndarray:
    """`[E, way]` positive integers with sum `way * shot`, uniform over all such: gaps between sorted distinct cuts."""
    total = way * shot
    cuts = np.sort(_distinct(random, np.full(count, total - 1), way - 1), axis=-1) + 1
    return np.diff(cuts, axis=-1, prepend=0, append=total)


def _most_shots(way: int, shot: int, imbalanced: bool) -> int:
    """The most support items that one class can get: all but one of each other class where shots are unequal."""
    return way * (shot - 1) + 1 if imbalanced else shot


def _labels(count: int, way: int, size: int) -> np.ndarray:
    """`[E, way * size]`: every label `size` times."""
    return np.tile(np.repeat(np.arange(way), size), (count, 1))


def _ranges(shape: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Each number of a shape as a range `(low, high)`; what is left out is 0."""
    return {name: _as_range(name, shape.get(name, 0), low) for name, low in LEAST.items()}


def _as_range(name: str, value: Any, low: int) -> tuple[int, int]:
    try:
        first, last = (value, value) if np.ndim(value) == 0 else value
        first = integer(name, first, at_least=low)
        return first, integer(name, last, at_least=first)
    except (ValueError, TypeError):
        refuse(name, f"an integer >= {low} or a range (low, high)", value)
