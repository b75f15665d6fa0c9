"""Requests a second of ray.serve.llm, asked over HTTP by one asynchronous client, against raw
`LLM.chat`: the same questions, constraint and engine arguments as benchmarks.judge.

python -m benchmarks.judge_peer [runs]
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks import sides
from benchmarks.judge import chats, raw
from cluster.session import connect
from ray_jobs import verdicts
from ray_jobs.engines.vllm_core import engine_args, set_environment
from ray_jobs.prompts import Chat
from serve.rubric import TOKENS_PER_SCORE

MODEL = "judged"
PORT = 8123
IN_FLIGHT = 128


def serve_llm() -> dict[str, float]:
    """ray.serve.llm with the same engine arguments, asked over HTTP by one asynchronous client."""
    from ray import serve as ray_serve
    from ray.serve.llm import LLMConfig, build_openai_app

    cfg = sides.engine()
    set_environment(cfg)
    connect()
    # It names the model itself, and its metrics need the statistics that the others do without.
    known = {"model", "tokenizer", "revision", "trust_remote_code", "disable_log_stats"}
    arguments = {k: v for k, v in engine_args(cfg).items() if v is not None and k not in known}
    deployment: dict[str, Any] = {
        "num_replicas": 1,
        "max_ongoing_requests": 2 * IN_FLIGHT,
    }
    config = LLMConfig(
        model_loading_config={"model_id": MODEL, "model_source": cfg.model},
        engine_kwargs=arguments,
        deployment_config=deployment,
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}},
    )
    ray_serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    ray_serve.run(build_openai_app({"llm_configs": [config]}), route_prefix="/")
    return asyncio.run(_over_http(f"http://127.0.0.1:{PORT}/v1/chat/completions", chats()))


async def _over_http(url: str, asked: list[Chat]) -> dict[str, float]:
    import httpx

    limits = httpx.Limits(max_connections=IN_FLIGHT)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        room = asyncio.Semaphore(IN_FLIGHT)

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
    sides.main("benchmarks.judge_peer", {"raw": raw, "serve_llm": serve_llm}, "requests")
