"""What may become of a row, and the exceptions by which an engine or a parser says so. Each takes
one string, the reason.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

Outcome = Literal["done", "dropped", "unparsed", "blocked", "failed", "quarantined"]
OUTCOMES: tuple[str, ...] = get_args(Outcome)


class NoAnswer(Exception):
    """There is no answer that could be used. The message is the row's `reason`."""

    outcome: ClassVar[Outcome]


class Refused(NoAnswer):
    """The engine cannot take the request, such as a prompt longer than its context."""

    outcome = "dropped"


class Unparsed(NoAnswer):
    """The model's text does not have the form that was asked for."""

    outcome = "unparsed"


class Blocked(NoAnswer):
    """A provider refused to answer. Not retried."""

    outcome = "blocked"


class Failed(NoAnswer):
    """No answer in spite of retries. The next run of the same command asks again."""

    outcome = "failed"


class Quarantined(NoAnswer):
    """The request killed its engine twice while alone in it."""

    outcome = "quarantined"


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
