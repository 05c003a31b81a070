"""The findings as tables on the terminal, and as files with everything."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from episodic.data.store import ImageStore
from episodic.doctor.finding import Finding
from episodic.evaluate.tables import table
from episodic.run.files import write_atomically

SHOWN = 20  # lines of a list on the terminal; the file has all lines
MARKS = ("error", "warning", "ok")
SPLIT_HEADER = ["split", "images", "classes", "super-classes", "a class: fewest / median / most", "smallest classes"]


def split_row(store: ImageStore) -> list[str]:
    """The numbers of images and classes of one split, a row under `SPLIT_HEADER`."""
    counts = np.bincount(store.labels.numpy(), minlength=len(store.class_names))
    smallest = np.argsort(counts, kind="stable")[:3] if counts.min() < counts.max() else []
    return [
        store.split,
        f"{len(store):,}",
        f"{len(counts):,}",
        "-" if store.super_classes is None else f"{len(np.unique(store.super_classes.numpy())):,}",
        f"{counts.min():,} / {np.median(counts):,g} / {counts.max():,}",
        ", ".join(f"{store.class_names[c]} ({counts[c]})" for c in smallest) or "all alike",
    ]


def report(findings: Sequence[Finding]) -> str:
    """A table for each section with the first of its items, and at the end the number of findings by mark."""
    lines = []
    for section in dict.fromkeys(finding.section for finding in findings):
        own = [finding for finding in findings if finding.section == section]
        lines += ["", table([section, ""], [[finding.mark, finding.text] for finding in own])]
        items = [item for finding in own for item in finding.items]
        if items:
            shown = table(list(items[0]), [list(map(str, item.values())) for item in items[:SHOWN]])
            lines += ["", *(f"  {line}" for line in shown.splitlines())]
        if len(items) > SHOWN:
            lines.append(f"  ... and {len(items) - SHOWN:,} more; out=<file> has all")
    counts = {mark: sum(finding.mark == mark for finding in findings) for mark in MARKS}
    return "\n".join([*lines, "", ", ".join(f"{mark}: {count}" for mark, count in counts.items())])


def write_report(path: Path, findings: Sequence[Finding], splits: Sequence[Sequence[str]]) -> None:
    """Write all findings with all their items, as JSON or as CSV. CSV has a line for each item, or for a finding without items."""
    if path.suffix == ".json":
        rows = [dict(zip(SPLIT_HEADER, row, strict=True)) for row in splits]
        content = {"splits": rows, "findings": [dataclasses.asdict(finding) for finding in findings]}
        write_atomically(path, json.dumps(content, indent=2) + "\n")
        return
    rows = [
        {"section": finding.section, "mark": finding.mark, "finding": finding.text, **item}
        for finding in findings
        for item in finding.items or [{}]
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
