"""Pseudo-labels are compared with where they start and with as many steps without them."""


def test_pseudo_labels_and_their_control_start_from_the_same_run(records, retrieved, tmp_path):
    from tables import pseudo_labels

    name = "pseudo_labels_omniglot"
    pseudo_labels.reproduce(name, tmp_path / "runs", 1, ["trainer.steps=2"])
    trained = {folder: options for kind, folder, options in retrieved if kind == "episodic.train"}
    start = f"init_from={tmp_path / 'runs' / name / 'labeled'}"
    assert {folder: start in options for folder, options in trained.items()} == {
        "labeled": False,
        "control": True,
        "pseudo_labels": True,
    }
    assert set(trained["control"]) - set(trained["pseudo_labels"]) == {"semi.pseudo_labels.unlabeled_weight=0"}
    assert all("trainer.steps=2" in options for options in trained.values())
    assert len(records.read(f"semi/{name}")) == 3
