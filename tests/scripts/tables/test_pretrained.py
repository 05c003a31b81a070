"""Pre-training is compared with what goes without."""


def test_pre_training_is_compared_with_what_goes_without(records, retrieved, tmp_path):
    from tables import pretrained

    pretrained.reproduce("pretrained_miniimagenet", tmp_path / "runs", 1, [])
    trained = [name for kind, name, _ in retrieved if kind == "episodic.train"]
    assert trained == ["classifier-0", "protonet-scratch-0", "protonet-pretrained-0"]
    start = tmp_path / "runs" / "dml_miniimagenet" / "classifier-0"
    assert [f"init_from={start}" in options for kind, _, options in retrieved if kind == "episodic.train"] == [0, 0, 1]
    scored = [options for kind, _, options in retrieved if kind == "episodic.evaluate"]
    rival = tmp_path / "runs" / "dml_miniimagenet" / "protonet-scratch-0"
    assert scored == [[f"against={rival}"]] * 3
