"""Settings for all tests."""

import pytest
from hypothesis import settings

# The default deadline of 200 ms fails on a loaded machine and says nothing about the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The demo comes first: other tests' Ray, which lasts to the end, would run beside it."""
    items.sort(key=lambda item: "test_demo" not in item.nodeid)
