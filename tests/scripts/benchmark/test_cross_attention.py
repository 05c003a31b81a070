"""CAN's attention is that of each pair in full, and no ratio is told where it is not."""

import json

import pytest


@pytest.fixture
def cross_attention(benchmark, monkeypatch):
    """The rows, on maps of few channels in this process."""
    from benchmark import cross_attention

    monkeypatch.setattr(cross_attention, "MAP", (16, 6, 6))
    sizes = iter([2**20, 3 * 2**20, 4 * 2**20])
    alone = lambda function, *arguments: function(*arguments) | {"bytes": next(sizes)}  # noqa: E731
    monkeypatch.setattr(cross_attention, "alone", alone)
    return cross_attention


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
