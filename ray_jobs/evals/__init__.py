"""Suites that models are evaluated by, and honest figures of what they scored."""
