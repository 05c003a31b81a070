"""Docstrings: pdoc renders those of every module, with formulas, lists and bold; examples in them run and print what they say."""

import ast
import doctest
import html
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import episodic
from tests.command import run_command

PACKAGE = Path(episodic.__file__).parent
ROOT = PACKAGE.parent
# The contents page has an `__all__`, which pdoc takes for all that there is below it.
PAGES = ["episodic", *map(str, sorted(PACKAGE.glob("*/__init__.py"))), *map(str, sorted(PACKAGE.glob("[!_]*.py")))]
PAGES += map(str, sorted(PACKAGE.glob("_[!_]*.py")))
OPTIONS = ["--docformat", "markdown", "--no-show-source"]
CODE = re.compile(r"<pre>(.*?)</pre>", re.DOTALL)
FRAME = re.compile(r'<div class="pdoc-code codehilite">\s*<pre>.*?</pre>\s*</div>', re.DOTALL)
# A dataclass's constructor has its parent's annotations, as text, which pdoc looks for in the module of the child.
INHERITED = re.compile(r"Warn: Error parsing type annotation .* for episodic\.train\.(\w+)\.(\w+Training)\.__init__\. ")
LAZY = re.compile(r"Warn: Found '(FewShotClassifier|load)' in episodic\.__all__, but it does not resolve")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the pages, and what was said while they were made."""
    pytest.importorskip("pdoc", reason="pdoc is not installed: uv sync")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pdoc", *PAGES, "-o", str(folder), *OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


def page(folder, path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return folder.joinpath(*(part for part in parts if part != "__init__")).with_suffix(".html")


def text_of(markup):
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


def docstrings(markup):
    """The rendered docstrings of a page, without their blocks of code."""
    return re.findall(r'<div class="docstring">(.*?)</div>', CODE.sub("", FRAME.sub("", markup)), re.DOTALL)


def written(path):
    """The docstrings of a file that are rendered: of the module, and of what is public in it."""

    def below(node):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if text := ast.get_docstring(node):
                yield inspect.cleandoc(text)
            if not isinstance(node, ast.FunctionDef):
                for child in node.body:
                    if not getattr(child, "name", "").startswith("_"):
                        yield from below(child)

    return list(below(ast.parse(path.read_text())))


def formulas(docstring):
    """The lines of its indented blocks, each of which follows an empty line."""
    lines = docstring.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("    ") and i and not lines[i - 1].strip():
            yield line.strip()


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")  # which pdoc does not import


def test_every_module_has_its_page(site):
    folder, _ = site
    missing = [path for path in FILES if not page(folder, path).is_file()]
    assert not missing
    assert (folder / "index.html").is_file()


def test_rendering_says_nothing_but_of_inherited_constructors_and_names_imported_late(site):
    said = [line for line in site[1].splitlines() if not INHERITED.match(line) and not LAZY.match(line)]
    assert said == []


def test_formulas_and_examples_come_out_as_they_are_written(site):
    count = 0
    for path in FILES:
        blocks = "\n".join(text_of(block) for block in CODE.findall(page(site[0], path).read_text()))
        for formula in (line for docstring in written(path) for line in formulas(docstring)):
            assert formula in blocks, f"{path.name}: {formula} is no block of its own"
            count += 1
    assert count > 30


def test_lists_and_bold_are_rendered(site):
    for path in FILES:
        rendered = docstrings(page(site[0], path).read_text())
        markup = re.sub(r"<code>.*?</code>", "", "\n".join(rendered), flags=re.DOTALL)
        shown = text_of(markup)
        assert "**" not in shown, path
        assert "`" not in shown, path
        assert not re.search(r"<p>[^<]*\n[-*] ", markup), f"{path.name}: a list wants an empty line before it"
        items = sum(len(re.findall(r"^ *- ", docstring, re.MULTILINE)) for docstring in written(path))
        assert markup.count("<li>") >= items, path


def test_the_sampler_page_shows_what_its_docstring_holds(site):
    markup = page(site[0], PACKAGE / "episodes" / "sampler.py").read_text()
    text = "\n".join(docstrings(markup))
    assert "<strong>Arguments:</strong>" in text
    assert re.search(r"<li><code>n_way</code>, <code>n_shot</code>, <code>n_query</code>: classes in an episode", text)
    assert "loader = DataLoader(dataset, batch_sampler=sampler" in "".join(map(text_of, CODE.findall(markup)))
    constructor = text_of(re.search(r'id="EpisodeSampler.__init__"(.*?)</div>', markup, re.DOTALL)[1])
    assert re.search(r"n_unlabeled: .* = 0,", constructor)


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def defined(path):
    """`(qualified name, node)` of a file: the module, its classes and functions, and theirs."""

    def below(node, name):
        yield name, node
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield from below(child, f"{name}.{child.name}")

    return below(ast.parse(path.read_text()), module_of(path))


def examples(path, namespace):
    """The docstrings of a file that have examples, as doctests, each with names of its own."""
    parser = doctest.DocTestParser()
    for name, node in defined(path):
        if text := ast.get_docstring(node):
            line = node.body[0].lineno - 1
            test = parser.get_doctest(text, dict(namespace), name, str(path), line)
            if test.examples:
                yield test


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder where examples may write."""
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def trained(place):
    """The run that examples read."""
    options = ["learner=prototypical", "run=runs/prototypical", "trainer.steps=2", "trainer.validate_every=2"]
    options += [
        "trainer.save_every=2",
        "trainer.validation_episodes=5",
        "episodes=5",
        "task.train.n_way=5",
        "device=cpu",
    ]
    code, _, said = run_command("train", *options, cwd=place, environment={"EPISODIC_CACHE": str(place / "cache")})
    assert code == 0, said


def imported(path):
    """The module of a file; skips the test where a package that it needs is optional and not there."""
    try:
        return importlib.import_module(module_of(path))
    except ImportError as error:
        if (error.name or "").startswith("episodic"):
            raise
        pytest.skip(f"{error.name} is not installed")


WITH_EXAMPLES = [path for path in FILES if ">>>" in path.read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_of)
def test_the_examples_of_a_module_print_what_they_say(path, place, monkeypatch, request):
    if "runs/prototypical" in path.read_text():
        request.getfixturevalue("trained")
    module = imported(path)
    monkeypatch.chdir(place)
    monkeypatch.setenv("EPISODIC_CACHE", str(place / "cache"))
    tests, said = list(examples(path, vars(module))), []
    assert tests
    for test in tests:
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)


# What people call: what `conf/` builds of these rooms, the contents page, abstract classes to subclass, and measures.
BUILT = ("episodic.core.", "episodic.learners.", "episodic.semi.")
MORE = (
    "episodic.assemble.classifier.FewShotClassifier",
    "episodic.assemble.load.load",
    "episodic.train.procedure.AbstractProcedure",
    "episodic.config.compose.compose_config",
    "episodic.config.instantiate.make",
    "episodic.run.device.Hardware",
    "episodic.run.files.write_atomically",
    "episodic.run.run.Run",
    "episodic.train.episodes.EpisodicTraining",
    "episodic.train.fit.Journal",
    "episodic.train.fit.fit",
    "episodic.train.objective.Objective",
    "episodic.train.procedure.Setup",
    "episodic.train.schedule.AbstractSchedule",
    "episodic.train.schedule.Constant",
    "episodic.train.schedule.Cosine",
    "episodic.train.schedule.Step",
)
PRINTED = ("tables.py", "results.py")  # measures as commands print them
STEPS = ("episodes_of", "predictor", "verdict")  # of a command


def built():
    """What the files in `conf/` build, of this package: `module.name`."""

    def targets(node):
        for key, value in node.items() if isinstance(node, dict) else ():
            if key == "_target_" and str(value).startswith("episodic."):
                yield value
            yield from targets(value)

    for path in (ROOT / "conf").rglob("*.yaml"):
        yield from targets(OmegaConf.to_container(OmegaConf.load(path)))


def wanted():
    """`(qualified name, docstring)` of what should have an example."""
    names = {name for name in built() if name.startswith(BUILT)} | set(MORE)
    names |= {
        f"{cls.__module__}.{name}" for name in episodic.__all__ if isinstance(cls := getattr(episodic, name), type)
    }
    for path in FILES:
        measures = path.parent == PACKAGE / "evaluate" and path.name not in PRINTED
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                name = f"{module_of(path)}.{node.name}"
                abstract = node.name.startswith("Abstract") and name.startswith(BUILT) and "._" not in name
                measure = measures and isinstance(node, ast.FunctionDef) and node.name not in STEPS
                if name in names or abstract or measure:
                    yield name, ast.get_docstring(node) or ""


def test_what_people_call_has_an_example():
    assert len(list(wanted())) > 80
    missing = {name for name, docstring in wanted() if ">>>" not in docstring}
    assert not missing, "\n".join(sorted(missing))
