"""The house: imports point upstream, a file is one room, every method has its test and its option, nothing runs at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import episodic

PACKAGE = Path(episodic.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))

# The rooms in the order in which the data flows; a file may import from its own room and from those above it.
ROOMS = [
    "_learn2learn",
    "episodes",
    "interop",
    "data",
    "core",
    "learners",
    "semi",
    "config",
    "run",
    "assemble",
    "evaluate",
    "train",
    "cross_validate",
    "predict",
    "report",
    "demo",
    "doctor",
]
CORE = ["functional", "distances", "regularizers", "losses", "backbones", "transforms"]
COMMANDS = {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
LIBRARIES = {"evaluate", "train"}  # commands whose modules others may use; the rest of the commands are leaves


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inside}
    return {name for name in found if name in MODULES and name != "episodic"}


def room(module: str) -> str:
    return module.split(".")[1]


INNER = [p for p in FILES if p != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", INNER, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_upstream(path):
    mine = room(module_of(path))
    assert mine in ROOMS, f"{mine} has no place in the order: add it to ROOMS"
    for module in imports(path):
        assert ROOMS.index(room(module)) <= ROOMS.index(mine), (
            f"{path.name} imports {module}, which is downstream of it"
        )
        if mine == room(module) == "core":
            order = [CORE.index(name.split(".")[2]) for name in (module, module_of(path))]
            assert order == sorted(order), f"{path.name} imports {module}, which is downstream of it in core/"


def test_no_two_modules_import_each_other_however_far_round():
    graph = {module: imports(path) for module, path in MODULES.items()}
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, f"a circle: {' -> '.join([*open_[open_.index(module) :], module])}"
        if module in done:
            return
        open_.append(module)
        for other in sorted(graph[module] - {module}):
            visit(other)
        open_.pop()
        done.add(module)

    for module in graph:
        if module != "episodic":  # the contents page
            visit(module)


@pytest.mark.parametrize("path", INNER, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_command_is_imported_by_another(path):
    for module in imports(path):
        assert not module.endswith("__main__"), f"{path.name} imports a command's start"
        other = room(module) if room(module) != room(module_of(path)) else None
        assert other not in COMMANDS - LIBRARIES, f"{path.name} uses {module}, which is of another command"


def test_the_top_of_the_package_is_short():
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 20
    assert {path.name for path in entries if path.is_file()} == {
        "__init__.py",
        "interop.py",
        "_learn2learn.py",
        "py.typed",
    }
    assert {path.stem for path in entries} - {"__init__", "py"} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_is_one_room(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in ("utils", "common", "helpers", "misc")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_room_says_what_it_is(path):
    said = ast.get_docstring(ast.parse(path.read_text()))
    assert said, "a room begins with a sentence"
    assert len(said.splitlines()[0]) <= 132


@pytest.mark.parametrize("path", INNER, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_tests_mirror_the_package(path):
    if path.stem.startswith("_") and path.stem != "__main__":
        return  # tested by those that use it
    name = "test_main.py" if path.stem == "__main__" else f"test_{path.stem}.py"
    assert (ROOT / "tests" / path.relative_to(PACKAGE).parent / name).is_file()


def test_every_option_is_a_module_of_its_name():
    """A path is the registry: one stem in code, configuration and test."""
    groups = {
        "learners": "learner",
        "semi": "semi",
        "core/backbones": "backbone",
        "core/losses": "loss",
        "core/losses/memory": "memory",
        "core/distances": "distance",
        "core/transforms": "transform",
        "data/sets": "dataset",
    }
    not_methods = {"learner", "prediction", "wrapper", "loss", "miners", "head", "distance", "transform"}
    for folder, group in groups.items():
        for path in (PACKAGE / folder).glob("[!_]*.py"):
            if path.stem not in not_methods:
                assert (ROOT / "conf" / group / f"{path.stem}.yaml").exists(), path
    for path in (ROOT / "conf" / "trainer").glob("[!_]*.yaml"):
        preset = "_target_" not in path.read_text()  # other numbers for a procedure
        assert preset or (PACKAGE / "train" / f"{path.stem}.py").exists()
    for path in (ROOT / "conf" / "dataset").glob("*.yaml"):
        assert (PACKAGE / "data" / "sets" / f"{path.stem}.py").exists()
        assert list((ROOT / "conf" / "task").glob(f"{path.stem}_5w1s.yaml"))


def test_importing_is_quiet_and_leaves_optional_and_slow_parts_out():
    code = (
        "import sys, episodic, episodic.train.fit, episodic.evaluate.scoring, episodic.interop\n"
        "heavy = {'learn2learn', 'gym', 'timm', 'torchvision', 'sklearn', 'matplotlib', 'torch._dynamo', 'hydra'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""


def test_episodes_need_numpy_and_torch_only():
    code = (
        "import sys, torch, numpy, jaxtyping\n"
        "before = {name.split('.')[0] for name in sys.modules}\n"
        "from episodic import Episode, EpisodeCollate, EpisodeSampler, Task\n"
        "after = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(name for name in after - before if name not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['episodic']\n"


def test_no_pickle_but_the_restricted_one_and_no_eval():
    for path in FILES:
        tree = ast.parse(path.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        restricted = {"weights_only=True"}  # torch's own restricted unpickler
        called = {
            ast.unparse(c.func) for c in calls if not restricted & {ast.unparse(keyword) for keyword in c.keywords}
        }
        assert not called & {"pickle.load", "pickle.loads", "torch.load", "eval", "exec", "os.system"}, path
