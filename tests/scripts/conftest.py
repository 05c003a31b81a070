"""Scripts are imported as they are run: from their own folder."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The folder of the scripts, whose packages can be imported."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return SCRIPTS


@pytest.fixture
def benchmark(scripts):
    """The entry point `scripts/benchmark.py`, whose name is also that of the package of its rows."""
    spec = importlib.util.spec_from_file_location("benchmark_entry_point", scripts / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """16 validation classes of 20 small photographs."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for c in range(16):
        folder = root / "miniimagenet" / "val" / f"class{c:02}"
        folder.mkdir(parents=True)
        for i in range(20):
            pixels = np.kron(random.integers(256, size=(7, 7, 3)), np.ones((12, 12, 1))).astype(np.uint8)
            image = Image.fromarray(pixels)
            (image.convert("L") if i == 3 else image).save(folder / f"{i}.jpg")
    return root
