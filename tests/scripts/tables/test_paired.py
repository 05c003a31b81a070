"""Each wrapper is compared with the run without it, on the same episodes."""

import json
from pathlib import Path

from episodic.config.overrides import check_overrides


def test_each_wrapper_is_compared_with_the_run_without_it(records, tmp_path, monkeypatch):
    from tables import paired

    ran = []

    def run(command, check):
        name, options = command[2], command[3:]
        if name == "episodic.train":
            check_overrides("train", options)
        folder = Path(options[0].removeprefix("run="))
        folder.mkdir(parents=True, exist_ok=True)
        scores = {f"test/{key}": 0.5 for key in ("accuracy", "difference", "difference_ci95")}
        file = folder / ("metrics.json" if name == "episodic.train" else "evaluations/a.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(scores))
        ran.append((name, folder.name, options[1:]))

    monkeypatch.setattr(records.subprocess, "run", run)
    paired.reproduce("paired_omniglot", tmp_path / "runs", 3, [])
    trained = [folder for name, folder, _ in ran if name == "episodic.train"]
    assert len(trained) == len(set(trained)) == 5
    rivals = {"supervised-0-0", "supervised-shift-0", "mean_teacher-shift-0"}
    for name, _, (against, distractors, *_) in (each for each in ran if each[0] == "episodic.evaluate"):
        assert Path(against.removeprefix("against=")).name in rivals, name
        assert distractors in ("task.n_distractors=0", "task.n_distractors=5")
    assert [len(row) for row in paired.rows("paired_omniglot")] == [len(paired.HEADER)] * 8
