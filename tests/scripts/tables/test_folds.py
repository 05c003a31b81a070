"""A loss is cross-validated with as many repeats as asked for."""

import json
from pathlib import Path

from episodic.config.overrides import check_overrides


def test_a_loss_is_cross_validated_with_as_many_repeats_as_asked_for(records, tmp_path, monkeypatch):
    from tables import folds

    def run(command, check):
        assert check
        assert command[2] == "episodic.cross_validate"
        check_overrides("cross_validate", command[3:])
        assert {"repeats=2", "experiment=dml_omniglot", "trainer.steps=2"} <= set(command)
        folder = Path(command[3].removeprefix("run="))
        assert f"loss={folder.name}" in command
        folder.mkdir(parents=True)
        (folder / "cross_validation.json").write_text(json.dumps({"separated/recall@1": [0.5, len(folder.name)]}))

    monkeypatch.setattr(folds.subprocess, "run", run)
    folds.reproduce("folds_omniglot", tmp_path / "runs", 2, ["trainer.steps=2"])
    record = records.read("dml/folds_omniglot")
    assert record == {"contrastive": {"separated/recall@1": [0.5, len("contrastive")]}}
