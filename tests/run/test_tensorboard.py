"""Training curves are read as they were written, from damaged files and from resumed runs too."""

import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from episodic.run.tensorboard import Curves, read_curves


def test_curves_are_those_that_were_written_and_a_resumed_run_counts_once(tmp_path):
    assert read_curves(tmp_path) == {}
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (10, 20, 30):
            writer.add_scalar("train/loss", step / 10, step)
    with SummaryWriter(str(tmp_path), filename_suffix=".second_view") as writer:
        for step in (20, 40):
            writer.add_scalar("train/loss", -step, step)
    steps, values = read_curves(tmp_path)["train/loss"]
    assert steps.tolist() == [10, 20, 30, 40]
    assert values.tolist()[0::3] == [1.0, -40.0]


def test_damaged_events_are_read_as_far_as_they_go(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(100):
            writer.add_scalar("train/loss", step, step)
    path = next(tmp_path.glob("events*"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"damaged" * 9 + whole[len(whole) // 2 :])
    steps, _ = read_curves(tmp_path)["train/loss"]
    assert 10 < len(steps) < 100


def test_points_are_on_the_disk_when_they_are_added_and_a_resumed_run_takes_later_ones_back(tmp_path):
    first = Curves(tmp_path, 0, torch.zeros(1, 4, 4, dtype=torch.uint8))
    for step in (10, 20, 30):
        first.training(step, {"loss": step / 10})
    first.validation(20, 0.5, 0.1)
    assert read_curves(tmp_path)["train/loss"][0].tolist() == [10, 20, 30]
    again = Curves(tmp_path, 20, None)
    again.training(25, {"loss": 7.0})
    for curves in (first, again):
        curves.close()
    steps, values = read_curves(tmp_path)["train/loss"]
    assert steps.tolist() == [10, 20, 25]
    assert values.tolist() == [1.0, 2.0, 7.0]
    assert read_curves(tmp_path)["val/accuracy"][0].tolist() == [20]


def test_a_full_disk_is_told_to_whoever_adds_a_point(tmp_path):
    curves = Curves(tmp_path, 0, None)
    curves._writer.close()
    curves._writer = RecordWriter(open("/dev/full", "wb"))  # noqa: SIM115 - closed below
    with pytest.raises(OSError, match="No space left"):
        curves.training(1, {"loss": 1.0})
    curves.close()
