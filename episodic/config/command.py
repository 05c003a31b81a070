"""Runs a command: it checks the arguments, composes the configuration, and tells errors in a line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import hydra
from omegaconf import DictConfig

from episodic.config.compose import conf_dir
from episodic.config.help import help_text
from episodic.config.overrides import check_overrides, in_full, refuse_several, refuse_unread
from episodic.config.paths import quoted_arguments
from episodic.config.terminal import PrintableStream, printable
from episodic.config.types import check_types

Tells = Callable[[str], bool]  # whether this process, maybe one of several, prints that text


def command(
    name: str,
    function: Callable[[DictConfig], None],
    prepare: Callable[[list[str]], list[str]] = list,
    unread: Mapping[str, str] | None = None,
    joined: Callable[[], AbstractContextManager[Tells]] | None = None,
) -> None:
    """Run `function` on the configuration that `conf/<name>.yaml` and the command line make. Hydra's flags `--cfg job` and `-m`
    work, and `--help` lists the options.

    **Arguments:** `prepare` (default: no change): a function that may change the arguments first. `unread` (default none): options
    that the configuration has but the command does not read, each with the reason; they are refused. `joined` (default None): what
    lets the processes that torchrun started work as one; None for a command that works in one process.

    **Raises:** `SystemExit` with code 2, after a line or two on the terminal, for errors that a user can mend. With
    EPISODIC_TRACEBACK=1 in the environment they are raised as they are.
    """

    def run(cfg: DictConfig) -> None:
        _guarded(name, tells, checked, cfg)

    def checked(cfg: DictConfig) -> None:
        check_types(cfg, name, allow_any_target=cfg.get("allow_any_target") is True)
        with contextlib.redirect_stdout(PrintableStream(sys.stdout)):
            function(cfg)

    def start() -> None:
        if not {"--help", "-h"}.isdisjoint(sys.argv[1:]):
            print(help_text(name, hidden=unread or {}))
            raise SystemExit(0)
        refuse_unread(sys.argv[1:], unread or {})
        arguments = [in_full(argument, name) for argument in quoted_arguments(sys.argv[1:], prepare)]
        after_flag = zip([None, *arguments], arguments, strict=False)  # `--cfg job`: the word belongs to the flag
        is_flag = [a.startswith("-") or ("=" not in a and (b or "").startswith("-")) for b, a in after_flag]
        overrides = [a for a, flag in zip(arguments, is_flag, strict=True) if not flag]
        check_overrides(name, overrides)
        if {"-m", "--multirun"}.isdisjoint(arguments):
            refuse_several(overrides)
        sys.argv[1:] = arguments

    with joined() if joined else _alone(name) as tells:
        _guarded(name, tells, start)
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(run)()


@contextlib.contextmanager
def _alone(name: str) -> Iterator[Tells]:
    if os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get("WORLD_SIZE", "1") != "1":
        if os.environ.get("RANK") == "0":
            print(f"episodic.{name}: it works in one process: start it by python, without torchrun", file=sys.stderr)
        raise SystemExit(2)
    yield lambda text: True


def _guarded(name: str, tells: Tells, function: Callable, *arguments: Any) -> None:
    try:
        function(*arguments)
    except BrokenPipeError:  # whoever read what was printed has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        if os.environ.get("EPISODIC_TRACEBACK"):
            raise
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror + (f": {error.filename}" if error.filename else "")
        if tells(reason):
            shown = printable(reason, keep="\n")
            print(f"episodic.{name}: {shown}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        if tells("interrupted"):
            print(f"episodic.{name}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
