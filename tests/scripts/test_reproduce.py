"""The command that makes a whole table: every table is found by its name."""

import sys
from pathlib import Path

import pytest


def test_a_table_is_made_by_its_own_file(monkeypatch):
    import reproduce

    made = []
    monkeypatch.setattr(
        reproduce.TABLES["sse_omniglot"], "reproduce", lambda *arguments: made.append(arguments), raising=True
    )
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "sse_omniglot", "--splits", "2", "--options", "device=cpu"])
    reproduce.main()
    assert made == [("sse_omniglot", Path("runs"), 2, ["device=cpu"])]


def test_a_record_is_made_again_by_its_name(monkeypatch):
    import reproduce

    made = []
    monkeypatch.setattr(reproduce.scores, "reproduce", lambda *arguments: made.append(arguments))
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "miniimagenet_5w1s", "--splits", "1", "--runs", "r"])
    reproduce.main()
    assert made == [("miniimagenet_5w1s", Path("r"), 1, [])]


def test_an_unknown_table_is_told_with_those_that_there_are(monkeypatch, capsys):
    import reproduce

    monkeypatch.setattr(sys, "argv", ["reproduce.py", "semi"])
    with pytest.raises(SystemExit):
        reproduce.main()
    assert "semi_omniglot" in capsys.readouterr().err


def test_each_table_is_told_in_the_head_of_the_script():
    import reproduce

    for name in reproduce.TABLES:
        assert f"`{name}`" in reproduce.__doc__
