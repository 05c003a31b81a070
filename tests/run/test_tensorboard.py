"""Training curves are read as they were written, from damaged files and from resumed runs too."""

from torch.utils.tensorboard import SummaryWriter

from episodic.run.tensorboard import read_curves


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
