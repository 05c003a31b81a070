"""The text of `--help`: the choices and settings of a command, as its YAML files have them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from episodic.config.compose import conf_dir

OPTION = re.compile(r"^  - (?:override )?(\w+): *(\S+) *(?:# *(.*))?$")
SETTING = re.compile(r"^(\w+): *(.*?) *(?:# *(.*))?$")


def help_text(name: str, hidden: Collection[str] = ()) -> str:
    """The help of the command `conf/<name>.yaml`: its first lines, the options of each group, and the settings with their defaults.
    Groups in `hidden` are left out.

    >>> print(help_text("train").splitlines()[0])
    python -m episodic.train task=... learner=... backbone=...
    """
    head, groups, settings = [], {}, {}
    for file in _files(name):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("# ") and file.stem == name:
                head.append(line[2:])
            elif (found := OPTION.match(line)) and not found[1].startswith("_") and (conf_dir() / found[1]).is_dir():
                groups[found[1]] = (found[2], found[3] or groups.get(found[1], ("", ""))[1])
            elif (found := SETTING.match(line)) and found[1] not in ("defaults", "hydra"):
                settings[found[1]] = (found[2], found[3] or settings.get(found[1], ("", ""))[1])
    lines = [*head, "", "Choices, as <group>=<option>; several as loss=[a,b] or semi=[inner,outer]:"]
    for group, (default, comment) in groups.items():
        if group in hidden:
            continue
        lines += ["", f"  {group} ({default}): {comment}".rstrip(": "), *_wrapped(options_of(group))]
    lines += ["", "Settings:", ""]
    width = max(map(len, settings), default=0)
    for setting, (default, comment) in settings.items():
        lines.append(f"  {setting.ljust(width)}  {default}" + (f"  # {comment}" if comment else ""))
    lines += [
        "",
        "Settings of a choice are <group>.<setting>=<value>, e.g. trainer.steps=500 or loss.circle.margin=0.3;",
    ]
    lines += [f"`python -m episodic.{name} <options> --cfg job` prints all of them as they are."]
    return "\n".join(lines)


def options_of(group: str) -> list[str]:
    """The options of a group that people choose from, by name.

    >>> options_of("schedule")
    ['constant', 'cosine', 'step']
    """
    return sorted(path.stem for path in (conf_dir() / group).glob("[!_]*.yaml"))


def _files(name: str) -> list[Path]:
    """The YAML of a command after those that it begins with."""
    file = conf_dir() / f"{name}.yaml"
    begun = re.findall(r"^  - (_?\w+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return [each for base in begun if base != "_self_" for each in _files(base)] + [file]


def _wrapped(words: list[str], width: int = 116) -> list[str]:
    lines = ["   "]
    for word in words:
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("   ")
        lines[-1] += f" {word}"
    return lines
