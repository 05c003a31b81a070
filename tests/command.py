"""Commands run in the test's own process: as typed, with what they print and their exit code, without a new interpreter."""

import contextlib
import io
import os
import runpy
import sys
import warnings
from pathlib import Path
from unittest import mock

import torch


def run_command(
    name: str, *arguments: str, cwd: Path, environment: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """`python -m episodic.<name> <arguments>` in the folder `cwd`: `(exit code, stdout, stderr)`.

    One thread, as in the processes that tests start: sums over several have other last digits.
    """
    out, err, before, threads = io.StringIO(), io.StringIO(), os.getcwd(), torch.get_num_threads()
    code: int | str | None = 0
    os.chdir(cwd)
    torch.set_num_threads(1)
    try:
        with (
            mock.patch.object(sys, "argv", [f"episodic.{name}", *arguments]),
            mock.patch.dict(os.environ, environment or {}),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # a user sees them, and goes on
            try:
                runpy.run_module(f"episodic.{name}", run_name="__main__", alter_sys=False)
            except SystemExit as end:
                code = end.code
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
    return (code if isinstance(code, int) else int(code is not None)), out.getvalue(), err.getvalue()
