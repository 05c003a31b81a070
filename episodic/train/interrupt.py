"""Signals as requests: at Ctrl-C, SIGTERM or SIGHUP training finishes the step, saves, and says how to go on."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from episodic.run.distributed import largest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, the request to end, the terminal that was closed


def end(number: int, frame: FrameType | None = None) -> NoReturn:
    """End the process at once, with the code that a shell expects after the signal. Files half written are taken away, which a
    death by the signal itself would leave.

    **Raises:** `KeyboardInterrupt` for Ctrl-C; else `SystemExit`.

    >>> end(signal.SIGTERM)
    Traceback (most recent call last):
    ...
    SystemExit: 143
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextlib.contextmanager
def handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Calls `handler` at the three signals while it is entered. One that is ignored stays so, as SIGHUP under `nohup`.

    >>> with handled(lambda number, frame: print(f"signal {number}")):
    ...     signal.raise_signal(signal.SIGTERM)
    signal 15
    """
    before = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses handlers
        for number in SIGNALS:
            # None is a handler that is not of Python, which could not be put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class StopRequest:
    """Notes that the user asks to stop, by Ctrl-C, SIGTERM or SIGHUP, while it is entered. The first such signal only sets
    `requested`; the second one ends the process at once.

    >>> with StopRequest() as stop:
    ...     signal.raise_signal(signal.SIGINT)
    ...     print(stop.requested, stop.exit_code)
    True 130
    """

    def __init__(self):
        self.signal: int | None = None
        self._handled = handled(self._receive)

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def agreed(self) -> bool:
        """Whether a signal came to any of the processes that train together; then it counts for all of them."""
        self.signal = largest(self.signal or 0) or None
        return self.requested

    @property
    def exit_code(self) -> int:
        """The code that a shell expects of a process ended by that signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + (self.signal or 0)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            end(number)
        self.signal = number

    def __enter__(self) -> StopRequest:
        self._handled.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._handled.__exit__(*exception)
