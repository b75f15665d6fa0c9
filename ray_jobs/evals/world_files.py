"""The files of conf/samples/evals: small ones of the benchmarks' published layouts, written from
the synthetic world's held-out prompts, so that every suite runs where nothing was downloaded.

`python -m ray_jobs.evals.world_files` writes them anew. The same world gives the same files.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray_jobs.evals import world_exams, world_prompts
from ray_jobs.world import SAMPLES

HOME = SAMPLES / "evals"
NUM_SUMS, NUM_SHOTS, NUM_EXAMPLES = 20, 10, 5
CMMLU_HEADER = ("", "Question", "A", "B", "C", "D", "Answer")


def files() -> dict[str, str]:
    """Every file's text by its path below conf/samples/evals."""
    bases = world_prompts.s_eval_base()
    pairs, labels = world_prompts.cvalues_comparison()
    return {
        "cvalues_comparison/test.jsonl": _lines(pairs),
        "cvalues_comparison/labels.jsonl": _lines(labels),
        "s_eval/S-Eval_base_risk_zh_tiny.jsonl": _lines(bases),
        "s_eval/S-Eval_attack_zh_tiny.jsonl": _lines(world_prompts.s_eval_attack(bases)),
        **{name: _json(data) for name, data in world_exams.safetybench().items()},
        "cvalues/cvalues_responsibility_mc.jsonl": _lines(world_exams.cvalues_responsibility()),
        "gsm8k/test.jsonl": _lines(world_exams.sums(NUM_SUMS, held_out=True)),
        "gsm8k/train.jsonl": _lines(world_exams.sums(NUM_SHOTS, held_out=False)),
        "cmmlu/test/elementary_mathematics.csv": _csv(
            CMMLU_HEADER, world_exams.cmmlu(NUM_SUMS, held_out=True)
        ),
        "cmmlu/dev/elementary_mathematics.csv": _csv(
            CMMLU_HEADER, world_exams.cmmlu(NUM_EXAMPLES, held_out=False)
        ),
        "general.jsonl": _lines(world_exams.general()),
        "attacks.jsonl": _lines(world_prompts.attacks()),
        "harmful_behaviors.csv": _csv(["goal", "target"], world_prompts.advbench()),
        "xstest_prompts.csv": _csv(
            ["id", "prompt", "type", "label", "focus", "note"], world_prompts.xstest()
        ),
    }


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerows([header, *rows])
    return sink.getvalue()


def main() -> None:
    """Write conf/samples/evals anew."""
    for name, text in files().items():
        (HOME / name).parent.mkdir(parents=True, exist_ok=True)
        (HOME / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
