"""The doctor run on a folder, and pictures for it."""

import json

import numpy as np
import pytest
from PIL import Image

from episodic.config.compose import compose_config
from episodic.config.paths import quoted_arguments
from episodic.doctor.__main__ import main, with_data

SMALL = ["task.n_way=3", "task.n_query=3", "task.train.n_way=3", "task.train.n_query=3", "task.image_size=32"]


def picture(seed):
    """A smooth random color image of 40 x 40."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, size=(14, 14, 3)).astype(np.uint8))
    return coarse.resize((40, 40), Image.Resampling.BICUBIC)


def examined(folder, *options, code=0):
    """The findings that are not ok, by section: `[(mark, text, items)]`."""
    out = folder.parent / "report.json"
    cfg = compose_config("doctor", quoted_arguments([f"data={folder}", *SMALL, f"out={out}", *options], with_data))
    if code:
        with pytest.raises(SystemExit) as stop:
            main(cfg)
        assert stop.value.code == code
    else:
        main(cfg)
    findings = json.loads(out.read_text())["findings"]
    assert any(f["mark"] == "error" for f in findings) == (code == 1)
    bad = [f for f in findings if f["mark"] != "ok"]
    return {
        s: [(f["mark"], f["text"], f["items"]) for f in bad if f["section"] == s] for s in {f["section"] for f in bad}
    }
