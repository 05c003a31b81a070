"""The part of a step's batch that this process has, where several processes train on one batch."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Share:
    """Units `start` to `stop` of a batch of `of` units, such as episodes or images. Random numbers are drawn for the whole batch,
    so that an item gets the same ones whatever process has it.

    A tensor has one or more rows for each unit, such as the images of an episode; its share is the rows of its units.

    >>> share = Share.dealt(4, number=1, processes=2)
    >>> share, share.whole(6), share.rows(6)  # of six images of two episodes, where four episodes have twelve
    (Share(start=2, stop=4, of=4), 12, slice(6, 12, None))
    """

    start: int
    stop: int
    of: int

    @staticmethod
    def dealt(of: int, number: int, processes: int) -> Share:
        """The share of process `number` where `of` units are dealt as evenly as can be, in their order.

        **Raises:** `ValueError` for fewer units than processes.
        """
        if of < processes:
            raise ValueError(f"{of} cannot be dealt to {processes} processes: each needs at least 1")
        return Share(number * of // processes, (number + 1) * of // processes, of)

    @property
    def slice(self) -> slice:
        """The units of this process."""
        return slice(self.start, self.stop)

    def whole(self, rows: int) -> int:
        """How many rows the whole batch has, where this process has `rows`."""
        return self.of * (rows // (self.stop - self.start))

    def rows(self, rows: int) -> slice:
        """Where the `rows` of this process are in the whole batch."""
        each = rows // (self.stop - self.start)
        return slice(self.start * each, self.stop * each)


ALL = Share(0, 1, 1)
_present: contextvars.ContextVar[Share] = contextvars.ContextVar("share", default=ALL)


def present_share() -> Share:
    """The share that is computed at the moment: that of `sharing`, else the whole."""
    return _present.get()


@contextlib.contextmanager
def sharing(share: Share) -> Iterator[Share]:
    """Makes `share` the one that is computed while it is entered.

    >>> with sharing(Share(0, 1, 2)):
    ...     present_share().whole(5)
    10
    """
    token = _present.set(share)
    try:
        yield share
    finally:
        _present.reset(token)


def for_whole_batch(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)` for a function that draws a number for each entry. It is called with a tensor as large as that of the whole
    batch, where the rows of other processes are 0, so that each process gets its own part of the same draws.

    >>> import torch
    >>> def noise(x):
    ...     return x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    >>> whole = noise(torch.zeros(4))
    >>> with sharing(Share(2, 4, 4)):
    ...     bool((for_whole_batch(noise, torch.zeros(2)) == whole[2:]).all())
    True
    """
    share = present_share()
    if share.stop - share.start == share.of:
        return function(x)
    rows = share.rows(len(x))
    whole = x.new_zeros(share.whole(len(x)), *x.shape[1:])
    whole[rows] = x
    return function(whole)[rows]
