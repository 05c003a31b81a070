"""The import of learn2learn, an optional package that MAML, ANIL and some downloads need."""

from __future__ import annotations

import contextlib
import importlib
import io
from types import ModuleType


def learn2learn_module(name: str, wanted: str) -> ModuleType:
    """The module `learn2learn.<name>`. Notices that its import prints are dropped; `wanted` is what needs it, for the message.

    **Raises:** `ImportError` that says how to install learn2learn.
    """
    noise = io.StringIO()
    try:
        with contextlib.redirect_stderr(noise), contextlib.redirect_stdout(noise):
            return importlib.import_module(f"learn2learn.{name}")
    except ImportError as error:
        raise ImportError(f"{wanted} needs learn2learn: pip install 'episodic[learn2learn]' ({error})") from None
