import pytest


@pytest.fixture(autouse=True)
def as_users_call(unchecked):
    """The package as users have it."""
