"""Requests a second of the judge behind Ray Serve, asked by ask() over Ray Data, against raw
`LLM.chat` with the same questions, constraint and log-probabilities; and, as a peer, ray.serve.llm
over HTTP.

python -m benchmarks.judge [runs]
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from typing import Any

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

MODEL = "judged"
PEER_IN_FLIGHT = 128


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


def serve_llm() -> dict[str, float]:
    """ray.serve.llm with the same engine arguments, asked over HTTP by one asynchronous client."""
    from ray import serve as ray_serve
    from ray.serve.llm import LLMConfig, build_openai_app

    cfg = sides.engine()
    set_environment(cfg)
    connect()
    known = {"model", "tokenizer", "revision", "trust_remote_code"}
    arguments = {k: v for k, v in engine_args(cfg).items() if v is not None and k not in known}
    deployment: dict[str, Any] = {
        "num_replicas": 1,
        "max_ongoing_requests": 2 * PEER_IN_FLIGHT,
    }
    config = LLMConfig(
        model_loading_config={"model_id": MODEL, "model_source": cfg.model},
        engine_kwargs=arguments,
        deployment_config=deployment,
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}},
    )
    ray_serve.start(http_options={"host": "127.0.0.1", "port": 8123})
    ray_serve.run(build_openai_app({"llm_configs": [config]}), route_prefix="/")
    return asyncio.run(_over_http("http://127.0.0.1:8123/v1/chat/completions", chats()))


async def _over_http(url: str, asked: list[Chat]) -> dict[str, float]:
    import httpx

    limits = httpx.Limits(max_connections=PEER_IN_FLIGHT)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        room = asyncio.Semaphore(PEER_IN_FLIGHT)

        async def one(chat: Chat) -> str:
            body = {
                "model": MODEL,
                "messages": chat,
                "max_tokens": 3 * TOKENS_PER_SCORE,
                "temperature": 0,
                "structured_outputs": {"regex": verdicts.scores_regex(2)},
                "logprobs": True,
                "top_logprobs": 10,
            }
            async with room:
                answer = await client.post(url, json=body)
            answer.raise_for_status()
            text: str = answer.json()["choices"][0]["message"]["content"]
            return text

        await one(asked[0])
        started = time.perf_counter()
        texts = await asyncio.gather(*map(one, asked))
        wall_s = time.perf_counter() - started
    for text in texts:
        verdicts.parse_scores(text, 2)
    return {"num": len(texts), "wall_s": wall_s}


if __name__ == "__main__":
    sides.main("benchmarks.judge", {"raw": raw, "ours": ours, "serve_llm": serve_llm}, "requests")
