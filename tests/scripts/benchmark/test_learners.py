"""Learners are told one by one, each at its paper's episode."""

import json
import re

from episodic.config.compose import compose_config, conf_dir


def test_learners_are_told_one_by_one(benchmark, monkeypatch, tmp_path, capsys):
    from benchmark import learners

    monkeypatch.setattr(learners, "alone", lambda function, *arguments: (0.25, 80, 3 * 2**20))
    file = tmp_path / "rows.json"
    benchmark.main(["learners", "--json", str(file)])
    rows = json.loads(file.read_text())
    assert [row["episode"] for row in rows] == list(learners.PAPERS.values())
    assert all((row["ours"], row["unit"], row["peak_mib"]) == (0.25, "s", 3) for row in rows)
    assert re.search(r"^tpn +5-way 1-shot 15-query +80 +250 +3$", capsys.readouterr().out, re.MULTILINE)


def test_a_learner_is_measured_at_its_papers_episode():
    from benchmark import learners

    seconds, images, peak = learners.learner_step("matching learner.full_context=true", "2 x 3-way 1-shot 2-query", 1)
    assert seconds > 0
    assert images == 2 * 3 * (1 + 2)
    assert 0 <= peak < 2**32
    for options, shape in learners.PAPERS.items():
        assert compose_config("train", [f"learner={options.split()[0]}", *options.split()[1:]]).learner
        assert re.fullmatch(r"(\d+ x )?\d+-way \d+-shot \d+-query", shape)
    known = {path.stem for path in (conf_dir() / "learner").glob("[!_]*.yaml")}
    assert {options.split()[0] for options in learners.PAPERS} == known
