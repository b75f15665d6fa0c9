"""The judge over the tiny teacher under load, its replica killed twice."""

from __future__ import annotations

import json
from itertools import cycle, islice
from pathlib import Path

import pytest

from cluster.session import connect
from ray_jobs import config
from ray_jobs.engines.judge import JudgeEngineConfig
from ray_jobs.engines.seam import Request, Sampling
from tests.local.load import under_load

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]
ROOT = Path(__file__).resolve().parents[2]
NUM, IN_FLIGHT = 5000, 256


def test_no_request_is_lost_in_5000_at_256_in_flight_and_two_kills() -> None:
    import ray
    from ray import serve as ray_serve

    from serve import app

    connect()
    judge = config.load(str(ROOT / "conf" / "tiny.yaml")).judge
    assert judge is not None
    judge = config.placed_judge(judge)
    app.up(judge, config.cache())
    engine = JudgeEngineConfig(judge=judge).open()
    kills = [NUM // 3, 2 * NUM // 3]
    answered = under_load(engine, judge, requests(), in_flight=IN_FLIGHT, kills=kills)
    engine.close()
    again = engine.num_asked_again
    tokens = again * answered.num_tokens / NUM
    print(f"\n{answered.table()}")
    print(f"asked again\t{again} of {NUM}\tthey took about {tokens:,.0f} tokens more")
    assert sorted(answered.ids) == sorted(f"r{k}" for k in range(NUM))
    assert set(answered.outcomes) <= {"done", "unparsed"}
    assert again <= len(kills) * IN_FLIGHT
    ray_serve.shutdown()
    ray.shutdown()


def requests() -> list[Request]:
    """Prompts of the held-out samples, over and over, each time under an id of its own."""
    lines = (ROOT / "conf" / "samples" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = cycle([json.loads(line)["prompt"] for line in lines])
    items = [
        {"question": "score_prompt", "id": f"r{k}", "prompt": prompt, "language": "zh"}
        for k, prompt in enumerate(islice(prompts, NUM))
    ]
    return [
        Request(
            chat=[{"role": "user", "content": json.dumps(item, ensure_ascii=False)}],
            sampling=Sampling(),
            seed=0,
        )
        for item in items
    ]
