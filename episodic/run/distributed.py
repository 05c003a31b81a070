"""Several processes that work as one. `torchrun`, PyTorch's own engine, starts the same command several times; its processes share
the episodes of a step, the images to embed and the episodes to score.

With one process every function here does nothing, or returns what it is given.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from episodic.episodes.share import Share, sharing

T = TypeVar("T")
ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells a process
PATIENCE = datetime.timedelta(hours=2)  # how long a process may keep the others waiting
LOST = re.compile(r"connection (closed|reset|refused)|broken pipe|timed out|remote process|nccl|gloo", re.IGNORECASE)
LOST_TEXT = "another process of this command has ended"


class LostProcessError(ConnectionError):
    """Another process of the command has ended, so this one cannot go on."""


def processes() -> int:
    """How many processes work together.

    >>> processes()
    1
    """
    return distributed.get_world_size() if distributed.is_initialized() else 1


def process_number() -> int:
    """The number of this process, from 0; torchrun calls it the rank."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return process_number() == 0


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return all(name in os.environ for name in ENVIRONMENT) and os.environ["WORLD_SIZE"] != "1"


def launcher() -> str:
    """How the command was started, for messages that say how to start it again."""
    each = os.environ.get("LOCAL_WORLD_SIZE", str(processes()))
    return f"torchrun --nproc-per-node {each}" if processes() > 1 else "python"


@contextlib.contextmanager
def joined() -> Iterator[Callable[[str], bool]]:
    """Lets the processes that torchrun started work as one while it is entered. Only the first one prints.

    **Yields** a function that says whether this process shall tell an error, given its text: each text is told once, and that a
    process was lost only where nothing else was told.
    """
    if not launched():
        yield lambda text: True
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    store, number, count = next(distributed.rendezvous("env://", timeout=PATIENCE))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=distributed.PrefixStore("episodic", store),
        rank=number,
        world_size=count,
        timeout=PATIENCE,
    )

    def tells(text: str) -> bool:
        lost = LOST_TEXT in text
        try:
            if lost and store.add("told", 0):
                return False
            new = store.add(LOST_TEXT if lost else text, 1) == 1
            store.add("told", int(new))
            return new
        except RuntimeError:  # the store went with its process
            return number == 0

    with contextlib.ExitStack() as stack:
        if number:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield tells
    distributed.destroy_process_group()


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Tells in words that another process was lost, where an exchange with it fails.

    **Raises:** `LostProcessError`.
    """
    try:
        yield
    except RuntimeError as error:
        if processes() == 1 or not LOST.search(str(error)):
            raise
        raise LostProcessError(LOST_TEXT) from None


@contextlib.contextmanager
def first_ahead() -> Iterator[None]:
    """Lets the first process of each machine go ahead, such as to fill a cache, before the others enter."""
    if processes() == 1:
        yield
        return
    leads = os.environ.get("LOCAL_RANK", str(process_number())) == "0"
    if not leads:
        distributed.barrier()
    try:
        yield
    finally:
        if leads:
            distributed.barrier()


def wait_for_all() -> None:
    """Wait until all processes are here."""
    if processes() > 1:
        distributed.barrier()


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, where alone it is called; or the error that it raises, in all of them.

    >>> from_first(lambda: 3)
    3
    """
    if processes() == 1:
        return make()
    found: list[Any] = [None, None]
    if is_first():
        try:
            found[0] = make()
        except Exception as error:
            found[1] = error
    distributed.broadcast_object_list(found, src=0)
    if found[1] is not None:
        raise found[1]
    return found[0]


def from_all(value: T) -> list[T]:
    """The `value` of each process, in the order of their numbers.

    >>> from_all("ready")
    ['ready']
    """
    if processes() == 1:
        return [value]
    values: list[Any] = [None] * processes()
    distributed.all_gather_object(values, value)
    return values


def largest(number: int) -> int:
    """The largest `number` of any process.

    >>> largest(7)
    7
    """
    if processes() == 1:
        return number
    found = torch.tensor(number)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of `x` over all processes."""
    if processes() == 1:
        return x
    x = x.clone()
    distributed.all_reduce(x)
    return x / processes()


def check_can_be_dealt(units: int, what: str) -> None:
    """**Raises:** `ValueError` for a batch of fewer `units` than processes. `what`: their name, for the message."""
    if units < processes():
        raise ValueError(
            f"{processes()} processes share the batch of a step, and it has {units} {what}: take {processes()} or a multiple, or "
            "fewer processes"
        )


@contextlib.contextmanager
def dealt(units: int, what: str) -> Iterator[Share]:
    """The share of this process in a batch of `units`, such as episodes, while it is entered.

    **Arguments:** `what`: their name, for the message.

    **Raises:** `ValueError` for fewer units than processes.

    >>> with dealt(4, "episodes (trainer.episodes_per_step)") as share:
    ...     share
    Share(start=0, stop=4, of=4)
    """
    check_can_be_dealt(units, what)
    with sharing(Share.dealt(units, process_number(), processes())) as share:
        yield share


def mean_of_batch(values: Tensor, share: Share) -> Tensor:
    """The mean of the values of a batch, from the `values` that this process has, one or more for each unit. The mean over
    processes of what they get is the mean of the batch.

    >>> mean_of_batch(torch.tensor([1.0, 3.0]), Share(0, 2, 2))
    tensor(2.)
    """
    whole = share.whole(len(values))
    return values.mean() if len(values) == whole else values.sum() * (processes() / whole)


def gathered(x: Tensor, share: Share) -> Tensor:
    """The rows of the whole batch, from the rows `x` that this process has. Every process computes the same loss of them, so the
    gradient of `x` is that of its own rows, times the number of processes, of which `averaged` takes the mean.
    """
    return x if len(x) == share.whole(len(x)) else _Gathered.apply(x, share)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, share: Share) -> Tensor:
        ctx.rows = share.rows(len(x))
        each = len(x) // (share.stop - share.start)
        shares = [Share.dealt(share.of, number, processes()) for number in range(processes())]
        counts = [each * (one.stop - one.start) for one in shares]
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.rows] * processes(), None


def shares(count: int, size: int = 1) -> list[int]:
    """Where each process begins, and the last one ends, in `count` things that are dealt in whole pieces of `size`.

    >>> shares(600, 256)
    [0, 600]
    """
    pieces = -(-count // size)
    return [min(number * pieces // processes() * size, count) for number in range(processes() + 1)]


def fill_from_all(x: Tensor, bounds: Sequence[int]) -> None:
    """Fill `x` in place: process `p` has the rows from `bounds[p]` to `bounds[p + 1]`, and gets all others."""
    if processes() > 1:
        for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
            if stop > start:
                distributed.broadcast(x[start:stop], src=number)


def averaged(function: Callable[..., T], parameters: Sequence[nn.Parameter]) -> Callable[..., T]:
    """`function` as it is, whose gradients to `parameters` become means over all processes in the backward pass. It is PyTorch's
    DistributedDataParallel, which also gives all processes the weights of the first.

    >>> averaged(len, [])([1, 2])
    2
    """
    if processes() == 1:
        return function
    # What it copies then are the weights of layers with one input channel.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    return DistributedDataParallel(_Called(function, parameters), find_unused_parameters=True)


class _Called(nn.Module):
    """A function as a module that has `parameters`."""

    def __init__(self, function: Callable, parameters: Sequence[nn.Parameter]):
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(parameters)
        self.unused = nn.Parameter(torch.zeros(1))  # where nothing is unused, PyTorch warns that it looked in vain

    def forward(self, *arguments):
        return self.function(*arguments)
