"""What the README and the pages of `docs/` say is so: commands and examples run, options exist, tables are made from records."""

import contextlib
import fnmatch
import functools
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from episodic.config.compose import ConfigError, conf_dir
from episodic.config.overrides import check_overrides, in_full
from tests.command import run_command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMANDS = ("train", "evaluate", "cross_validate", "predict", "demo", "report", "doctor")


def blocks(kind):
    return {page: [text for k, text in BLOCK.findall(path.read_text()) if k == kind] for page, path in PAGES.items()}


def commands():
    """`(page, command)`, but for the two that set up."""
    lines = [(page, line) for page, texts in blocks("bash").items() for text in texts for line in text.splitlines()]
    return [(page, shlex.split(line, comments=True)) for page, line in lines if "pip install uv" not in line and line]


MAKES = {}  # the folder of a run -> the command that trains it
for _, _words in commands():
    for _word in _words:
        if _word.startswith("run=") and "episodic.train" in _words:
            MAKES.setdefault(_word.removeprefix("run="), _words)
UNIQUE = {shlex.join(words): page for page, words in reversed(commands())}


class Place:
    """A folder with a stranger's pictures, where commands are run as they stand, in this process, with fewer steps and
    episodes. What a command needs and is not there yet is made by the command of the pages that makes it.
    """

    def __init__(self, folder):
        self.folder = folder
        self.said: dict[str, str] = {}
        pictures(folder)

    @contextlib.contextmanager
    def inside(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("EPISODIC_CACHE", str(self.folder / "cache"))
            yield patch

    def run(self, words):
        """What a command says."""
        key = shlex.join(words)
        if key not in self.said:
            for word in words:
                name, _, folder = word.partition("=")
                if name in ("run", "against", "init_from") and folder in MAKES and MAKES[folder] != words:
                    self.run(MAKES[folder])
                if word == "model=fitted.safetensors" and not (self.folder / "fitted.safetensors").exists():
                    self.run(next(w for _, w in commands() if "save=fitted.safetensors" in w))
            self.said[key] = self._serve(words) if "episodic.demo" in words else self._run(words)
        return self.said[key]

    def _run(self, words):
        if words[0] == "torchrun":
            return self._run_together(words)
        assert words[:2] == ["python", "-m"]
        name = words[2].removeprefix("episodic.")
        assert name in COMMANDS
        code, out, err = run_command(
            name,
            *words[3:],
            *shortened(words),
            cwd=self.folder,
            environment={"EPISODIC_CACHE": str(self.folder / "cache")},
        )
        assert code == 0, out + err
        return out

    def _run_together(self, words):
        """A command of several processes."""
        environment = {**os.environ, "EPISODIC_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:], *shortened(words)]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _serve(self, words):
        """A command that goes on until it is interrupted, so it needs a process."""
        environment = {**os.environ, "EPISODIC_CACHE": str(self.folder / "cache")}
        heed = functools.partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        )  # which a shell may have told to ignore it
        command, pipe = [sys.executable, *words[1:], "port=0"], subprocess.PIPE
        with subprocess.Popen(
            command, stdout=pipe, text=True, cwd=self.folder, env=environment, preexec_fn=heed
        ) as server:
            said = next(line for line in server.stdout if "http://127.0.0.1" in line)
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == 0, said
        return said

    def python(self, code):
        """What a program prints."""
        said = io.StringIO()
        with self.inside(), contextlib.redirect_stdout(said):
            exec(compile(code, "<page>", "exec"), {"__name__": "__main__"})
        return said.getvalue()


def shortened(words):
    """Further options, which make a command short."""
    training = not {"episodic.train", "episodic.cross_validate"}.isdisjoint(words)
    options = []
    if training:
        options += [
            "trainer.steps=20",
            "trainer.validate_every=10",
            "trainer.validation_episodes=20",
            "trainer.save_every=10",
        ]
        options += ["task.dataset.drawings=20", "backbone.widths=[16,16,16,16]"]
        if not any(word.startswith("trainer=") or word == "semi=pseudo_labels" for word in words):
            options += ["task.train.n_way=5"]
        if any(word.startswith("pretrain=") for word in words):
            options += ["pretrain.steps=101"]
        if "semi=pseudo_labels" in words:
            options += ["semi.pseudo_labels.neighbors=10"]
    if training or not {"episodic.evaluate", "episodic.report"}.isdisjoint(words):
        options += ["episodes=60"]
    if "episodic.doctor" in words:
        options += ["near=null"]
    if "episodic.cross_validate" in words:
        options += ["repeats=1", "task.folds=2"]
    return options


def pictures(place):
    """Two examples of three classes, two photos of each, and one further picture."""
    random = np.random.default_rng(0)
    for name in ("bars", "rings", "dots"):
        pattern = random.random((7, 7)) > 0.6
        for i in range(5):
            folder = place / ("more" if i == 4 else "photos" if i > 1 else f"shots/{name}")
            folder.mkdir(parents=True, exist_ok=True)
            shifted = np.roll(np.kron(pattern, np.ones((8, 8))), i, axis=1)
            Image.fromarray((255 * shifted).astype(np.uint8)).save(folder / f"{name}{i}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("stranger"))


@pytest.mark.parametrize("line", UNIQUE, ids=lambda line: f"{UNIQUE[line]}: {line.removeprefix('python -m episodic.')}")
def test_every_command_runs(place, line):
    assert place.run(shlex.split(line))


REFUSED = [  # the table "What is refused" of docs/options.md, row by row
    "semi=soft_kmeans",
    "learner=maml semi=soft_kmeans task=glyphs_semi_5w1s",
    "semi=[soft_kmeans,label_propagation] task=glyphs_semi_5w1s",
    "semi=[mean_teacher,soft_kmeans] task=glyphs_semi_5w1s augment=shift",
    "memory=xbm loss=classifier trainer=dml",
    "memory=xbm memory.start=100 trainer.steps=100 loss=contrastive trainer=dml",
    "sse=se",
    "loss.contrastive.distance=dot loss=contrastive trainer=dml",
    "loss=cross_entropy trainer=dml",
    "task.train.n_way=5 trainer=dml loss=contrastive",
    "loss=divide_and_conquer head=linear",
    "trainer=schem loss=contrastive",
    "trainer=schem loss=schem task=glyphs_semi_5w1s",
    "task=glyphs_incremental_5w1s",
]


@pytest.mark.parametrize("options", REFUSED)
def test_what_is_refused_is_refused_with_a_reason(place, options):
    if "maml" in options:
        pytest.importorskip("learn2learn", reason="learn2learn is not installed")
    cache = {"EPISODIC_CACHE": str(place.folder / "cache")}
    code, out, err = run_command("train", *options.split(), "run=refused", cwd=place.folder, environment=cache)
    assert code == 2, out + err
    assert len(err.split()) > 8
    assert not (place.folder / "refused").exists()


def test_commands_leave_what_the_pages_say(place):
    lines = [line for line in UNIQUE if {"run=runs/prototypical", "out=answers.json"} & set(shlex.split(line))]
    assert len(lines) >= 4
    for line in lines:
        place.run(shlex.split(line))
    assert list((place.folder / "runs" / "prototypical" / "evaluations").glob("*.json"))
    assert (place.folder / "runs" / "prototypical" / "report" / "report.html").exists()
    answers = json.loads((place.folder / "answers.json").read_text())
    assert len(answers) == 6
    assert {answer["class"] for answer in answers} <= {"bars", "rings", "dots"}


def test_the_sampler_alone_on_digits(place):
    [code] = blocks("python")["README.md"]
    said = place.python(code)
    mean, half = map(float, re.fullmatch(r"([\d.]+) ± ([\d.]+) %\n", said).groups())
    assert 68 < mean < 80, "raw pixels of digits, five ways, one shot"
    assert 0.3 < half < 0.8


def test_every_python_example_runs(place):
    programs = [text for page, texts in blocks("python").items() if page != "README.md" for text in texts]
    assert len(programs) >= 2
    for code in programs:
        for folder in re.findall(r"runs/\w+", code):
            place.run(MAKES[folder])
        assert place.python(code)


def test_the_two_set_up_commands_are_those_of_ci():
    first, second = (block.split("#")[0].strip() for block in blocks("bash")["README.md"][:2])
    assert first == "pip install uv && uv run --no-dev python -m episodic.train"
    assert second == "pip install uv && uv run pytest"
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -q uv" in ci
    assert "uv run pytest" in ci


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target, part in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", path.read_text()):
        if target.startswith("http"):
            continue
        aim = (path.parent / target).resolve() if target else path
        assert aim.exists(), target
        if part:
            assert part in [anchor(h) for h in re.findall(r"^#+ (.*)", aim.read_text(), re.MULTILINE)], (
                f"{target}#{part}"
            )


def spans():
    """Inline code that is an option of a command, `name=value`, by page; words with `<...>` are for the reader to fill in."""
    found = set()
    for page, path in PAGES.items():
        for span in re.findall(r"`([^`\n]+)`", BLOCK.sub("", path.read_text())):
            with contextlib.suppress(ValueError):
                for word in shlex.split(span):
                    if re.match(r"(?!name=)[a-z_]+(\.[a-z0-9_]+)*=", word):
                        found.add((page, word))
                    elif re.fullmatch(
                        r"(?:task|trainer|learner|loss|memory|semi|sse|backbone|head)(\.[a-z0-9_]+)+", word
                    ):
                        found.add((page, f"{word}=<value>"))
    return sorted(found)


@functools.cache
def options_of(group):
    return sorted(path.stem for path in (conf_dir() / group).glob("[!_]*.yaml"))


def bases(key, value):
    """Commands, with choices of groups, that may have the option `key`."""
    group, _, rest = key.partition(".")
    if not rest:
        # in the place of a run's own parts
        chosen = ["task=glyphs_5w1s", "learner=prototypical", "semi=supervised", "transform=none"]
        return [(name, [] if "train" in name else chosen[: 1 if name == "doctor" else 4]) for name in COMMANDS]
    if group in ("loss", "semi"):
        return [("train", [f"{group}={rest.split('.')[0]}"])]
    first = {"task": ["glyphs_5w1s", "omniglot_5w1s", "folder_5w1s"], "trainer": ["episodes", "dml"]}.get(group, [])
    return [("train", [f"{group}={option}"]) for option in dict.fromkeys([*first, *options_of(group)])]


@pytest.mark.parametrize(("page", "word"), spans())
def test_every_option_that_is_named_exists(page, word):
    key, _, value = word.partition("=")
    filled = not re.search(r"[<>*]|^$", value)
    if (conf_dir() / key).is_dir():
        names = re.split(r"[\[\],]+", value.strip("[]")) if filled else [value]
        known = [*options_of(key), "saved"]
        assert all(fnmatch.filter(known, name) for name in names if name and "<" not in name), word
        return
    refused = []
    for command, choices in bases(key, value):
        try:
            # A value for the reader to fill in may be anything, also where it must be given.
            check_overrides(command, [*choices, in_full(word if filled else f"{key}=1")])
            return
        except ConfigError as error:
            refused.append(str(error))
    pytest.fail(f"{page}: {word}: {refused[:1]}")


def test_every_group_is_described():
    text = PAGES["docs/options.md"].read_text()
    for folder in conf_dir().iterdir():
        if folder.is_dir():
            assert f"`{folder.name}`" in text or f"`{folder.name}=" in text, folder.name


def test_every_word_of_the_tables_of_learners_wrappers_and_trainers_is_an_option():
    text = PAGES["docs/options.md"].read_text()
    for heading, group in (("Learner", "learner"), ("Semi", "semi"), ("Trainer", "trainer"), ("Loss", "loss")):
        section = re.search(rf"^## {heading}\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)[1]
        first = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
        lists = "\n".join(re.findall(r"^- [\w ]+:(.*?)(?=\n-|\n\n)", section, re.DOTALL | re.MULTILINE))
        named = re.findall(r"`(\w+)`", first + lists)
        assert named, heading
        assert set(named) <= set(options_of(group)), heading


def test_the_results_table_is_what_the_records_say():
    subprocess.run([sys.executable, ROOT / "scripts" / "table.py", "--check"], check=True)


def test_the_few_results_of_the_readme_are_among_all():
    """Each row's learner, ways, paper's figure and ours are in one row of the full table."""
    rows = [line for line in PAGES["docs/results.md"].read_text().splitlines() if line.startswith("| `train ")]
    few = re.findall(r"^\| `(\w+)` \| (\d+)-way (\d+)-shot \| ([\d.]+) \| ([\d.]+ ± [\d.]+) \|", README, re.MULTILINE)
    assert 3 <= len(few) <= 6
    trained = {"prototypical": "train task=omniglot_5w1s", "matching": "train experiment=matching_omniglot"}
    for learner, way, shot, paper, ours in few:
        parts = (f"`{trained[learner]}`", f"{way}-way {shot}-shot", f"| {paper} |", ours)
        assert any(all(part in row for part in parts) for row in rows), (learner, way, shot)


def test_about_one_page():
    assert len(README.splitlines()) <= 115
    assert len(README.split()) <= 700
