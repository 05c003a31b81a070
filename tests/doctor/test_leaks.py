"""Classes that a run was trained on are found, also by their hash where its data are gone."""

import json

from omegaconf import OmegaConf

from episodic.config.compose import compose_config
from episodic.data.dataset import SPLITS
from episodic.data.store import digest
from tests.doctor.examining import examined, picture


def saved_run(folder, data, **more):
    """A run as its folder has it, trained on `data`."""
    folder.mkdir()
    cfg = compose_config("train", ["task=folder_5w1s", f"task.dataset.path='{data}'"])
    for key, value in more.items():
        OmegaConf.update(cfg, key, value, merge=False)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    return folder


def test_classes_that_a_run_was_trained_on_are_found(birds, tmp_path):
    assert examined(birds, f"run={saved_run(tmp_path / 'clean', birds)}") == {}
    other = tmp_path / "other"
    for split in SPLITS:
        for name in ("test1", "owl") if split == "train" else (f"{split}9",):
            (other / split / name).mkdir(parents=True)
            picture(99).save(other / split / name / "0.png")
    leaky = saved_run(tmp_path / "leaky", other)
    [(mark, text, items)] = examined(birds, f"run={leaky}", code=1)["run"]
    assert mark == "error"
    assert "was trained on 2 classes; of the 4 test classes, 1 are among them" in text
    assert [(item["split"], item["class"]) for item in items] == [("test", "test1")]
    after = saved_run(tmp_path / "after", birds, init_from=str(leaky))
    assert [items for _, _, items in examined(birds, f"run={after}", code=1)["run"]] == [items]
    lost = saved_run(tmp_path / "lost", birds, init_from=str(tmp_path / "gone"))
    [(mark, text, _)] = examined(birds, f"run={lost}")["run"]
    assert (mark, "gone is no run" in text) == ("warning", True)
    network = {"_target_": "episodic.core.backbones.pretrained.Pretrained", "name": "resnet18", "weights": "default"}
    pretrained = saved_run(tmp_path / "pretrained", birds, backbone=network)
    [(mark, text, _)] = examined(birds, f"run={pretrained}")["run"]
    assert (mark, "weights=default" in text) == ("warning", True)


def test_a_run_whose_data_changed_or_are_gone_is_compared_by_its_hash(birds, tmp_path):
    metrics = json.dumps({"train/class_hash": digest(*(f"test{i}" for i in range(4)))})
    for name, data, said in (
        ("changed", birds, "the data have changed since"),
        ("gone", "/gone", "/gone is no folder"),
    ):
        run = saved_run(tmp_path / name, data)
        (run / "metrics.json").write_text(metrics)
        (_, known, _), (mark, text, _) = examined(birds, f"run={run}", code=1)["run"]
        assert said in known
        assert mark == "error"
        assert "trained on exactly the classes of test" in text
