"""Answers to pictures as records, and records as rows of a table, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from episodic.assemble.predictor import Predictor
from episodic.data.image import read_pictures

AT_ONCE = 256  # pictures that are in memory at once
COLUMNS = ("file", "class", "probability", "nearest", "abstain", "error")


def answer_records(classifier: Predictor, files: list[Path]) -> Iterator[dict[str, Any]]:
    """A record for each file, with the names in `COLUMNS`. Transductive learners get all files together, others a few at a time."""
    form = classifier.form_
    step = len(files) if classifier.transductive_ else AT_ONCE
    for start in range(0, len(files), step):
        some = files[start : start + step]
        pictures, kept, failed = read_pictures(some, form.channels, form.size, resize=form.resize)
        answers = iter(classifier.answers(torch.from_numpy(pictures)) if kept else [])
        for file in some:
            if file in failed:
                yield {"file": as_unicode(file), "error": failed[file]}
                continue
            answer = next(answers)
            near = None if answer.nearest is None else as_unicode(classifier.names_[answer.nearest])
            yield {
                "file": as_unicode(file),
                "class": as_unicode(answer.label),
                "probability": answer.probability,
                "nearest": near,
                "abstain": answer.abstain,
            }


def row(record: dict[str, Any], marked: bool) -> list[str]:
    """A record as a row of the table that is printed. With `marked` it has a column that marks unsure answers."""
    mark = ["unsure" if record["abstain"] else ""] if marked else []
    return [record["file"], record["class"], f"{record['probability']:.3f}", record["nearest"] or "-", *mark]


def records_as_text(records: list[dict[str, Any]], suffix: str) -> str:
    """The records as JSON or CSV."""
    if suffix.lower() == ".json":
        return json.dumps(records, indent=2) + "\n"
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def as_unicode(name: object) -> str:
    """A name as files of answers have it. Bytes of a file name that are not Unicode are replaced by a mark."""
    return os.fsencode(str(name)).decode(errors="replace")
