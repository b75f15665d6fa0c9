"""Settings for all tests."""

from hypothesis import settings

# The default deadline of 200 ms fails on a loaded machine and says nothing about the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
