"""What figures are made of: F1, kappa, AUC and means, as scikit-learn has them."""

from __future__ import annotations

from collections.abc import Sequence


def macro_f1(right: Sequence[str], said: Sequence[str | None]) -> float:
    """Mean over the classes of `right` of F1; an unreadable label is a miss of its class."""
    found: list[float] = []
    for code in sorted(set(right)):
        hits = sum(a == b == code for a, b in zip(right, said, strict=True))
        found.append(2 * hits / (right.count(code) + sum(one == code for one in said)))
    return mean(sum(found), len(found))


def kappa(right: Sequence[str], said: Sequence[str | None]) -> float:
    """Cohen's kappa: agreement beyond chance; what is unreadable is a class that nobody else uses.
    0 where chance alone explains it all.
    """
    num = len(right)
    agreed = sum(a == b for a, b in zip(right, said, strict=True))
    by_chance = sum(right.count(code) * said.count(code) for code in set(right)) / num
    return mean(agreed - by_chance, num - by_chance)


def auc(low: Sequence[float], high: Sequence[float]) -> float:
    """The share of pairs in which `high` is higher; ties count half."""
    wins = sum((a < b) + 0.5 * (a == b) for a in low for b in high)
    return mean(wins, len(low) * len(high))


def mean(total: float, num: float) -> float:
    """A mean to four places; 0 of nothing is 0, and the denominator beside it says so."""
    return round(total / num, 4) if num else 0.0
