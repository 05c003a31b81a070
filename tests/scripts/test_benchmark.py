import functools
import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from episodic.config.compose import compose_config, conf_dir
from tests.conftest import random_store

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
DATA = SCRIPT.parents[2] / "shared" / "data"


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)  # for its neighbors, as where it is run
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


def check(rows, targets):
    assert [(row["row"], row["target"]) for row in rows] == list(targets.items())
    for row in rows:
        assert set(row) == {"row", "ours", "peer", "unit", "ratio", "target"}
        assert row["unit"] == "episodes/s"
        assert row["ours"] > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])


EASYFSL = {
    "indices, blocks / easyfsl TaskSampler": 20,
    "indices, lists / easyfsl TaskSampler": None,
    "DataLoader / easyfsl TaskSampler": None,
}
LEARN2LEARN = {
    "indices, blocks / learn2learn FusedNWaysKShots": 20,
    "indices, blocks / learn2learn NWays+KShots": None,
    "DataLoader, 64 at once / learn2learn TaskDataset.sample": 20,
}


def test_rows_tell_ours_the_peers_ratio_and_target_and_a_missing_peer_is_skipped(
    benchmark, tmp_path, monkeypatch, capsys
):
    import benchmark_episodes

    def in_child(function, row, seconds):
        if "NWays+KShots" in row:
            raise ImportError("No module named 'learn2learn'")
        return 1e12 if "Fused" in row else 2.5

    monkeypatch.setattr(benchmark_episodes, "in_child", in_child)
    file = tmp_path / "rows.json"
    benchmark.main(["indices", "--seconds", "0.01", "--repeats", "2", "--json", str(file)])
    rows = json.loads(file.read_text())
    fused = "indices, blocks / learn2learn FusedNWaysKShots"
    check(rows, EASYFSL | {fused: 20})
    assert [row["peer"] for row in rows] == [2.5, 2.5, 2.5, 1e12]
    out = capsys.readouterr().out
    assert "indices: skipped from here on: No module named 'learn2learn'" in out
    assert re.search(rf"^{next(iter(EASYFSL))} .*  20  ", out, re.MULTILINE)
    assert [line.split("  ")[0] for line in out.splitlines() if "20, missed" in line] == [fused]


def test_the_memory_of_a_process_is_told_without_that_of_the_one_which_started_it(benchmark):
    import measuring

    np.ones(2**27)  # 1 GiB, taken and given back here
    hardware = benchmark.Hardware.choose("cpu", "fp32")
    _, _, taken = measuring.alone(measuring.cost, functools.partial(np.ones, 2**23), hardware, 1)
    assert taken == pytest.approx(2**27, rel=0.1)  # the first result and the second, 64 MiB each


def test_missing_data_is_skipped(benchmark, tmp_path, capsys):
    benchmark.main(["evaluation", "--data-dir", str(tmp_path)])
    assert "evaluation: skipped from here on: miniimagenet has no val split on disk" in capsys.readouterr().out


@pytest.mark.slow
@needs("easyfsl")
def test_torchs_sampler_is_left_as_it_was(benchmark):
    import benchmark_episodes
    import measuring

    before = measuring.Sampler.__init__
    assert measuring.task_sampler(benchmark_episodes.Items(), 1).n_tasks == 1
    assert measuring.Sampler.__init__ is before


@pytest.mark.slow
@needs("easyfsl")
@needs("learn2learn")
def test_indices_against_the_peers(tmp_path):
    check(run(tmp_path, "indices")[1], EASYFSL | LEARN2LEARN)


@pytest.mark.slow
@needs("learn2learn")
def test_training_against_the_peer(tmp_path):
    out, rows = run(tmp_path, "training")
    check(rows, {"training / learn2learn": 4})
    assert "training: the same first step in float32" in out


@pytest.fixture
def omniglot(benchmark, monkeypatch):
    """The row, of 6 classes, with its peer in this process."""
    import benchmark_training

    small = benchmark_training.SETTINGS["omniglot"]._replace(n_classes=6, way=4, query=2)
    monkeypatch.setitem(benchmark_training.SETTINGS, "omniglot", small)
    monkeypatch.setattr(benchmark_training, "in_child", lambda function, *arguments: function(*arguments))
    return benchmark_training


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


@pytest.fixture
def cross_attention(benchmark, monkeypatch):
    """The rows, on maps of few channels in this process."""
    import benchmark_cross_attention

    monkeypatch.setattr(benchmark_cross_attention, "MAP", (16, 6, 6))
    sizes = iter([2**20, 3 * 2**20, 4 * 2**20])
    alone = lambda function, *arguments: function(*arguments) | {"bytes": next(sizes)}  # noqa: E731
    monkeypatch.setattr(benchmark_cross_attention, "alone", alone)
    return benchmark_cross_attention


def test_cross_attention_is_that_of_each_pair_in_time_and_memory(benchmark, cross_attention, tmp_path, capsys):
    file = tmp_path / "rows.json"
    benchmark.main(["cross_attention", "--repeats", "1", "--json", str(file)])
    time, keeping, memory = json.loads(file.read_text())
    assert (time["row"], time["unit"], time["target"]) == ("cross attention, forward + backward", "ms", 5)
    for row in (time, keeping):
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
    assert (keeping["ours"], keeping["target"]) == (time["ours"], None)
    expected = {"row": "cross attention, memory", "ours": 1, "peer": 3, "unit": "MiB", "ratio": 3, "target": 2}
    assert memory == expected
    assert "cross_attention: logits differ by at most" in capsys.readouterr().out


@pytest.mark.parametrize("changed", ["logits", "gradients"])
def test_no_ratio_where_cross_attention_differs_from_its_pairs(benchmark, cross_attention, monkeypatch, changed):
    right = cross_attention.ours

    def ours(learner, episode):
        logits, loss = right(learner, episode)
        return (1.01 * logits, loss) if changed == "logits" else (logits, 1.01 * loss)

    monkeypatch.setattr(cross_attention, "ours", ours)
    with pytest.raises(SystemExit, match="cross_attention: our results differ from the peer's"):
        benchmark.main(["cross_attention", "--repeats", "1"])


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not there")
@needs("easyfsl")
def test_evaluation_against_the_peer(tmp_path):
    sizes = ["--episodes", "40", "--peer-episodes", "2", "--data-dir", str(DATA)]
    out, rows = run(tmp_path, "evaluation", *sizes)
    check(rows, {"evaluation / easyfsl evaluate": 200})
    assert "100.00% of 150 answers equal" in out


@pytest.mark.slow
def test_propagation_against_scikit_learn(benchmark, tmp_path):
    out, rows = run(tmp_path, "propagation")
    import benchmark_propagation

    check(rows, dict.fromkeys(benchmark_propagation.CASES, 50))
    for name in benchmark_propagation.CASES:
        assert re.search(rf"{re.escape(name)}: (100\.00|99\.9\d)% of 3,750 answers equal", out)


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
        benchmark.main(["propagation"])


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
    monkeypatch.setattr(benchmark_refresh, "NEIGHBORS", 10)
    return benchmark_refresh


def test_a_refresh_is_told_by_stages(benchmark, refresh, tmp_path, capsys):
    file = tmp_path / "rows.json"
    benchmark.main(["refresh", "--json", str(file)])
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
        benchmark.main(["refresh"])


def test_a_refresh_without_its_images_is_skipped(benchmark, tmp_path, capsys):
    benchmark.main(["refresh", "--data-dir", str(tmp_path)])
    assert "refresh: skipped: miniimagenet has no train split on disk" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Values of Tp or Tn are too high")
def test_losses_are_told_beside_their_peers_with_how_far_apart_both_are(benchmark, monkeypatch, tmp_path, capsys):
    import benchmark_losses

    monkeypatch.setattr(benchmark_losses, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(benchmark_losses, "SHAPES", ((24, 8), (32, 8)))
    monkeypatch.setattr(benchmark_losses, "TOO_LARGE", {"lifted_structure": 24})
    file = tmp_path / "rows.json"
    benchmark.main(["losses", "--repeats", "1", "--json", str(file)])
    *rows, mean = json.loads(file.read_text())
    assert len(rows) == 2 * len(benchmark_losses.NAMES)
    largest = [row["ratio"] for row in rows if row["items"] == 32 and "ratio" in row]
    assert len(largest) == len(benchmark_losses.NAMES) - 1
    assert mean["ratio"] == pytest.approx(math.prod(largest) ** (1 / len(largest)))
    assert (mean["row"], mean["items"], mean["dim"], mean["target"]) == ("loss, geometric mean", 32, 8, 2)
    for row in rows:
        if row["row"] == "loss, lifted_structure" and row["items"] == 32:
            assert "peer" not in row
            continue
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
        assert row["target"] == 1
        rounding = 0.02 if row["row"] == "loss, ranked_list" else 1e-4  # the peer adds 1e-5 to each of its weights
        assert max(row["value_error"], row["gradient_error"]) < rounding, row
        assert row["bf16_gradient_error"] < 0.05, row
    assert "24 x 8" in capsys.readouterr().out


def test_learners_are_told_one_by_one(benchmark, monkeypatch, tmp_path, capsys):
    import benchmark_learners

    monkeypatch.setattr(benchmark_learners, "alone", lambda function, *arguments: (0.25, 80, 3 * 2**20))
    file = tmp_path / "rows.json"
    benchmark.main(["learners", "--json", str(file)])
    rows = json.loads(file.read_text())
    assert [row["episode"] for row in rows] == list(benchmark_learners.PAPERS.values())
    assert all((row["ours"], row["unit"], row["peak_mib"]) == (0.25, "s", 3) for row in rows)
    assert re.search(r"^tpn +5-way 1-shot 15-query +80 +250 +3$", capsys.readouterr().out, re.MULTILINE)


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
