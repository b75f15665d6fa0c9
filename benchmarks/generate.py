"""Tokens a second of ask() over Ray Data against raw `LLM.chat`: same model, prompts, seeds and
engine arguments.

python -m benchmarks.generate [runs]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks import sides
from ray_jobs.asker import request_seed
from ray_jobs.asking import ask
from ray_jobs.engines.seam import Sampling
from ray_jobs.engines.vllm_core import engine_args, set_environment
from ray_jobs.ledger import LedgerConfig
from ray_jobs.prompts import Chat
from ray_jobs.question import Question, itself
from ray_jobs.schema import ANSWERED
from ray_jobs.tables import Folder, Row

SAMPLING = Sampling(max_tokens=512, temperature=1.0)
SCHEMA = pa.schema([field for field in ANSWERED if field.name not in ("prompt_id", "analysis")])


def render(row: Row) -> Chat:
    """The prompt alone."""
    return [{"role": "user", "content": row["prompt"]}]


def parse(text: str, row: Row) -> dict[str, Any]:
    """Any text will do."""
    return {"answer": text}


def question() -> Question:
    """Ask for one answer a row."""
    return Question(
        name="generate",
        render=render,
        parse=parse,
        children=itself,
        schema=SCHEMA,
        sampling=SAMPLING,
    )


def ours() -> dict[str, float]:
    """ask(), from when the engine is ready until every row is in a sealed shard."""
    from cluster.session import connect

    connect()
    with tempfile.TemporaryDirectory() as folder:
        table = sides.table(Path(folder) / "prompts", sides.prompts())
        out = Folder(f"{folder}/answers")
        shards, asked = ask(
            table, sides.engine(), question(), folder=out, ledger=LedgerConfig(), seed=0
        )
        counts = [out.read_shard(shard, ["output_tokens"])["output_tokens"] for shard in shards]
        return {
            "num": sum(sum(column.to_pylist()) for column in counts),
            "wall_s": asked.wall_s,
        }


def raw() -> dict[str, float]:
    """`LLM.chat` over all prompts at once."""
    cfg = sides.engine()
    set_environment(cfg)
    from vllm import LLM, SamplingParams

    llm = LLM(**engine_args(cfg))
    chats = [[{"role": "user", "content": text}] for text in sides.prompts()]
    params = [
        SamplingParams(
            max_tokens=SAMPLING.max_tokens,
            temperature=SAMPLING.temperature,
            seed=request_seed(0, f"{k:04d}/0"),
        )
        for k in range(len(chats))
    ]
    started = time.perf_counter()
    outputs = llm.chat(chats, params, use_tqdm=False)
    wall_s = time.perf_counter() - started
    return {
        "num": sum(len(output.outputs[0].token_ids) for output in outputs),
        "wall_s": wall_s,
    }


if __name__ == "__main__":
    sides.main("benchmarks.generate", {"raw": raw, "ours": ours}, "tokens")
