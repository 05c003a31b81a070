"""A configuration in a file is data: what asks for more is refused in a line, before anything is built."""

import pytest
from omegaconf import OmegaConf

from episodic.config.compose import ConfigError, compose_config
from episodic.config.stored import DEEPEST, MOST_BYTES, read_tree, stored_config

BOMB = "a0: [x,x]\n" + "\n".join(f"a{i}: {{x: '${{a{i - 1}}}', y: '${{a{i - 1}}}'}}" for i in range(1, 60))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["loss=[circle,classifier]", "semi=label_propagation", "task=glyphs_semi_5w1s", "sse=se"],
        ["experiment=can_miniimagenet"],
        ["task=miniimagenet_incremental_5w1s", "learner=attention_attractor"],
        ["task.n_way=[5,10]", "optimizer.lr=1e-8", "run='runs/ä b'"],
    ],
)
def test_what_training_writes_is_read_as_it_was(options, tmp_path):
    cfg = compose_config("train", options)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(cfg), encoding="utf-8")
    read = stored_config(read_tree(tmp_path / "config.yaml"), "example")
    del cfg.allow_any_target  # is what the user says each time
    assert OmegaConf.to_container(read, resolve=True) == OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it holds no mapping"),
        ("[1, 2]", "it holds no mapping"),
        ("just words", "it holds no mapping"),
        ("'0'", "it holds no mapping"),
        ("a: !!python/object/apply:os.system [ls]", "line 1 has a tag"),
        ("a: !!str 3", "line 1 has a tag"),
        ("a: 1\nb: !own 3", "line 2 has a tag"),
        ("a: &x [1]\nb: *x", "line 1 has a tag, an anchor or an alias"),
        ("a: {" * 40 + "}" * 40, f"line 1 is more than {DEEPEST} levels deep"),
        ("[" * 60_000, "levels deep"),
        ("a: 1\na: 2", "duplicate key"),
        ("a: 'b", "cannot be read"),
        ("\x00", "cannot be read"),
        ("1: 2", "the configuration has the key 1"),
        ('"a\\e[2J": 2', r"has the key 'a\\x1b\[2J'"),
        ("a: {_partial_: true}", "a has the key '_partial_'"),
        ("a: {_args_: [1]}", "a has the key '_args_'"),
        ("a: '${oc.env:HOME}'", "a is '.*', which is no reference"),
        ("a: '${hydra:runtime.cwd}'", "which is no reference"),
        ("a: '${oc.decode:x}'", "which is no reference"),
        ("a: '${oc.select:x,${oc.env:HOME}}'", "which is no reference"),
        ("a: 'x${b}'\nb: 1", "which is no reference"),
        ("a: '${${b}}'\nb: c", "which is no reference"),
        ("a: '${b}'", "and there is no b"),
        ("a: '${a}'", "which is no reference"),
        ("a: '${b}'\nb: '${a}'", "which is no reference"),
        ("a: {b: '${a}'}", "which is no reference"),
        ("a: ['${b}']\nb: 1", "which is no reference"),
        (BOMB, "which is no reference"),
        (f"a: '${{b}}'\nb: [{'0,' * (DEEPEST + 1)}]", "a is '.*', which is no reference"),
        ("a: '${b}'\nb: [[1], 2]", "a is '.*', which is no reference"),
        (
            "\n".join([f"a{i}: ${{a{i + 1}}}" for i in range(DEEPEST + 1)] + [f"a{DEEPEST + 1}: 1"]),
            "a0 is '.*', which is no",
        ),
        ("a: x\n" * MOST_BYTES, f"more than {MOST_BYTES:,} bytes"),
    ],
)
def test_what_is_no_plain_configuration_is_refused_in_a_line(text, reason, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(ConfigError, match=reason) as caught:
        stored_config(read_tree(path), path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        stored_config(read_tree(tmp_path / "config.yaml"), "example")


def test_trust_is_never_read_from_a_file():
    assert "allow_any_target" not in stored_config({"seed": 1, "allow_any_target": True}, "example")


@pytest.mark.parametrize("tree", [{"a": (1, 2)}, {"a": {1: 2}}, {"a": object()}, {"a": b"x"}])
def test_a_tree_that_no_file_could_hold_is_refused(tree):
    with pytest.raises(ConfigError, match="example: "):
        stored_config(tree, "example")
