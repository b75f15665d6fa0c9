"""What the judge counts, for Prometheus: Ray's node agents publish it for all replicas together."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from serve import api

SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300]


class Meters:
    """Counters of one replica. Texts are in none of them."""

    def __init__(self) -> None:
        self._items = Counter(
            "garrison_judge_items",
            "Items answered, by question and outcome.",
            ("question", "outcome", "backend"),
        )
        self._seconds = Histogram(
            "garrison_judge_seconds",
            "From an item's arrival to its answer.",
            SECONDS,
            ("question",),
        )
        self._tokens = Counter("garrison_judge_tokens", "Tokens of the models.", ("kind",))
        self._unscored = Counter(
            "garrison_judge_unscored", "Items whose answer could not be read.", ("question",)
        )
        self._blocked = Counter(
            "garrison_judge_blocked", "Items that a provider refused.", ("question", "scenario")
        )
        self._fall_overs = Counter(
            "garrison_judge_fall_overs", "Refused items that the fallback answered.", ("question",)
        )
        self._yuan = Counter("garrison_judge_yuan", "What providers take.", ("question",))
        self._drift = Gauge(
            "garrison_judge_anchor_drift", "Mean change of the anchors' scores since they were set."
        )

    def count(self, question: str, item: api.Item, answer: api.Answer, seconds: float) -> None:
        """One item that was answered."""
        tags = {"question": question}
        self._items.inc(1, tags | {"outcome": answer.outcome, "backend": answer.backend})
        self._seconds.observe(seconds, tags)
        for kind in ("prompt_tokens", "output_tokens"):
            if num := getattr(answer.usage, kind):  # a counter takes no zero
                self._tokens.inc(num, {"kind": kind})
        if answer.usage.yuan:
            self._yuan.inc(answer.usage.yuan, tags)
        if answer.outcome == "unparsed":
            self._unscored.inc(1, tags)
        if answer.outcome == "blocked" or answer.blocked_by:
            self._blocked.inc(1, tags | {"scenario": item.scenario or "unknown"})
        if answer.blocked_by and answer.outcome == "done":
            self._fall_overs.inc(1, tags)

    def drift(self, value: float) -> None:
        """How far the anchors' scores have moved."""
        self._drift.set(value)
