"""Which images of the training classes keep their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from episodic.episodes.arguments import integer, integers, number


def labeled_mask(labels: Sequence[int] | np.ndarray | Tensor, fraction: float, seed: int) -> np.ndarray:
    """Which items keep their label, as booleans `[N]`: `int(fraction * n)` of the `n` items of each class, chosen at random.

    The label split of semi-supervised few-shot learning: support and query sets come from the labeled items of the
    training classes, unlabeled sets from the rest. Published fractions: 0.1 for Omniglot (2 of 20 drawings) and
    tieredImageNet, 0.4 for miniImageNet; ten splits (seeds) are averaged. Validation and test classes are not split.

    Ren et al., "Meta-Learning for Semi-Supervised Few-Shot Classification", 2018, https://arxiv.org/abs/1803.00676.
    Departure: each class is shuffled on its own, by a generator keyed by `(seed, class)`; the authors' code starts the
    same generator for each class, so all classes keep the same positions. What a class keeps depends on nothing but the
    seed, its label and its number of items.

    **Arguments:**

    - `labels`: `[N]` integers from 0, one an item, in any order.
    - `fraction`: in (0, 1]. A class of fewer than `1 / fraction` items keeps no label.
    - `seed`: of the split.

    **Raises:** `ValueError` for a fraction outside (0, 1], or labels that are no flat list of integers from 0.

    >>> labeled_mask([0] * 5 + [1] * 5, fraction=0.4, seed=0).reshape(2, 5).sum(axis=1)
    array([2, 2])
    """
    fraction = number("fraction", fraction, above=0, at_most=1)
    seed, labels = integer("seed", seed), integers("labels", labels, at_least=0)
    mask = np.zeros(len(labels), dtype=bool)
    order = np.argsort(labels, kind="stable")
    values, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    for label, start, count in zip(values.tolist(), starts.tolist(), counts.tolist(), strict=True):
        items = order[start : start + count]
        # Raw words of the generator, because NumPy promises those for all versions, and `permutation` for none. The
        # third counter word keeps this stream away from those that episodes are drawn from.
        words = np.random.Philox(key=np.array([seed % 2**64, label], np.uint64), counter=[0, 0, 1, 0]).random_raw(count)
        # The small addend undoes the rounding of, say, 0.29 * 100 = 28.999...
        mask[items[np.argsort(words, kind="stable")][: int(fraction * count + 1e-9)]] = True
    return mask
