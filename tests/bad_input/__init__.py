"""Every bad input in Python ends in one clear line that names the argument; odd but right input works.

The calls are made as users make them: without the type checker that pytest puts on the package (see `conftest.py`). Each module
here has a list of calls, with the word that the message must have.
"""

import re
from collections.abc import Callable

Call = tuple[str, str, Callable]  # what it is, the word that names the argument, the call

NAN, INF, HUGE = float("nan"), float("inf"), 10**12
SKLEARN = "scikit-learn's own words"  # in place of the word, where scikit-learn checks: it may write several lines


def complaint(call: Callable, word: str) -> str | None:
    """What is wrong with the answer to a bad call; None where it is one clear line."""
    try:
        result = call()
    except (ValueError, TypeError, OSError, IndexError) as error:
        text = re.split(r"\n(?:Valid|Options): ", str(error))[0]  # choices follow in a line of their own
        if word == SKLEARN:
            return None
        if "\n" in text.strip():
            return f"more than a line: {text[:200]!r}"
        if word not in text:
            return f"{type(error).__name__} without {word!r}: {text[:200]}"
        if len(text) > 400:
            return f"{len(text)} characters: {text[:200]}"
        return None
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return f"taken silently, gave {type(result).__name__}"
