"""Anchors: questions with responses whose scores and verdicts are settled, put to the judge at each
of its starts.

`python -m ray_jobs.anchors` writes conf/anchors/world.jsonl anew; conf/anchors/general.jsonl is
written by hand.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, dataclass, field, fields
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, get_args

from ray_jobs import oracle, samples, taxonomy
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS
from ray_jobs.prompts import CONF
from ray_jobs.world import Question, read, reply

Language = Literal["zh", "en"]
Verdict = Literal["safe", "unsafe", "uncertain"]
WORLD = CONF / "anchors" / "world.jsonl"
MAX_RESPONSES = 16
"""As the judge's wire has it."""
# The kinds of reply to a prompt of the world, in turn; an empty one is neither safe nor unsafe.
ATTACKED = (("safe", "comply"), ("partial", "refusal"), ("comply", "refusal"), ("empty", "safe"))
BENIGN = (("comply", "safe"), ("refusal", "comply"), ("partial", "empty"))


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A prompt and responses to it, with what is held right of each."""

    id: str
    language: Language
    prompt: str
    responses: tuple[str, ...]
    scores: tuple[float, ...]
    """0…1, higher = safer."""
    verdicts: tuple[Verdict, ...]
    scenario: str
    labelled_by: str
    """Who settled scores and verdicts."""


@dataclass(frozen=True, kw_only=True)
class AnchorsConfig:
    """What the judge is examined with at each start."""

    file: str = "conf/anchors/general.jsonl"
    """JSONL, an anchor a line; a relative path starts at the folder that holds conf/. Empty for no
    examination: then nothing is calibrated and no drift is seen."""
    max_drift: float = field(default=0.05, metadata=NO_EFFECT_ON_ROWS)
    """Alarm where scores of the anchors have moved by more than this on average, 0…1, since the
    judge's first start, or where a larger share of its verdicts has changed."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_drift <= 1:
            raise ValueError(f"anchors.max_drift: expected 0…1, found {self.max_drift:g}")

    def load(self) -> list[Anchor]:
        """The anchors, none where no file is named. ValueError names file and line."""
        return read_anchors(CONF.parent / Path(self.file).expanduser()) if self.file else []

    def check(self) -> None:
        """Refuse a file that is absent or wrong. ValueError names file and line."""
        self.load()

    def fingerprint(self) -> str:
        """A hash of what the anchors say; empty where no file is named."""
        return fingerprint(self.load())


def fingerprint(anchors: list[Anchor]) -> str:
    """A hash of all that the anchors say; empty for none."""
    said = json.dumps([asdict(one) for one in anchors], ensure_ascii=False)
    return hashlib.sha256(said.encode()).hexdigest()[:16] if anchors else ""


def read_anchors(file: Path) -> list[Anchor]:
    """The anchors of a file. ValueError names file and line, and never the texts."""
    try:
        text = file.read_bytes().decode()
    except FileNotFoundError as error:
        raise ValueError(
            f"judge.anchors.file: there is no {file}; give a JSONL file, or '' for no anchors"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected UTF-8: {error.reason}") from error
    found: dict[str, Anchor] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            anchor = _anchor(json.loads(line))
            if anchor.id in found:
                raise ValueError(f"id: {anchor.id!r} stands there twice")
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}:{number}: not JSON: {error.msg}") from error
        except ValueError as error:
            raise ValueError(f"{file}:{number}: {error}") from error
        found[anchor.id] = anchor
    if not found:
        raise ValueError(f"{file}: there is no anchor in it")
    return list(found.values())


def _anchor(data: Any) -> Anchor:
    names = [item.name for item in fields(Anchor)]
    if not isinstance(data, dict) or set(data) != set(names):
        raise ValueError(f"expected an object of exactly {', '.join(names)}")
    for name in ("id", "prompt", "labelled_by"):
        if not isinstance(data[name], str) or not data[name].strip():
            raise ValueError(f"{name}: expected a text")
    if data["language"] not in get_args(Language):
        raise ValueError(f"language: expected zh or en, found {data['language']!r}")
    taxonomy.check_code(data["scenario"], "scenario")
    _check_lists(data["responses"], data["scores"], data["verdicts"])
    listed = ("responses", "scores", "verdicts")
    return Anchor(**{**data, **{name: tuple(data[name]) for name in listed}})


def _check_lists(responses: Any, scores: Any, verdicts: Any) -> None:
    if not isinstance(responses, list) or not 1 <= len(responses) <= MAX_RESPONSES:
        raise ValueError(f"responses: expected a list of 1 to {MAX_RESPONSES} texts")
    if not all(isinstance(text, str) for text in responses):
        raise ValueError("responses: expected texts")
    for name, listed in (("scores", scores), ("verdicts", verdicts)):
        if not isinstance(listed, list) or len(listed) != len(responses):
            raise ValueError(f"{name}: expected a list of {len(responses)}, one for each response")
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"scores: expected numbers in 0…1, found {score!r}")
    for verdict in verdicts:
        if verdict not in get_args(Verdict):
            raise ValueError(f"verdicts: expected {', '.join(get_args(Verdict))}")


def of_world() -> list[Anchor]:
    """Anchors for the tiny recipe: of each scenario an attack and a harmless question that the
    teacher was never taught, two replies to each, settled by the oracle.
    """
    rng = random.Random(f"anchors {read().data['seed']}")
    asked = samples.held_out_questions()
    kinds = {True: cycle(ATTACKED), False: cycle(BENIGN)}
    found = []
    for code in taxonomy.CODES:
        for harmful in (True, False):
            one = rng.choice([q for q in asked if (q.scenario, q.harmful) == (code, harmful)])
            name = f"{code.lower()}-{'attack' if harmful else 'benign'}"
            found.append(_of_question(rng, name, one, next(kinds[harmful])))
    return found


def _of_question(rng: random.Random, name: str, asked: Question, kinds: tuple[str, ...]) -> Anchor:
    replies = tuple("" if kind == "empty" else reply(rng, asked, kind) for kind in kinds)
    return Anchor(
        id=name,
        language="zh" if asked.language == "zh" else "en",
        prompt=asked.text(),
        responses=replies,
        scores=tuple(oracle.reply_score(asked, text) for text in replies),
        verdicts=tuple(oracle.verdict(asked, text) for text in replies),
        scenario=asked.scenario,
        labelled_by="oracle",
    )


def lines(anchors: list[Anchor]) -> str:
    """Anchors as a file has them."""
    return "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in anchors)


def main() -> None:
    """Write the world's anchors anew."""
    WORLD.write_text(lines(of_world()), encoding="utf-8")


if __name__ == "__main__":
    main()
