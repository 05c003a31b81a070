"""Every setting of conf/ that no class takes has a type, and every type belongs to a setting."""

import typing

import pytest

from episodic.assemble.model_choice import with_parts
from episodic.config.compose import compose_config, groups
from episodic.config.settings import COMMANDS, Shape, Task

GIVEN = {
    "cross_validate": ["run=x"],
    "evaluate": ["run=x"],
    "report": ["run=x"],
    "doctor": ["task=glyphs_5w1s"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_equal_the_yaml_of_the_command(command):
    with_parts(["backbone=conv4"])  # so that there are choices `saved`
    cfg = compose_config(command, GIVEN.get(command, []))
    said = {key for key in cfg if key not in groups()}
    assert said == set(typing.get_type_hints(COMMANDS[command]))


def test_settings_of_a_task_equal_its_yaml():
    task = compose_config("train", ["task=glyphs_5w1s"]).task
    assert set(task) - {"dataset"} == set(typing.get_type_hints(Task))
    assert set(task.train) == set(typing.get_type_hints(Shape))
