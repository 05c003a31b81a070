"""The command line of the benchmark: which rows are measured, and what is kept of each."""

import json

import pytest


def test_rows_are_chosen_by_name_and_kept_as_they_are_measured(benchmark, tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    seen = []

    def row(name):
        def measure(args):
            seen.append(file.exists() and [entry["row"] for entry in json.loads(file.read_text())])
            return [{"row": name}], f"the table of {name}"

        return measure

    for name in ("disk", "growth"):
        monkeypatch.setitem(benchmark.MEASURED, name, row(name))
    benchmark.main(["growth", "disk", "--json", str(file)])
    assert seen == [False, ["disk"]]  # in the order of the table, whatever the order on the command line
    assert [entry["row"] for entry in json.loads(file.read_text())] == ["disk", "growth"]
    out = capsys.readouterr().out
    assert "the table of disk" in out
    assert "the table of growth" in out


def test_an_unknown_row_is_told_with_the_rows_that_there_are(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["indexes"])
    assert "there is no row indexes; rows: indices, evaluation, " in capsys.readouterr().err


def test_each_row_is_told_in_the_head_of_the_script(benchmark):
    for name in benchmark.ALL:
        assert f"`{name}`" in benchmark.__doc__
