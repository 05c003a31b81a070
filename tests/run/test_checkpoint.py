import errno
import hashlib
import json
import os

import numpy as np
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


def test_the_checksums_have_the_form_of_sha256sum(tmp_path):
    save(tmp_path / "last", 1)
    lines = (tmp_path / "last" / "SHA256SUMS").read_text().splitlines()
    files = [path for path in (tmp_path / "last").iterdir() if path.name != "SHA256SUMS"]
    assert sorted(lines) == sorted(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in files)


@pytest.mark.parametrize("wreck", ["damaged", "missing"])
def test_a_whole_one_that_was_not_in_its_place_yet_is_read_where_no_other_is(tmp_path, monkeypatch, wreck):
    for step in (1, 2):
        save(tmp_path / "last", step)
    (tmp_path / "last" / "model.safetensors").write_bytes(b"junk")
    if wreck == "missing":
        checkpoint.remove(tmp_path / "last")

    def killed(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "last", 3)
    checkpoint.remove(tmp_path / "last-previous")
    _, _, state, warning = load_checkpoint(tmp_path / "last")
    assert state == {"step": 3}
    assert warning.endswith(f"using {tmp_path / '.last-building'}")


def test_a_half_written_one_is_never_read(tmp_path):
    save(tmp_path / "last", 1)
    os.rename(tmp_path / "last", tmp_path / ".last-building")
    (tmp_path / ".last-building" / "SHA256SUMS").unlink()
    assert not has_checkpoint(tmp_path / "last")
    with pytest.raises(CheckpointError, match=r"\.last-building: SHA256SUMS is missing"):
        load_checkpoint(tmp_path / "last")


def test_what_a_killed_process_left_is_swept(tmp_path):
    save(tmp_path / "last", 1)
    (tmp_path / ".last-building").mkdir()
    (tmp_path / ".last-building" / "old").write_text("")
    save(tmp_path / "last", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "last-previous"]
    assert "old" not in [path.name for path in (tmp_path / "last").iterdir()]


def test_a_new_one_that_takes_its_place_while_it_is_read_is_read_then(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path / "last", step)
    read, saves = checkpoint._bytes, []

    def overtaken(path):
        if path.name == "model.safetensors" and not saves:
            saves.append(save(tmp_path / "last", 3))
        return read(path)

    monkeypatch.setattr(checkpoint, "_bytes", overtaken)
    assert load_checkpoint(tmp_path / "last")[2:] == ({"step": 3}, None)


@pytest.mark.parametrize("name", ["last", "last-previous"])
def test_a_checkpoint_that_cannot_be_read_is_there_nevertheless(tmp_path, name):
    (tmp_path / name).symlink_to(tmp_path / name)
    assert has_checkpoint(tmp_path / "last")


VALUES = ["null", "[]", "{}", "5", "1e999", "NaN", '"text"', "[" * 50_000, "9" * 5_000, '{"optimizer": 1}', "true"]


def test_any_bytes_give_the_one_before_or_an_error_of_checkpoints(tmp_path):
    random = np.random.default_rng(0)
    for step in (1, 2):
        save(tmp_path / "last", step)
    folders = [tmp_path / "last", tmp_path / "last-previous"]
    whole = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    steps = []
    for _ in range(200):
        chosen = random.choice(sorted(whole), size=random.integers(1, 6), replace=False)
        for path in chosen:
            path.write_bytes(mutated(whole[path], random))
        damaged = {path.parent for path in chosen if path.read_bytes() != whole[path]}
        try:
            steps.append(load_checkpoint(tmp_path / "last")[2]["step"])
        except CheckpointError:
            steps.append(None)
        assert steps[-1] == next((2 - i for i, folder in enumerate(folders) if folder not in damaged), None)
        for path in chosen:
            path.write_bytes(whole[path])
    assert {1, 2, None} >= {*steps} > {1}


def mutated(data, random):
    data, start = bytearray(data), int(random.integers(0, len(data)))
    stop = start + int(random.integers(1, 40))
    kind = random.integers(5)
    if kind == 0:
        data[start] ^= 1 << int(random.integers(8))
    elif kind == 1:
        data[start:] = b""
    elif kind == 2:
        data[start:stop] = bytes(len(data[start:stop]))
    elif kind == 3:
        data[start:stop] = random.bytes(stop - start)
    else:
        data[:] = str(random.choice(VALUES)).encode()
    return bytes(data)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"weight": torch.ones(1, 2, dtype=torch.int8)}, "is of torch.int8, and torch.float32 is expected"),
        ({"weight": torch.ones(1, 2, dtype=torch.complex64)}, "is of torch.complex64"),
        ({"weight": torch.ones(1, 2), "learner.weight": torch.zeros(1, 2)}, "several weights of one name"),
    ],
)
def test_weights_that_would_be_changed_without_a_word_are_refused(weights, reason):
    with pytest.raises(CheckpointError, match=reason):
        load_weights(torch.nn.Linear(2, 1, bias=False), weights, "example")
