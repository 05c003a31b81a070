import re

from episodic.config.compose import conf_dir
from episodic.config.help import help_text, options_of


def test_help_lists_every_choice_and_setting_and_no_plumbing():
    shown = help_text("train")
    assert "python -m episodic.train" in shown
    for group in ("task", "learner", "semi", "loss", "trainer", "schedule", "experiment"):
        assert re.search(rf"^  {group} \(", shown, re.MULTILINE), group
        assert all(option in shown for option in options_of(group))
    for setting in ("run", "resume", "init_from", "episodes", "seed", "data_dir", "device", "precision"):
        assert re.search(rf"^  {setting} ", shown, re.MULTILINE), setting
    assert not re.search(r"_target_|[ ,]_\w+", shown)


def test_every_command_has_a_help():
    for path in conf_dir().glob("[!_]*.yaml"):
        shown = help_text(path.stem)
        assert f"episodic.{path.stem}" in shown
        assert max(map(len, shown.splitlines())) < 160


def test_groups_that_a_command_does_not_read_are_hidden():
    assert "  augment (" not in help_text("evaluate", hidden={"augment": "not read"})
