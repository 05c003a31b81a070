import pytest

from episodic.config.paths import quoted, unquoted


@pytest.mark.parametrize(
    "path",
    [
        *("plain/x", "Photos (1)", "été", "Tom's", 'a"b', "a&b", "c#1", "[x]", "x=y", "a, b", "{a}", "a:b", "$x", "12"),
        *("true", "C:\\x\\", "it\\'s", "a\\\\'b\\", "'"),
    ],
)
def test_paths_may_have_any_names(path):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(quoted(unquoted(f"query={path}")))
    assert (parsed.key_or_group, parsed.value()) == ("query", path)


def test_paths_are_taken_as_meant(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert unquoted("run=~/runs/a") == "run=/home/me/runs/a"
    assert unquoted("run='my runs/a'") == "run=my runs/a"
    assert unquoted(r"run='Tom\'s'") == "run=Tom's"
    for other in ("run=null", "seed=~/x", "--help", "episodes=5"):
        assert quoted(unquoted(other)) == other
