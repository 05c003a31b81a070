"""The commands that make the table of semi-supervised learning, and what is kept of them."""

from pathlib import Path


def test_every_cell_is_one_run_or_one_evaluation(records, commands, tmp_path):
    from tables import semi

    semi.reproduce("semi_glyphs", tmp_path / "runs", 2, ["trainer.steps=2"])
    trained = [options for name, options in commands if name == "episodic.train"]
    scored = [options for name, options in commands if name == "episodic.evaluate"]
    assert len(trained) == 2 * (1 + 3 * 2)
    assert len(scored) == 2 * 2 * 2
    for options in trained:
        method, distractors, split = Path(options[0].removeprefix("run=")).name.rsplit("-", 2)
        assert {"experiment=semi_glyphs", "trainer.steps=2", f"seed={split}", f"task.labeled_seed={split}"} <= set(
            options
        )
        assert f"semi={method}" in options or method == "supervised"
        assert f"task.n_distractors={distractors}" in options or method == "supervised"
    record = records.read("semi/semi_glyphs")
    methods = ["supervised", "semi-supervised inference", "soft_kmeans", "soft_kmeans_cluster", "masked_soft_kmeans"]
    assert list(record) == methods
    assert all(set(of) == {"0", "5"} and set(of["0"]) == set(of["5"]) == {"0", "1"} for of in record.values())
    accuracies = [cell["test/accuracy"] for of in record.values() for by in of.values() for cell in by.values()]
    assert len(set(accuracies)) == len(accuracies), "each cell has scores of its own"
    assert "test/seconds" not in record["supervised"]["0"]["0"]
    assert [row[0] for row in semi.rows("semi_glyphs")] == methods
    assert all(row[5] == "2" and len(row) == len(semi.HEADER) for row in semi.rows("semi_glyphs"))
