"""Ctrl-C and SIGTERM as a request: training finishes the step, saves, and says how to go on."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopRequest:
    """Notes that the user asks to stop, by Ctrl-C or SIGTERM, while it is entered. The first such signal only sets `requested`; the
    second one ends the process as usual.

    >>> with StopRequest() as stop:
    ...     signal.raise_signal(signal.SIGINT)
    ...     print(stop.requested, stop.exit_code)
    True 130
    """

    def __init__(self):
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The code that a shell expects of a process ended by that signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or 0)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception) -> None:
        self._restore()
