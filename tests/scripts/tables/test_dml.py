"""Every loss once, the best with further seeds, all on the same budget."""

import pytest

from episodic.config.compose import compose_config, conf_dir


def test_every_loss_is_trained_once_and_the_best_five_on_validation_with_further_seeds(records, retrieved, tmp_path):
    from tables import dml

    losses = sorted(
        path.stem for path in (conf_dir() / "loss").glob("*.yaml") if path.stem not in ("cross_entropy", "zero_mean")
    )
    assert sorted(dml.LOSSES) == losses
    dml.reproduce("dml_omniglot", tmp_path / "runs", 3, [])
    names = [name for _, name, _ in retrieved]
    assert names[: len(losses)] == [f"{loss}-0" for loss in dml.LOSSES]
    assert sorted(names[len(losses) :]) == sorted(f"{loss}-{seed}" for loss in dml.LOSSES[-5:] for seed in (1, 2))
    record = records.read("dml/dml_omniglot")
    assert [len(record[loss]) for loss in dml.LOSSES] == [1] * (len(losses) - 5) + [3] * 5
    assert all("test/recall@1" in scores for of in record.values() for scores in of.values())
    assert [int(row[4]) for row in dml.rows("dml_omniglot")].count(3) == 5


@pytest.mark.parametrize("loss", ["schem", "divide_and_conquer"])
def test_losses_made_for_other_batches_get_them(records, retrieved, tmp_path, loss):
    from tables import dml

    options = ["experiment=dml_omniglot", f"loss={loss}", *dml.BATCHES[loss]]
    cfg, plain = compose_config("train", options), compose_config("train", options[:1])
    assert cfg.trainer._target_.startswith(f"episodic.train.{loss}.")
    shared = [key for key in plain.trainer if key in cfg.trainer and key != "_target_"]
    assert {"steps", "validate_every", "classes_per_batch", "images_per_class"} <= set(shared)
    for key in set(shared) - {"candidates"}:
        assert cfg.trainer[key] == plain.trainer[key], key


def test_softer_settings_are_rows_of_miniimagenet(records, retrieved, tmp_path):
    from tables import dml

    dml.reproduce("dml_miniimagenet", tmp_path / "runs", 1, [])
    assert [name for _, name, _ in retrieved[len(dml.LOSSES) :]] == [f"{loss}-0" for loss in dml.FROM_SCRATCH]
    labels = [row[0] for row in dml.rows("dml_miniimagenet")]
    assert "`circle loss.circle.gamma=8`" in labels
    assert "`circle`" in labels
