"""A run or a saved file of a stranger runs nothing of the stranger's choice, whatever command or function opens it."""

import json
import shutil

import pytest
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import episodic
from episodic import FewShotClassifier
from tests.assemble.small import QUERY, STORE, SUPPORT
from tests.command import run_command

HANDLER = "torch.distributed.elastic.multiprocessing.subprocess_handler"
START = {"entrypoint": "touch", "args": ["MARK"], "env": {}, "stdout": None, "stderr": None, "local_rank_id": 0}
WRITE = {"_target_": "episodic.run.files.write_atomically", "path": "MARK", "content": "gone"}
ATTACKS = {
    "a class of torch that starts a process": {"_target_": f"{HANDLER}.subprocess_handler.SubprocessHandler", **START},
    "the same by another path": {"_target_": f"{HANDLER}.SubprocessHandler", **START},
    "a function of the package that writes": WRITE,
    "a class of the package that writes": {
        "_target_": "episodic.run.tensorboard.Curves",
        "folder": "MARK",
        "step": 1,
        "picture": None,
    },
    "the shell": {"_target_": "os.system", "command": "touch MARK"},
    "inside a right one": {"_target_": "torch.nn.Identity", "inner": [{"x": WRITE}]},
    "as an argument": {"_target_": "episodic.learners.matching.Matching", "distance": WRITE},
    "later": {"_target_": "functools.partial", "_args_": [WRITE]},
}
PLACES = ["learner", "backbone", "head", "task.dataset", "semi.supervised"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run."""
    place = tmp_path_factory.mktemp("strangers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPISODIC_CACHE", str(place / "cache"))
        small = [
            "backbone.widths=[4,4]",
            "trainer.steps=1",
            "trainer.validation_episodes=2",
            "episodes=2",
            "device=cpu",
        ]
        code, _, said = run_command("train", "run=run", *small, cwd=place)
        assert code == 0, said
        yield place / "run"


def attacked(run, tmp_path, place, attack, **more):
    """A copy of the run whose configuration asks for the attack, with trust claimed in the file as well."""
    folder, mark = shutil.copytree(run, tmp_path / "theirs"), tmp_path / "mark"
    cfg = OmegaConf.load(folder / "config.yaml")
    node = json.loads(json.dumps(attack).replace("MARK", str(mark)))
    OmegaConf.update(cfg, place, node, merge=False, force_add=True)
    cfg.allow_any_target = True
    OmegaConf.save(OmegaConf.merge(cfg, more), folder / "config.yaml")
    return folder, mark


def opened_by_all(folder, tmp_path):
    """What opens the run of somebody else, each with whether it was refused in a line."""
    pictures = tmp_path / "shots"
    for i, name in enumerate("ab"):
        (pictures / name).mkdir(parents=True)
        Image.new("L", (28, 28), 100 * i).save(pictures / name / "1.png")
    commands = {
        "evaluate": [f"run={folder}", "episodes=2"],
        "report": [f"run={folder}", "episodes=2"],
        "predict": [f"run={folder}", f"support={pictures}", f"query={pictures / 'a'}"],
        "doctor": ["task=glyphs_5w1s", f"run={folder}"],
        "train": [f"init_from={folder}", "run=mine", "trainer.steps=1", "episodes=2"],
    }
    for name, arguments in commands.items():
        code, _, said = run_command(name, *arguments, cwd=tmp_path)
        yield name, code, said
    code, _, said = run_command("train", f"run={folder}", "resume=true", cwd=tmp_path)
    yield "resume", code, said
    for name, function in (
        ("load", episodic.load),
        ("FewShotClassifier", lambda path: FewShotClassifier(path).fit(STORE.images, STORE.labels)),
    ):
        try:
            function(folder)
        except Exception as error:
            yield name, 2, f"{type(error).__name__}: {error}"
        else:
            yield name, 0, ""


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("place", PLACES)
def test_a_run_of_a_stranger_runs_nothing(run, tmp_path, place, attack):
    folder, mark = attacked(run, tmp_path, place, attack)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises((ValueError, OSError)) as refused:
        episodic.load(folder, "cpu")
    assert len(str(refused.value).splitlines()) == 1
    if attack is WRITE:  # the other ones take the same way through the command
        code, _, said = run_command("evaluate", f"run={folder}", "episodes=2", cwd=tmp_path)
        assert (code, len(said.splitlines())) == (2, 1)
    assert not mark.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_no_command_and_no_function_runs_it(run, tmp_path):
    folder, mark = attacked(run, tmp_path, "learner", ATTACKS["a class of torch that starts a process"])
    for name, code, said in opened_by_all(folder, tmp_path):
        assert not mark.exists(), name
        assert code in (0, 2), (name, said)  # 0 where the learner of the run is not asked for
        assert "Traceback" not in said, (name, said)


@pytest.mark.parametrize(
    "place", ["sse", "augment", "optimizer", "schedule", "trainer", "memory", "loss.cross_entropy"]
)
def test_nor_does_going_on_with_their_training(run, tmp_path, place):
    folder, mark = attacked(run, tmp_path, place, WRITE)
    code, _, said = run_command("train", f"run={folder}", "resume=true", cwd=tmp_path)
    assert (code, len(said.splitlines())) == (2, 1)
    assert not mark.exists()


@pytest.mark.parametrize(
    "options",
    [
        ["learner._target_=episodic.run.files.write_atomically", "+learner.path=MARK", "+learner.content=gone"],
        ["learner._target_=episodic.run.files.write_atomically", "++allow_any_target=true"],
        ["optimizer._target_=os.system", "allow_any_target=true"],
        ["hydra.searchpath=[file://PLACE]", "learner=theirs"],
        ["--config-dir=PLACE", "learner=theirs"],
        ["seed=range(1,1000000000)"],
        ["learner=choice(matching,prototypical)"],
        ["data_dir=${oc.env:HOME}"],
        ["run=elsewhere", "hydra.run.dir=elsewhere"],
    ],
)
def test_nor_do_the_options_that_their_run_was_started_with(run, tmp_path, options):
    folder, mark = shutil.copytree(run, tmp_path / "theirs"), tmp_path / "mark"
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "theirs.yaml").write_text(f"_target_: pathlib.Path.touch\n_args_: [{mark}]\n")
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.options = [option.replace("MARK", str(mark)).replace("PLACE", str(tmp_path)) for option in options]
    OmegaConf.save(cfg, folder / "config.yaml")
    code, _, said = run_command("train", f"run={folder}", "resume=true", cwd=tmp_path)
    assert (code, "Traceback" in said) == (2, False)
    assert not mark.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learner", "theirs"]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("place", ["learner", "semi.supervised", "backbone"])
def test_a_saved_file_of_a_stranger_runs_nothing(tmp_path, place, attack):
    path, mark = tmp_path / "f.safetensors", tmp_path / "mark"
    FewShotClassifier(device="cpu").fit([[0.0, 0.0], [1.0, 1.0]], ["a", "b"]).save(path)
    with safe_open(path, framework="pt") as file:
        [(key, facts)] = file.metadata().items()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts = json.loads(facts)
    cfg = OmegaConf.create(facts["config"])
    OmegaConf.update(cfg, place, json.loads(json.dumps(attack).replace("MARK", str(mark))), merge=False)
    facts["config"] = OmegaConf.to_container(cfg) | {"allow_any_target": True}
    save_file(tensors, path, {key: json.dumps(facts)})
    for opened in (FewShotClassifier.load, lambda path: FewShotClassifier(path).fit([[0.0], [1.0]], ["a", "b"])):
        with pytest.raises(ValueError, match=r"which is no|has the key|no whole file"):
            opened(path)
    assert not mark.exists()


def test_trust_is_the_users_word(run, tmp_path):
    """With `allow_any_target` a learner of another package is built, by all that open a run."""
    own = {"_target_": "tests.test_package.Stranger", "distance": {"_target_": "episodic.core.distances.cosine.Cosine"}}
    folder, _ = attacked(run, tmp_path, "learner", own)
    for word in ("no", "1", "'true'"):
        code, _, said = run_command("evaluate", f"run={folder}", f"allow_any_target={word}", cwd=tmp_path)
        assert code == 2
        assert "allow_any_target must be true or false" in said or "which is no learner" in said
    code, out, said = run_command("evaluate", f"run={folder}", "episodes=2", "allow_any_target=true", cwd=tmp_path)
    assert (code, said) == (0, "")
    assert "5-way 1-shot" in out
    trusted = FewShotClassifier(folder, device="cpu", allow_any_target=True)
    images = STORE.images[:, :, :1, :1].expand(-1, 1, 28, 28).permute(0, 2, 3, 1).numpy()
    trusted.fit(images[SUPPORT], STORE.labels[SUPPORT].numpy()).save(tmp_path / "f.safetensors")
    with pytest.raises(ValueError, match="which is no learner"):
        FewShotClassifier.load(tmp_path / "f.safetensors", device="cpu")
    again = FewShotClassifier.load(tmp_path / "f.safetensors", device="cpu", allow_any_target=True)
    assert again.predict(images[QUERY]).shape == QUERY.shape


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Pictures whose names of classes and files would change what a terminal shows, and a run trained on them."""
    place = tmp_path_factory.mktemp("named")
    for c in range(12):
        folder = place / "pictures" / f"{c:02}\x1b[2J\u202ecba"
        folder.mkdir(parents=True)
        for i in range(4):
            Image.new("L", (16, 16), 20 * c + i).save(folder / f"{i}\x1b]0;title\x07.png")
    options = ["task.dataset.path=pictures", "task.channels=1", "task.image_size=16", "task.n_way=2", "task.n_query=1"]
    small = ["backbone.widths=[4,4]", "augment=none", "trainer.steps=1", "trainer.validation_episodes=2", "episodes=20"]
    cache = {"EPISODIC_CACHE": str(place / "cache")}
    code, _, said = run_command(
        "train", "task=folder_5w1s", *options, *small, "device=cpu", "run=run", cwd=place, environment=cache
    )
    assert code == 0, said
    return place, cache


@pytest.mark.parametrize(
    ("command", "options", "codes"),
    [
        ("doctor", ["data=pictures", "task.image_size=16"], (0, 1)),
        ("evaluate", ["run=run", "audit=true", "episodes=20", "task.n_way=2"], (0,)),
        ("predict", ["run=run", "support=pictures", "query=pictures/0*"], (0,)),
        ("predict", ["run=run", "support=pictures", "query=pictures/00*", "abstain=0.9"], (0,)),
        ("report", ["run=run", "episodes=20"], (0,)),
        ("evaluate", ["run=\x1b[2J"], (2,)),
        ("train", ["task=folder_5w1s", "task.dataset.path=\x1b[2J\u202e"], (2,)),
    ],
)
def test_names_of_a_stranger_change_no_terminal_and_no_report(named, command, options, codes):
    place, cache = named
    options = [f"query={next(place.glob(o[6:])).relative_to(place)}" if o.startswith("query=") else o for o in options]
    code, out, said = run_command(command, *options, cwd=place, environment=cache)
    assert code in codes, said
    shown = out + said
    if command == "report":
        shown += (place / "run" / "report" / "report.html").read_text()
        assert "\\x1b[2J\\u202ecba" in shown
    assert not {"\x1b", "\u202e", "\x07"} & set(shown)
