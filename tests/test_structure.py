"""The house: imports point upstream, a file is one room, every method has its test, nothing runs at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import episodic

PACKAGE = Path(episodic.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))

# The order in which the data flows; a file may import from its own line and from those above it.
FLOW = [
    ["_learn2learn", "sampler"],
    ["episode", "incremental", "interop"],
    ["prediction"],
    ["data"],
    ["core"],
    ["learners"],
    ["semi"],
    ["manifest", "metrics", "retrieval", "hardware", "schedule", "signals", "checkpoint"],
    ["objective"],
    ["loop"],
    ["pseudo_training", "metric_training"],
    ["config", "score", "curves"],
    ["build", "run"],
    ["pages"],
    ["train", "evaluate"],
    ["model", "answers", "classifier"],
    ["cross_validate", "report", "predict", "demo", "doctor"],
]
PLACE = {name: line for line, names in enumerate(FLOW) for name in names}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return {m.split(".")[1] for m in modules if m.startswith("episodic.")}


@pytest.mark.parametrize(
    "path", [p for p in FILES if p != PACKAGE / "__init__.py"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_point_upstream(path):
    assert room(path) in PLACE, f"{room(path)} has no place in the flow: add it to FLOW"
    for module in imports(path):
        assert PLACE[module] <= PLACE[room(path)], f"{path.name} imports {module}, which is downstream of it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_is_one_room(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in ("utils", "common", "helpers", "misc")


def test_every_method_and_data_set_has_a_test_and_a_configuration_of_its_name():
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    groups = {"learners": "learner", "semi": "semi", "core/backbones": "backbone", "core/losses": "loss"}
    not_methods = {"learner", "wrapper", "loss"}
    for folder, group in groups.items():
        for path in (PACKAGE / folder).glob("[!_]*.py"):
            if path.stem not in not_methods:
                assert f"test_{path.stem}.py" in tests
                assert (ROOT / "conf" / group / f"{path.stem}.yaml").exists(), path
    for path in (ROOT / "conf" / "dataset").glob("*.yaml"):
        assert (PACKAGE / "data" / f"{path.stem}.py").exists()
        assert f"test_{path.stem}.py" in tests
        assert list((ROOT / "conf" / "task").glob(f"{path.stem}_5w1s.yaml"))


def test_importing_is_quiet_and_leaves_optional_and_slow_parts_out():
    code = (
        "import sys, episodic, episodic.train.loop, episodic.interop\n"
        "heavy = {'learn2learn', 'gym', 'timm', 'torchvision', 'sklearn', 'matplotlib', 'torch._dynamo', 'hydra'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""


def test_no_pickle_but_the_restricted_one_and_no_eval():
    for path in FILES:
        tree = ast.parse(path.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        restricted = {"weights_only=True"}  # torch's own restricted unpickler
        called = {
            ast.unparse(c.func) for c in calls if not restricted & {ast.unparse(keyword) for keyword in c.keywords}
        }
        assert not called & {"pickle.load", "pickle.loads", "torch.load", "eval", "exec", "os.system"}, path
