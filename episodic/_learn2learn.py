"""learn2learn, where it serves: adapting learners, fetching data sets. It is optional, and its import is not quiet."""

from __future__ import annotations

import contextlib
import importlib
import io
from types import ModuleType


def learn2learn_module(name: str, wanted: str) -> ModuleType:
    """The module `learn2learn.<name>`, imported without the notices of gym. `wanted` is what needs it, for the message.

    **Raises:** `ImportError` that says how to get learn2learn, without which `wanted` cannot be had.
    """
    noise = io.StringIO()
    try:
        with contextlib.redirect_stderr(noise), contextlib.redirect_stdout(noise):
            return importlib.import_module(f"learn2learn.{name}")
    except ImportError as error:
        raise ImportError(f"{wanted} needs learn2learn: pip install 'episodic[learn2learn]' ({error})") from None
