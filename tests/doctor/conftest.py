import pytest

from episodic.data.dataset import SPLITS
from tests.doctor.examining import picture


@pytest.fixture
def birds(tmp_path, monkeypatch):
    """Three splits of four classes with six different pictures each, in a folder whose name Hydra would not read unquoted."""
    monkeypatch.setenv("EPISODIC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "my birds, {1}"
    for i in range(72):
        split, c = SPLITS[i // 24], i // 6 % 4
        target = folder / split / f"{split}{c}"
        target.mkdir(parents=True, exist_ok=True)
        picture(i).save(target / f"{i % 6}.png")
    return folder
