"""learn2learn, where it serves: fetching data sets. It is optional, and its import is not quiet."""

from __future__ import annotations

import contextlib
import importlib
import io
from types import ModuleType


def dataset_module(name: str, wanted: str) -> ModuleType:
    """`learn2learn.vision.datasets.<name>`, imported without the notices of gym.

    **Raises:** `ImportError` that says how to get learn2learn, which is needed to download `wanted`.
    """
    noise = io.StringIO()
    try:
        with contextlib.redirect_stderr(noise), contextlib.redirect_stdout(noise):
            return importlib.import_module(f"learn2learn.vision.datasets.{name}")
    except ImportError as error:
        raise ImportError(f"to download {wanted}: pip install 'episodic[learn2learn]' ({error})") from None
