import pytest

from episodic.config.paths import _quoted, bare


@pytest.mark.parametrize(
    "path",
    [
        *("plain/x", "Photos (1)", "été", "Tom's", 'a"b', "a&b", "c#1", "[x]", "x=y", "a, b", "{a}", "a:b", "$x", "12"),
        *("true", "C:\\x\\", "it\\'s", "a\\\\'b\\", "'"),
    ],
)
def test_paths_may_have_any_names(path):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(_quoted(bare(f"query={path}")))
    assert (parsed.key_or_group, parsed.value()) == ("query", path)


def test_paths_are_taken_as_meant(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert bare("run=~/runs/a") == "run=/home/me/runs/a"
    assert bare("run='my runs/a'") == "run=my runs/a"
    assert bare(r"run='Tom\'s'") == "run=Tom's"
    for other in ("run=null", "seed=~/x", "--help", "episodes=5"):
        assert _quoted(bare(other)) == other
