"""Prompt tokens scored a second: ask() over Ray Data against raw `LLM.generate`, same model and
texts.

python -m benchmarks.perplexity [runs]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pyarrow as pa

from benchmarks import sides
from benchmarks.generate import SCHEMA, render
from ray_jobs.asking import ask
from ray_jobs.engines.vllm_core import engine_args, set_environment
from ray_jobs.ledger import LedgerConfig
from ray_jobs.question import Question, itself
from ray_jobs.tables import Folder

SCORED = pa.schema(
    [
        *[field for field in SCHEMA if field.name != "answer"],
        pa.field("logprob_sum", pa.float64()),
        pa.field("token_count", pa.int32()),
    ]
)


def ours() -> dict[str, float]:
    """ask(), from when the engine is ready until every row is in a sealed shard."""
    from cluster.session import connect

    connect()
    question = Question(
        name="perplexity", render=render, children=itself, schema=SCORED, perplexity=True
    )
    with tempfile.TemporaryDirectory() as folder:
        table = sides.table(Path(folder) / "texts", sides.prompts(long=True))
        out = Folder(f"{folder}/scored")
        shards, asked = ask(
            table, sides.engine(), question, folder=out, ledger=LedgerConfig(), seed=0
        )
        rows = pa.concat_tables([out.read_shard(shard) for shard in shards])
        return {
            "num": sum(rows["token_count"].to_pylist()),
            "wall_s": asked.wall_s,
            "logprob_sum": sum(rows["logprob_sum"].to_pylist()),
        }


def raw() -> dict[str, float]:
    """`LLM.generate` with prompt log-probabilities, over all texts at once."""
    cfg = sides.engine()
    set_environment(cfg)
    from vllm import LLM, SamplingParams

    llm = LLM(**engine_args(cfg))
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    started = time.perf_counter()
    outputs = llm.generate(sides.prompts(long=True), params, use_tqdm=False)
    wall_s = time.perf_counter() - started
    total, num_tokens = 0.0, 0
    for output in outputs:
        scored = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
        sums = [position[token].logprob for token, position in scored]
        total, num_tokens = total + sum(sums), num_tokens + len(sums)
    return {"num": num_tokens, "wall_s": wall_s, "logprob_sum": total}


if __name__ == "__main__":
    sides.main("benchmarks.perplexity", {"raw": raw, "ours": ours}, "tokens")
