"""Folders of pictures are answered as the episodes that they were written from."""

import pytest


@pytest.mark.parametrize(("unlabeled", "semi"), [(0, None), (4, "soft_kmeans")])
def test_accuracies_of_folders_are_those_of_evaluation(files, tmp_path, unlabeled, semi):
    import folders
    from benchmark import commands

    commands.untrained_run(tmp_path / "run", str(files))
    row = folders.compare(str(tmp_path / "run"), 1, unlabeled, semi, 2, tmp_path / "kept")
    assert row["files"] == pytest.approx(row["evaluation"], abs=1 / 75 + 1e-6)  # precision may move a query
    assert sum(row["files"]) == pytest.approx(sum(row["evaluation"]), abs=2 / 75)
    assert len(list((tmp_path / "kept" / f"1-shot-{unlabeled}-unlabeled" / "photos").iterdir())) == 75
