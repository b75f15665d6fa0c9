"""Which answers people are asked about: all that the judge is uncertain of or gave no verdict on,
and a random share of those it has judged.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS
from ray_jobs.evals.labels import REPLIES, UNJUDGED, VERDICTS, Key, Label, digest
from ray_jobs.evals.prefills import whole_answer
from ray_jobs.tables import Folder, open_table

HOME = "evaluated"
"""The folder of an evaluation's tables, in the recipe's `out`."""
NEED_CHECK = "Need_Check"
"""What the published parsers say of an answer that they cannot read."""
SHOWN = ("id", "language", "prompt", "answer")
Why = Literal["uncertain", "unjudged", "audit"]


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What people are asked, and where the page listens."""

    audit_share: float = field(default=0.1, metadata=NO_EFFECT_ON_ROWS)
    """Share of the rows judged safe or unsafe, per suite and model, that people judge again."""
    min_audited: int = field(default=30, metadata=NO_EFFECT_ON_ROWS)
    """At least so many per suite and model, or all there are: fewer correct nothing. Not where
    audit_share is 0."""
    shared_share: float = field(default=0.2, metadata=NO_EFFECT_ON_ROWS)
    """Share of the queue that goes to several people, so that their agreement is seen."""
    num_raters: int = field(default=2, metadata=NO_EFFECT_ON_ROWS)
    """To how many."""
    lease_s: float = field(default=900.0, metadata=NO_EFFECT_ON_ROWS)
    """How long a row is kept for one who shows no sign of life."""
    host: str = field(default="127.0.0.1", metadata=NO_EFFECT_ON_ROWS)
    """Where `serve run serve.annotate:build` listens. Elsewhere than on this machine it asks for
    the token."""
    port: int = field(default=8001, metadata=NO_EFFECT_ON_ROWS)
    token_env: str = field(default="GARRISON_ANNOTATE_TOKEN", metadata=NO_EFFECT_ON_ROWS)
    """The environment variable that holds the token; where it is set, it is asked for."""
    export_to: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """Write the queue with its labels there: .csv, or .json for Label Studio. Empty: nowhere."""
    import_from: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """Take labels from such a file. Empty: from none."""

    def __post_init__(self) -> None:
        for name in ("audit_share", "shared_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number in 0…1, found {getattr(self, name)}")
        if self.min_audited < 0:
            raise ValueError(f"min_audited: expected 0 or more, found {self.min_audited}")
        if self.num_raters < 2:
            raise ValueError(f"num_raters: expected at least 2, found {self.num_raters}")
        if not self.lease_s > 0:
            raise ValueError(f"lease_s: expected more than 0, found {self.lease_s:g}")
        if not self.token_env.isidentifier():
            raise ValueError(
                "token_env: expected the name of an environment variable; "
                "the token itself does not belong in a recipe"
            )
        for name in ("export_to", "import_from"):
            if (path := getattr(self, name)) and not path.lower().endswith((".csv", ".json")):
                raise ValueError(f"{name}: expected a file .csv or .json, found {path!r}")


@dataclass(frozen=True, kw_only=True)
class Item:
    """A row that people are asked about."""

    suite: str
    model: str
    id: str
    language: str
    prompt: str
    answer: str
    judge_verdict: str
    """safe, unsafe, uncertain or unjudged; of a multiple-choice answer Need_Check."""
    why: Why
    options: tuple[str, ...] = VERDICTS
    """The labels that may be given."""

    @property
    def key(self) -> Key:
        """Suite, model and id."""
        return self.suite, self.model, self.id

    @cached_property
    def digest(self) -> str:
        """Of what a person reads."""
        return digest(self.prompt, self.answer)

    def labelled(self, label: str | None, annotator: str, when: str, comment: str = "") -> Label:
        """A person's label on this row. ValueError where it is none of the options."""
        if label is not None and label not in self.options:
            raise ValueError(f"expected one of {', '.join(self.options)}, found {label[:40]!r}")
        return Label(
            suite=self.suite,
            model=self.model,
            id=self.id,
            label=label,
            annotator=annotator,
            when=when,
            judge_verdict=self.judge_verdict,
            comment=comment,
            digest=self.digest,
        )


def current(labels: Iterable[Label], items: Iterable[Item]) -> list[Label]:
    """The labels on rows of the queue whose prompt and answer are still those that were read."""
    there = {item.key: item for item in items}
    return [
        label
        for label in labels
        if (item := there.get(label.key)) is not None and item.digest == label.digest
    ]


def fraction(seed: int, purpose: str, *parts: str) -> float:
    """A number in [0, 1) that looks random and is always the same for the same words."""
    data = "\0".join([str(seed), purpose, *parts]).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(data).digest()[:7], "big") / (1 << 56)


def audited(ids: Collection[str], suite: str, cfg: Annotation, seed: int) -> set[str]:
    """A simple random sample of judged rows.

    The model has no part in the draw, so that models are audited on the same samples as far as may
    be: their difference is then surer.
    """
    if not cfg.audit_share:
        return set()
    num = max(math.ceil(cfg.audit_share * len(ids)), cfg.min_audited)
    return set(sorted(ids, key=lambda each: fraction(seed, "audit", suite, each))[:num])


def is_shared(item: Item, cfg: Annotation, seed: int) -> bool:
    """Whether several people label it."""
    return fraction(seed, "shared", *item.key) < cfg.shared_share


def shuffled(items: Iterable[Item], seed: int) -> list[Item]:
    """In a seeded random order: neither model nor verdict can be guessed from a row's place, and
    what is labelled of the audit at any time is a random part of it.
    """
    return sorted(items, key=lambda item: fraction(seed, "order", *item.key))


def load(home: Folder, cfg: Annotation, seed: int) -> list[Item]:
    """The queue of an evaluation whose tables lie in `home`, in the order of `shuffled`.

    ValueError where nothing has been evaluated there.
    """
    marks = open_table(home / "marks")
    if marks is None:
        raise ValueError(
            f"{home.uri}: nothing is evaluated there yet; run `python -m ray_jobs evaluate` with "
            "this recipe first"
        )
    rows = marks.load(["suite", "model", "id", "outcome", "said"])
    need = pc.or_kleene(pc.equal(rows["outcome"], "undecided"), pc.equal(rows["said"], NEED_CHECK))
    unread = rows.filter(need)
    items: list[Item] = []
    for pair in rows.group_by(["suite", "model"]).aggregate([]).to_pylist():
        suite, model = pair["suite"], pair["model"]
        judged = open_table(home / f"{suite}-{model}-verdicts")
        if judged is not None:
            wanted = _judged(judged.load(["id", "verdict"]), suite, cfg, seed)
        else:
            # The multiple-choice answers that some parser leaves to a person.
            of = pc.and_(pc.equal(unread["suite"], suite), pc.equal(unread["model"], model))
            told = {"judge_verdict": NEED_CHECK, "why": "uncertain", "options": REPLIES}
            wanted = dict.fromkeys(unread.filter(of)["id"].to_pylist(), told)
        if wanted:
            items.extend(_items(home, suite, model, wanted))
    return shuffled(items, seed)


def _judged(rows: pa.Table, suite: str, cfg: Annotation, seed: int) -> dict[str, dict[str, Any]]:
    said = pc.fill_null(rows["verdict"], UNJUDGED).to_pylist()
    verdicts = dict(zip(rows["id"].to_pylist(), said, strict=True))
    unsure = ("uncertain", UNJUDGED)
    drawn = audited([key for key, said in verdicts.items() if said not in unsure], suite, cfg, seed)
    return {
        key: {"judge_verdict": said, "why": "audit" if key in drawn else said}
        for key, said in verdicts.items()
        if said in unsure or key in drawn
    }


def _items(
    home: Folder, suite: str, model: str, wanted: dict[str, dict[str, Any]]
) -> Iterator[Item]:
    answers = open_table(home / f"{suite}-{model}")
    if answers is None:
        raise ValueError(
            f"{home.uri}/{suite}-{model}: the answers are not there; run `python -m ray_jobs "
            "evaluate` with this recipe again"
        )
    chosen = pc.field("id").isin(list(wanted)) & pc.field("answer").is_valid()
    for row in answers.load([*SHOWN, "asked"], chosen).to_pylist():
        shown = {name: row[name] for name in SHOWN} | {"answer": whole_answer(row)}
        yield Item(suite=suite, model=model, **shown, **wanted[row["id"]])
