import pytest

from tests.assemble.small import small_run


@pytest.fixture
def run(tmp_path):
    """`run(*options)`: the folder of a run of few weights, with the options given."""
    return lambda *options: small_run(tmp_path / "run", *options)
