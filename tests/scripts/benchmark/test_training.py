"""A training step is that of the peer, and no ratio is told where it is not."""

import json
import re

import pytest

from tests.scripts.benchmark.rows import check, needs, run


@pytest.mark.slow
@needs("learn2learn")
def test_training_against_the_peer(scripts, tmp_path):
    out, rows = run(scripts, tmp_path, "training")
    check(rows, {"training / learn2learn": 4})
    assert "training: the same first step in float32" in out


@pytest.fixture
def omniglot(benchmark, monkeypatch):
    """The row, of 6 classes, with its peer in this process."""
    from benchmark import training

    small = training.SETTINGS["omniglot"]._replace(n_classes=6, way=4, query=2)
    monkeypatch.setitem(training.SETTINGS, "omniglot", small)
    monkeypatch.setattr(training, "in_child", lambda function, *arguments: function(*arguments))
    return training


def test_a_training_step_on_omniglot_is_that_of_plain_torch(benchmark, omniglot, tmp_path, capsys):
    file = tmp_path / "rows.json"
    benchmark.main(["omniglot", "--seconds", "0.01", "--repeats", "1", "--json", str(file)])
    check(json.loads(file.read_text()), {"omniglot / plain torch": 3})
    losses = re.search(r"omniglot: the same .* loss (\S+) \(plain torch (\S+)\)", capsys.readouterr().out)
    assert float(losses[1]) == pytest.approx(float(losses[2]), rel=1e-5)


def test_no_ratio_where_training_finds_another_loss(benchmark, omniglot, monkeypatch):
    right = omniglot.training_data
    data = [right("omniglot"), right("omniglot")]
    data[1][0].images.bitwise_not_()
    monkeypatch.setattr(omniglot, "training_data", lambda row: data.pop())
    with pytest.raises(SystemExit, match="omniglot: our results differ from the peer's"):
        benchmark.main(["omniglot"])
