"""What the New-Safety Benchmark is drawn from: prompts of CValues-Comparison and S-Eval, each with
its scenario and with what placed it there; and the draw, by seed, scenario by scenario.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ray_jobs import publishers, taxonomy
from ray_jobs.evals import s_eval
from ray_jobs.quotas import fair_shares
from ray_jobs.schema import row_id
from ray_jobs.tables import Row

CVALUES, BASE, ATTACK = "cvalues_comparison", "s_eval_base", "s_eval_attack"
SOURCES = (CVALUES, BASE, ATTACK)
LEVELS = ("file", "keyword", "llm")
COLUMNS = ("scenario", "wanted", "drawn", "there", *SOURCES, *LEVELS)
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One prompt that could be drawn."""

    id: str
    source: str
    row: int
    """In its file, from 1."""
    prompt: str
    language: str
    cluster: str
    scenario: str | None
    """None where nobody could say: it is not drawn."""
    level: str
    """What decided: file, keyword or llm."""
    label: str | None = None
    """The model's, where it gave one."""
    risk: str | None = None
    attack: str | None = None
    base: str | None = None


def cvalues(path: str, labels: Mapping[str, str]) -> Iterator[Candidate]:
    """CValues-Comparison's prompts, each once, by the labels that a model gave them."""
    known = taxonomy.load()
    for row, prompt in cvalues_prompts(path):
        label = labels.get(prompt)
        yield Candidate(
            id=row_id(CVALUES, prompt, []),
            source=CVALUES,
            row=row,
            prompt=prompt,
            language=language(prompt),
            cluster=s_eval.digest(prompt),
            scenario=None if label is None else known.scenario_of(label),
            level="llm",
            label=label,
        )


def cvalues_prompts(path: str) -> Iterator[tuple[int, str]]:
    """Each prompt of CValues-Comparison once, with its first row: it stands in up to three pairs.
    ValueError where the file is missing, cut or wrong.
    """
    seen: set[str] = set()
    for found in publishers.cvalues_comparison(path):
        if not isinstance(found.prompt, str) or not found.prompt.strip():
            raise ValueError(f"{path} row {found.source_row}: expected a prompt; mend or remove it")
        prompt = found.prompt.strip()
        if prompt not in seen:
            seen.add(prompt)
            yield found.source_row, prompt
    if not seen:
        raise ValueError(f"{path}: it holds no prompt")


def s_eval_prompts(
    found: Iterable[s_eval.Prompt], labels: Mapping[str, str]
) -> Iterator[Candidate]:
    """S-Eval's prompts, base or attack, by their file, by cues, or by a model's label."""
    for one in found:
        prompt = one.text.strip()
        label = labels.get(prompt) if s_eval.to_label(one) else None
        scenario, level = s_eval.scenario(one, label)
        source = ATTACK if one.attack else BASE
        yield Candidate(
            id=row_id(source, f"{one.attack} {prompt}", []),
            source=source,
            row=one.row,
            prompt=prompt,
            language=language(prompt),
            cluster=one.cluster,
            scenario=scenario,
            level=level,
            label=label,
            risk=one.risk,
            attack=one.attack,
            base=one.base,
        )


def unlabelled(cvalues: str, s_eval_base: str, max_labelled: int, seed: int) -> Iterator[Row]:
    """The prompts that a model has to label, as rows of COLLECTED: those of CValues-Comparison, or
    so many of them, and those of S-Eval whose file and words do not say enough.
    """
    chosen = list(cvalues_prompts(cvalues)) if cvalues else []
    if max_labelled:
        chosen.sort(key=lambda found: s_eval.digest(f"{seed} {found[1]}"))
        chosen = sorted(chosen[:max_labelled])
    bases = s_eval.read(s_eval_base) if s_eval_base else []
    found = [(CVALUES, row, prompt) for row, prompt in chosen]
    found += [(BASE, one.row, one.text.strip()) for one in bases if s_eval.to_label(one)]
    seen: set[str] = set()
    for source, row, prompt in found:
        if prompt in seen:
            continue
        seen.add(prompt)
        yield {
            "id": row_id(source, prompt, []),
            "source": source,
            "source_row": row,
            "role": "evaluate",
            "language": language(prompt),
            "licence": "",
            "prompt": prompt,
            "source_label": None,
            "original_responses": [],
            "parent": None,
            "twin": None,
            "outcome": "done",
            "reason": None,
        }


def draw(pool: Iterable[Candidate], per_scenario: int, seed: int) -> list[Candidate]:
    """So many of each scenario, or all there are: shared fairly among the sources, one prompt of a
    cluster before a second one, in an order that the seed decides.
    """
    by_scenario: dict[str, dict[str, list[Candidate]]] = {
        code: {source: [] for source in SOURCES} for code in taxonomy.CODES
    }
    seen: set[str] = set()
    for one in pool:
        if one.scenario is not None and one.prompt not in seen:
            seen.add(one.prompt)
            by_scenario[one.scenario][one.source].append(one)
    drawn: list[Candidate] = []
    for sources in by_scenario.values():
        shares = fair_shares({name: len(rows) for name, rows in sources.items()}, per_scenario)
        for name, rows in sources.items():
            drawn += _in_order(rows, seed)[: shares[name]]
    return drawn


def _in_order(rows: Sequence[Candidate], seed: int) -> list[Candidate]:
    shuffled = sorted(rows, key=lambda one: s_eval.digest(f"{seed} {one.id}"))
    turns: Counter[str] = Counter()
    keys: list[tuple[int, int]] = []
    for number, one in enumerate(shuffled):
        keys.append((turns[one.cluster], number))
        turns[one.cluster] += 1
    return [shuffled[number] for _, number in sorted(keys)]


def coverage(
    drawn: Iterable[Mapping[str, str]], there: Mapping[str, int] | None, wanted: int
) -> list[list[object]]:
    """The rows of COLUMNS: of each scenario how many samples were wanted and drawn, by source and
    by what placed them. `drawn` has scenario, source and level; `there` counts what there was.
    """
    counts: dict[str, Counter[str]] = {code: Counter() for code in taxonomy.CODES}
    for one in drawn:
        counts[one["scenario"]].update(["drawn", one["source"], one["level"]])
    return [
        [
            code,
            wanted,
            found["drawn"],
            "" if there is None else there.get(code, 0),
            *[found[name] for name in (*SOURCES, *LEVELS)],
        ]
        for code, found in counts.items()
    ]


def language(text: str) -> str:
    """zh where there is a Chinese character, else en."""
    return "zh" if _HAN.search(text) else "en"
