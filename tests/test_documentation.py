"""The docstrings as pages: `python -m pdoc episodic` renders every module, and formulas, lists and bold come out as such."""

import ast
import html
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import episodic

PACKAGE = Path(episodic.__file__).parent
OPTIONS = ["--docformat", "markdown", "--no-show-source"]
CODE = re.compile(r"<pre>(.*?)</pre>", re.DOTALL)
# A dataclass's constructor has its parent's annotations, as text, which pdoc looks for in the module of the child.
INHERITED = re.compile(r"Warn: Error parsing type annotation .* for episodic\.(\w+)\.(\w+Training)\.__init__\. ")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the pages, and what was said while they were made."""
    pytest.importorskip("pdoc", reason="pdoc is not installed: uv sync")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pdoc", "episodic", "-o", str(folder), *OPTIONS]
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
    return re.findall(r'<div class="docstring">(.*?)</div>', CODE.sub("", markup), re.DOTALL)


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


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_module_has_its_page(site):
    folder, _ = site
    missing = [path for path in FILES if path.name != "__main__.py" and not page(folder, path).is_file()]
    assert not missing
    assert (folder / "index.html").is_file()


def test_rendering_says_nothing_but_of_inherited_constructors(site):
    said = [line for line in site[1].splitlines() if not INHERITED.match(line)]
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
    markup = page(site[0], PACKAGE / "sampler.py").read_text()
    text = "\n".join(docstrings(markup))
    assert "<strong>Arguments:</strong>" in text
    assert re.search(r"<li><code>n_way</code>, <code>n_shot</code>, <code>n_query</code>: classes in an episode", text)
    assert "loader = DataLoader(dataset, batch_sampler=sampler" in "".join(map(text_of, CODE.findall(markup)))
    constructor = text_of(re.search(r'id="EpisodeSampler.__init__"(.*?)</div>', markup, re.DOTALL)[1])
    assert re.search(r"n_unlabeled: .* = 0,", constructor)
