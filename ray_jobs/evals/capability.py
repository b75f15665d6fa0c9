"""MMLU, CMMLU and C-Eval by the paper's protocol: chat-templated five-shot, the answer read from
the letters' probabilities at the first position. As LLaMA-Factory's evaluation asks (up to its
release 0.9.3; later ones cannot): every shot is a turn of the user and one of the assistant, in an
order drawn anew for every question.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ray_jobs.evals import exams
from ray_jobs.evals.exams import LETTERS, Item
from ray_jobs.evals.suite import Mark, Suite, chat
from ray_jobs.tables import Row

VERSION = 2
HEADERS = {
    "en": "The following are multiple choice questions (with answers) about {subject}.\n\n",
    "zh": "以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n",
}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
LAYOUTS = ("{subject}_{split}", "{split}/{subject}_{split}", "{split}/{subject}")
ENDINGS = {"en": "\nAnswer:", "zh": "\n答案："}


@dataclass(frozen=True, kw_only=True)
class Exam:
    """One of the three: its language, and the splits that shots and questions come from."""

    language: str
    shots: str
    questions: str


EXAMS = {
    "mmlu": Exam(language="en", shots="dev", questions="test"),
    "cmmlu": Exam(language="zh", shots="dev", questions="test"),
    "ceval": Exam(language="zh", shots="dev", questions="val"),
}


@dataclass(frozen=True, kw_only=True)
class Capability:
    """General skill by the paper's protocol."""

    mmlu: str = ""
    """A folder with <subject>_dev and <subject>_test files (.jsonl or .csv; or dev/ and test/), or
    a hub id such as cais/mmlu, better with a commit (id@revision): the newest is not pinned. Empty
    leaves it out. A folder may have some of the subjects.
    """
    cmmlu: str = ""
    """The same; haonan-li/cmmlu."""
    ceval: str = ""
    """The same, with _val in the place of _test; ceval/ceval-exam."""
    num_shots: int = 5
    """Examples before a question."""
    seed: int = 42
    """Of the shots' order."""
    limit: int = 0
    """Questions of a subject, from its first; 0 takes all."""

    def __post_init__(self) -> None:
        if self.num_shots < 0 or self.limit < 0:
            raise ValueError("capability: expected num_shots ≥ 0 and limit ≥ 0")


def suites(cfg: Capability) -> list[Suite]:
    """A suite for each examination that the recipe names."""
    given = {name: getattr(cfg, name) for name in EXAMS}
    return [_suite(name, place, cfg) for name, place in given.items() if place]


def _suite(name: str, place: str, cfg: Capability) -> Suite:
    def samples() -> Iterator[Row]:
        return _samples(name, place, cfg)

    limit = f", first {cfg.limit} of each subject" if cfg.limit else ""
    newest = "" if "@" in place else ", the newest, not pinned"
    source = "local files" if _is_folder(place) else f"hub data {place}{newest}"
    return Suite(
        name=f"{name}-{cfg.num_shots}shot",
        protocol=(
            f"{cfg.num_shots}-shot, shots as turns under the model's own chat template, argmax of "
            f"the letters' log-probabilities, {EXAMS[name].questions} split, {source}{limit} "
            "(the paper's protocol: LLaMA-Factory's evaluation)"
        ),
        decides={
            "version": VERSION,
            "data": content(name, place),
            "num_shots": cfg.num_shots,
            "seed": cfg.seed,
            "limit": cfg.limit,
            "subjects": hashlib.sha256(exams.SUBJECTS.read_bytes()).hexdigest()[:16],
        },
        samples=samples,
        marks=marks,
        letters=True,
    )


def content(name: str, place: str) -> str:
    """What decides the questions: a hash of the folder's files, or the hub id@revision."""
    if not _is_folder(place):
        return place
    digest = hashlib.sha256()
    for files in _files(name, Path(place).expanduser()).values():
        for file in files:
            digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()[:16]


def marks(row: Row) -> Iterator[Mark]:
    """Whether the likeliest letter is the right one."""
    if row["outcome"] != "done":
        yield Mark(measure="accuracy", score=None, outcome=row["outcome"], reason=row["reason"])
        return
    logprobs = row["option_logprobs"]
    said = LETTERS[max(range(len(logprobs)), key=logprobs.__getitem__)]  # the first of equals
    yield Mark(measure="accuracy", score=float(said == row["gold"]), said=said)


def _samples(name: str, place: str, cfg: Capability) -> Iterator[Row]:
    order = Order(cfg.seed)
    # One order of the subjects, wherever they come from: it decides the orders of the shots.
    for subject, (shots, questions) in sorted(_read(name, place).items()):
        if len(shots) < cfg.num_shots:
            raise ValueError(
                f"{place}: {subject} has {len(shots)} examples in its {EXAMS[name].shots} split, "
                f"num_shots is {cfg.num_shots}"
            )
        for number, one in enumerate(questions[: cfg.limit or None]):
            chosen = [shots[k] for k in order.draw(len(shots))[: cfg.num_shots]]
            yield _sample(name, subject, number, one, chosen)


def _sample(name: str, subject: str, number: int, one: Item, shots: list[Item]) -> Row:
    language = EXAMS[name].language
    known = exams.subjects(name).get(subject)
    turns = [
        turn
        for shot in shots
        for turn in (("user", question(shot, language)), ("assistant", shot.letter))
    ]
    turns.append(("user", question(one, language)))
    header = HEADERS[language].format(subject=known.name if known else subject.replace("_", " "))
    turns[0] = ("user", header + turns[0][1])
    return {
        "id": f"{subject}/{number}",
        "group": known.category if known else subject,
        "cluster": f"{subject}/{number}",
        "language": language,
        "prompt": one.question,
        "asked": chat(*turns),
        "options": list(one.options),
        "gold": one.letter,
        "about": json.dumps({"subject": subject}),
        "outcome": "done",
        "reason": None,
    }


def question(one: Item, language: str) -> str:
    """A question as the user's turn has it."""
    lines = [f"\n{letter}. {text}" for letter, text in zip(LETTERS, one.options, strict=False)]
    return "".join([one.question, *lines, ENDINGS[language]])


class Order:
    """The orders in which Hugging Face's Dataset.shuffle() puts rows after numpy.random.seed(): it
    takes its own seed from NumPy's global state, and steps that once. Here the state is our own.
    """

    def __init__(self, seed: int) -> None:
        import numpy as np

        self._state = np.random.RandomState(seed)

    def draw(self, num: int) -> list[int]:
        """The next order of `num` rows."""
        import numpy as np

        state: Any = self._state.get_state(legacy=True)
        _, keys, position, *_ = state
        seed = keys[position] if position < len(keys) else keys[0]
        self._state.random_sample()
        order: list[int] = np.random.default_rng(seed).permutation(num).tolist()
        return order


def _read(name: str, place: str) -> Mapping[str, tuple[list[Item], list[Item]]]:
    if not _is_folder(place):
        return {key: _from_hub(name, place, key) for key in exams.subjects(name)}
    found = {}
    for subject, files in _files(name, Path(place).expanduser()).items():
        shots, questions = (
            [exams.item(row, f"{file}, row {k}") for k, row in enumerate(exams.read_rows(file), 1)]
            for file in files
        )
        found[subject] = (shots, questions)
    return found


def _files(name: str, folder: Path) -> dict[str, tuple[Path, Path]]:
    """The files of shots and of questions, by subject. ValueError where there is none."""
    exam = EXAMS[name]
    for layout, suffix in product(LAYOUTS, (".jsonl", ".csv")):
        pattern = layout.format(subject="*", split=exam.questions) + suffix
        tail = pattern.rpartition("*")[2]
        if files := sorted(folder.glob(pattern)):
            return {
                (subject := file.name.removesuffix(tail)): (
                    folder / (layout.format(subject=subject, split=exam.shots) + suffix),
                    file,
                )
                for file in files
            }
    raise ValueError(
        f"{folder}: expected files such as anatomy_{exam.questions}.jsonl or "
        f"{exam.questions}/anatomy_{exam.questions}.csv, found none"
    )


def _from_hub(name: str, place: str, subject: str) -> tuple[list[Item], list[Item]]:
    import datasets

    which, _, revision = place.partition("@")
    load = partial(datasets.load_dataset, which, subject, revision=revision or None)
    try:
        loaded = [load(split=split) for split in (EXAMS[name].shots, EXAMS[name].questions)]
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
        why = str(error).partition("\n")[0]
        advice = "give a folder of its files, or the hub id of a copy in Parquet"
        raise ValueError(f"{place}, {subject}: {why}; {advice}") from error
    shots, questions = (
        [exams.item(row, f"{place}, {subject}, row {k}") for k, row in enumerate(rows, 1)]
        for rows in loaded
    )
    return shots, questions


def _is_folder(place: str) -> bool:
    return Path(place).expanduser().is_dir() or not HUB_ID.fullmatch(place)
