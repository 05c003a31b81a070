import errno
import json

import pytest
import torch
from torch import nn

from episodic.run import checkpoint
from episodic.run.checkpoint import CheckpointError, has_checkpoint, load_checkpoint, load_weights, save_checkpoint


def trained(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.8, 0.9))
    model(torch.randn(2, 1, 5, 5)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder, step, seed=0):
    model, optimizer = trained(seed)
    trainer = {"tensors": {"bank": torch.full((3,), float(step))}, "optimizer": optimizer.state_dict()}
    save_checkpoint(folder, model.state_dict(), trainer, {"step": step})
    return model, optimizer


def test_comes_back_as_it_was(tmp_path):
    model, optimizer = save(tmp_path / "last", 7)
    weights, state, rest, warning = load_checkpoint(tmp_path / "last")
    assert rest == {"step": 7}
    assert warning is None
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    other, fresh = trained(seed=1)
    load_weights(other, weights, "last")
    fresh.load_state_dict(state["optimizer"])
    assert state["tensors"]["bank"].tolist() == [7, 7, 7]
    before, after = optimizer.state_dict(), fresh.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for key, moments in before["state"].items():
        assert all(torch.equal(moments[m], after["state"][key][m]) for m in moments)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "trainer.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"]
)
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_damage_is_noticed_and_the_one_before_is_used(tmp_path, name, damage):
    save(tmp_path / "last", 1)
    save(tmp_path / "last", 2)
    path = tmp_path / "last" / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        middle = len(data) // 2
        changed = {"truncate": data[:middle], "flip": data[:middle] + b"\xff\xff" + data[middle + 2 :], "empty": b""}
        path.write_bytes(changed[damage])
    _, _, state, warning = load_checkpoint(tmp_path / "last")
    assert state == {"step": 1}
    assert "last-previous" in warning


def test_both_damaged(tmp_path):
    for step in (1, 2):
        save(tmp_path / "last", step)
    for folder in ("last", "last-previous"):
        (tmp_path / folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged or truncated \(4 bytes"):
        load_checkpoint(tmp_path / "last")


def test_none_there(tmp_path):
    assert not has_checkpoint(tmp_path / "last")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        load_checkpoint(tmp_path / "last")


@pytest.mark.parametrize("writes", range(5))
def test_a_full_disk_leaves_the_old_one_whole(tmp_path, monkeypatch, writes):
    save(tmp_path / "last", 1)
    write, count = checkpoint.write_atomically, []

    def full(path, content):
        count.append(path)
        if len(count) > writes:
            path.write_bytes(b"...")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "last", 2)
    assert load_checkpoint(tmp_path / "last")[2:] == ({"step": 1}, None)
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("call", range(1, 5))
def test_killed_between_any_two_renames_something_can_be_read(tmp_path, monkeypatch, call):
    for step in (1, 2):
        save(tmp_path / "last", step)
    calls = []

    def dying(function):
        def wrapper(*arguments, **keywords):
            calls.append(function)
            if len(calls) == call:
                raise KeyboardInterrupt  # stands for the process's end: nothing after it runs
            return function(*arguments, **keywords)

        return wrapper

    monkeypatch.setattr(checkpoint, "remove", dying(checkpoint.remove))
    monkeypatch.setattr(checkpoint.os, "rename", dying(checkpoint.os.rename))
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "last", 3)
    monkeypatch.undo()
    assert has_checkpoint(tmp_path / "last")
    assert load_checkpoint(tmp_path / "last")[2]["step"] >= 2
    save(tmp_path / "last", 4)
    assert load_checkpoint(tmp_path / "last")[2]["step"] == 4


def test_another_model_is_refused_by_name(tmp_path):
    save(tmp_path / "last", 1)
    with pytest.raises(
        CheckpointError, match=r"made for another model; .* differ: 0.bias \(model \(3,\), file \(2,\)\)"
    ):
        load_weights(
            nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)), load_checkpoint(tmp_path / "last")[0], "last"
        )


def test_no_pickle(tmp_path):
    save(tmp_path / "last", 1)
    assert json.loads((tmp_path / "last" / "state.json").read_text())["step"] == 1
    assert {p.name for p in (tmp_path / "last").iterdir()} == {
        "model.safetensors",
        "trainer.safetensors",
        "optimizer.safetensors",
        "state.json",
        "SHA256SUMS",
    }
