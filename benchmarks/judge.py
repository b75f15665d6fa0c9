"""Requests a second of the judge behind Ray Serve, asked by ask() over Ray Data, against raw
`LLM.chat` with the same questions, constraint and log-probabilities.

python -m benchmarks.judge [runs]
"""

from __future__ import annotations

import tempfile
import time

from benchmarks import sides
from cluster.session import connect
from ray_jobs import likelihoods, verdicts
from ray_jobs.anchors import AnchorsConfig
from ray_jobs.asking import ask
from ray_jobs.engines.judge import JudgeEngineConfig
from ray_jobs.engines.vllm_core import engine_args, set_environment
from ray_jobs.judge import JudgeConfig
from ray_jobs.ledger import LedgerConfig
from ray_jobs.prompts import Chat
from ray_jobs.question import Question
from ray_jobs.schema import SCORED_RESPONSES
from ray_jobs.stages import rewards
from ray_jobs.tables import Folder, Row, Table, write_shards
from serve.rubric import TOKENS_PER_SCORE


def pairs() -> list[Row]:
    """Prompts with two responses each, longest first."""
    texts = sides.prompts(long=True)
    rows = []
    for number, text in enumerate(texts):
        prompt, *responses = text.split("\n")
        rows.append(
            {
                "id": f"{number:04d}",
                "prompt": prompt,
                "responses": [responses[0], responses[-1]],
                "response_ids": [f"{number:04d}/o0", f"{number:04d}/o1"],
                "language": "zh",
                "scenario": None,
                "outcome": "done",
            }
        )
    return rows


def chats() -> list[Chat]:
    """The judge's questions about them, each in both orders."""
    return [
        verdicts.render_scores(row["prompt"], responses, row["language"])
        for row in pairs()
        for responses in (row["responses"], row["responses"][::-1])
    ]


def judge() -> JudgeConfig:
    """The judge over the engine of both sides. Its anchors would be asked before the clock runs."""
    return JudgeConfig(backend=sides.engine(), anchors=AnchorsConfig(file=""))


def ours() -> dict[str, float]:
    """ask() → handle → judge → engine, from the first question to the last sealed row."""
    import pyarrow as pa

    from serve import app

    connect()
    cfg = judge()
    app.up(cfg, sides.CACHE)
    with tempfile.TemporaryDirectory() as folder:
        where = Folder(f"{folder}/pairs")
        table = Table(where, {"shards": write_shards(where, [pa.Table.from_pylist(pairs())])})
        question: Question = rewards.responses_question()
        assert question.schema == SCORED_RESPONSES
        _, asked = ask(
            table,
            JudgeEngineConfig(judge=cfg),
            question,
            folder=Folder(f"{folder}/scored"),
            ledger=LedgerConfig(),
            seed=0,
        )
    return {"num": 2 * len(pairs()), "wall_s": asked.wall_s}


def raw() -> dict[str, float]:
    """`LLM.chat` over all questions at once."""
    cfg = sides.engine()
    set_environment(cfg)
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    llm = LLM(**engine_args(cfg))
    tokenizer = llm.get_tokenizer()
    digits = [tokenizer.encode(digit, add_special_tokens=False)[0] for digit in likelihoods.DIGITS]
    params = SamplingParams(
        max_tokens=3 * TOKENS_PER_SCORE,
        temperature=0,
        seed=0,
        structured_outputs=StructuredOutputsParams(regex=verdicts.scores_regex(2)),
        logprob_token_ids=digits,
    )
    asked = chats()
    started = time.perf_counter()
    outputs = llm.chat(asked, params, use_tqdm=False)
    wall_s = time.perf_counter() - started
    for output in outputs:
        verdicts.parse_scores(output.outputs[0].text, 2)
    return {"num": len(outputs), "wall_s": wall_s}


if __name__ == "__main__":
    sides.main("benchmarks.judge", {"raw": raw, "ours": ours}, "requests")
