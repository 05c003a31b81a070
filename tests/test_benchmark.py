import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from episodic.config import compose_config, conf_dir
from tests.conftest import random_store

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
DATA = SCRIPT.parents[2] / "shared" / "data"


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)  # for its neighbours, as where it is run
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tmp_path, *arguments):
    """The script's output and its JSON, measured as briefly as it goes."""
    file = tmp_path / "rows.json"
    command = [sys.executable, str(SCRIPT), "--seconds", "0.05", "--repeats", "1", "--json", str(file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, json.loads(file.read_text())


def check(rows, names):
    assert [row["row"] for row in rows] == names
    for row in rows:
        assert set(row) == {"row", "ours", "peer", "unit", "ratio"}
        assert row["unit"] == "episodes/s"
        assert row["ours"] > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])


EASYFSL = [f"{row} / easyfsl TaskSampler" for row in ("indices, blocks", "indices, lists", "DataLoader")]
LEARN2LEARN = [f"indices, blocks / learn2learn {name}" for name in ("FusedNWaysKShots", "NWays+KShots")]


def test_rows_tell_ours_the_peers_and_their_ratio_and_a_missing_peer_is_skipped(
    benchmark, tmp_path, monkeypatch, capsys
):
    def in_child(function, row, seconds):
        if "learn2learn" in row:
            raise ImportError("No module named 'learn2learn'")
        return 2.5

    monkeypatch.setattr(benchmark, "in_child", in_child)
    file = tmp_path / "rows.json"
    benchmark.main(["--rows", "indices", "--seconds", "0.01", "--repeats", "2", "--json", str(file)])
    rows = json.loads(file.read_text())
    check(rows, EASYFSL)
    assert {row["peer"] for row in rows} == {2.5}
    out = capsys.readouterr().out
    assert "indices: skipped from here on: No module named 'learn2learn'" in out
    assert EASYFSL[0] in out


def test_missing_data_is_skipped(benchmark, tmp_path, capsys):
    benchmark.main(["--rows", "evaluation", "--data-dir", str(tmp_path)])
    assert "evaluation: skipped from here on: miniimagenet has no val split on disk" in capsys.readouterr().out


@pytest.mark.slow
@needs("easyfsl")
def test_torchs_sampler_is_left_as_it_was(benchmark):
    before = benchmark.Sampler.__init__
    assert benchmark.task_sampler(benchmark.Items(), 1).n_tasks == 1
    assert benchmark.Sampler.__init__ is before


@pytest.mark.slow
@needs("easyfsl")
@needs("learn2learn")
def test_indices_against_the_peers(tmp_path):
    check(run(tmp_path, "--rows", "indices")[1], EASYFSL + LEARN2LEARN)


@pytest.mark.slow
@needs("learn2learn")
def test_training_against_the_peer(tmp_path):
    out, rows = run(tmp_path, "--rows", "training")
    check(rows, ["training / learn2learn"])
    assert "training: the same first step in float32" in out


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not there")
@needs("easyfsl")
def test_evaluation_against_the_peer(tmp_path):
    sizes = ["--episodes", "40", "--peer-episodes", "2", "--data-dir", str(DATA)]
    out, rows = run(tmp_path, "--rows", "evaluation", *sizes)
    check(rows, ["evaluation / easyfsl evaluate"])
    assert "100.00% of 150 answers equal" in out


@pytest.mark.slow
def test_propagation_against_scikit_learn(benchmark, tmp_path):
    out, rows = run(tmp_path, "--rows", "propagation")
    check(rows, list(benchmark.CASES))
    for name in benchmark.CASES:
        assert re.search(rf"{re.escape(name)}: (100\.00|99\.9\d)% of 18,750 answers equal", out)


def test_no_ratio_where_the_answers_of_label_propagation_differ(benchmark, monkeypatch):
    import benchmark_propagation

    row = next(iter(benchmark_propagation.CASES))
    hardware = benchmark.Hardware.choose("cpu")
    assert benchmark_propagation.compare(row, hardware)
    monkeypatch.setattr(benchmark_propagation, "GAMMA", 1 / 33)
    answers = benchmark_propagation.ours(row, hardware)
    monkeypatch.setattr(benchmark_propagation, "GAMMA", 1 / 32)
    monkeypatch.setattr(benchmark_propagation, "ours", lambda row, hardware: answers)
    assert not benchmark_propagation.compare(row, hardware)
    with pytest.raises(SystemExit, match="our results differ from the peer's"):
        benchmark.main(["--rows", "propagation"])


@pytest.fixture
def refresh(benchmark, monkeypatch):
    """The rows of a refresh of 12 classes of 20 random images."""
    import benchmark_refresh

    class Random:
        mean, std = [0.5], [0.25]

        def __init__(self, data_dir):
            pass

        def store(self, split):
            return random_store(classes=12, size=16, split=split, separation=0.5)

    monkeypatch.setattr(benchmark_refresh, "MiniImageNet", Random)
    monkeypatch.setattr(benchmark_refresh, "Conv4", lambda: benchmark_refresh.torch.nn.Flatten())
    monkeypatch.setattr(benchmark_refresh, "NEIGHBOURS", 10)
    return benchmark_refresh


def test_a_refresh_is_told_by_stages(benchmark, refresh, tmp_path, capsys):
    file = tmp_path / "rows.json"
    benchmark.main(["--rows", "refresh", "--json", str(file)])
    rows = json.loads(file.read_text())
    assert [row["row"] for row in rows] == [f"refresh, {name}" for name in ("embedding", "graph", "diffusion", "total")]
    assert all(row["items"] == 240 and row["unit"] == "s" for row in rows)
    assert rows[3]["ours"] == pytest.approx(sum(row["ours"] for row in rows[:3]))
    for row in rows[1:3]:
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
    assert "refresh of 240 items" in capsys.readouterr().out


def test_no_ratio_where_a_refresh_finds_other_labels(benchmark, refresh, monkeypatch):
    right = refresh.diffusion.diffuse
    monkeypatch.setattr(refresh.diffusion, "diffuse", lambda graph, known, *rest: right(graph, known % 5, *rest))
    with pytest.raises(SystemExit, match="our results differ from the peers'"):
        benchmark.main(["--rows", "refresh"])


def test_a_refresh_without_its_images_is_skipped(benchmark, tmp_path, capsys):
    benchmark.main(["--rows", "refresh", "--data-dir", str(tmp_path)])
    assert "refresh: skipped: miniimagenet has no train split on disk" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Values of Tp or Tn are too high")
def test_losses_are_told_beside_their_peers_with_how_far_apart_both_are(benchmark, monkeypatch, tmp_path, capsys):
    import benchmark_losses

    monkeypatch.setattr(benchmark_losses, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(benchmark_losses, "SHAPES", ((24, 8), (32, 8)))
    monkeypatch.setattr(benchmark_losses, "TOO_LARGE", {"lifted_structure": 24})
    file = tmp_path / "rows.json"
    benchmark.main(["--rows", "losses", "--repeats", "1", "--json", str(file)])
    rows = json.loads(file.read_text())
    assert len(rows) == 2 * len(benchmark_losses.NAMES)
    for row in rows:
        if row["row"] == "loss, lifted_structure" and row["items"] == 32:
            assert "peer" not in row
            continue
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
        rounding = 0.02 if row["row"] == "loss, ranked_list" else 1e-4  # the peer adds 1e-5 to each of its weights
        assert max(row["value_error"], row["gradient_error"]) < rounding, row
        assert row["bf16_gradient_error"] < 0.05, row
    assert "24 x 8" in capsys.readouterr().out


def test_a_learner_is_measured_at_its_papers_episode(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import benchmark_learners as benchmark

    seconds, images, peak = benchmark.learner_step("matching learner.full_context=true", "2 x 3-way 1-shot 2-query", 1)
    assert seconds > 0
    assert images == 2 * 3 * (1 + 2)
    assert 0 <= peak < 2**32
    for options, shape in benchmark.PAPERS.items():
        assert compose_config("train", [f"learner={options.split()[0]}", *options.split()[1:]]).learner
        assert re.fullmatch(r"(\d+ x )?\d+-way \d+-shot \d+-query", shape)
    known = {path.stem for path in (conf_dir() / "learner").glob("[!_]*.yaml")}
    assert {options.split()[0] for options in benchmark.PAPERS} == known
