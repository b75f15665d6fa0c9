"""How a stage puts a row to the judge, and reads its answer: the wire of serve/api.py as JSON."""

from __future__ import annotations

import json
from typing import Any

from ray_jobs import taxonomy
from ray_jobs.outcomes import Unparsed
from ray_jobs.prompts import Chat
from ray_jobs.tables import Row

NOT_MIXED = "scored by another judge, without calibration"
"""Why a score is not used: nothing says what it would be on the first backend's scale."""


def item(question: str, row: Row, extra: dict[str, Any]) -> Chat:
    """A row as an item. Its scenario is for counts only: the judge is not shown it."""
    asked = {name: row[name] for name in ("id", "prompt", "language")}
    scenario = row.get("scenario") or taxonomy.load().scenario_of(row.get("label") or "")
    if scenario in taxonomy.CODES:
        asked["scenario"] = scenario
    text = json.dumps({"question": question, **asked, **extra}, ensure_ascii=False)
    return [{"role": "user", "content": text}]


def read(text: str) -> dict[str, Any]:
    """An answer item. Unparsed where the judge's model wrote something else than scores."""
    said: dict[str, Any] = json.loads(text)
    if said["outcome"] == "unparsed":
        raise Unparsed(f"judge: {said['reason']}")
    return said


def taken_over(said: dict[str, Any]) -> dict[str, Any]:
    """What scored tables say of a backend that took over from another; a score that is on another
    scale than the others is kept, and its row is dropped.
    """
    blocked_by, calibrated = said.get("blocked_by"), said.get("calibrated")
    columns = {"blocked_by": blocked_by, "calibrated": calibrated}
    if calibrated is False:
        return {**columns, "outcome": "dropped", "reason": NOT_MIXED}
    return columns


def responses(said: dict[str, Any], num: int) -> list[dict[str, Any]]:
    """The scores of `num` responses, in their order, with both orders' own."""
    forward, *backward = [order["scores"] for order in said["orders"]]
    assert len(forward) == num == len(said["scores"]), "the judge scored another number"
    return [
        {
            "score_ab": forward[k],
            "score_ba": backward[0][k] if backward else None,
            "score": said["scores"][k],
            "spread": said["spread"][k],
            "judge": said["backend"],
            **taken_over(said),
        }
        for k in range(num)
    ]
