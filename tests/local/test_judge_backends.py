"""A judge of several backends: a provider that refuses some texts, a model that takes them over,
and a guard. The provider is a real server asked by the real SDK; model and guard are tables.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ray_jobs.engines.cached import CachedEngine
from ray_jobs.engines.dashscope import DashScopeConfig
from ray_jobs.engines.scripted import ScriptedConfig
from ray_jobs.engines.seam import Engine
from ray_jobs.engines.spending import spent
from ray_jobs.judge import JudgeConfig
from ray_jobs.tables import Folder
from serve import api
from serve.anchors import examined
from serve.guard import Guard
from serve.panel import Panel
from serve.rubric import Rubric
from tests.local.dashscope_server import Handler, Server, inspects, message, says

pytestmark = pytest.mark.timeout(120)
Said = TypeVar("Said")
LOCAL = """\
- {match: "回复3：|Response 3:", answer: "[0.4, 0.6, 0.5]"}
- {match: "回复2：|Response 2:", answer: "[0.4, 0.6]"}
- {match: "回复1：|Response 1:", answer: "[0.4]"}
- {match: "攻击性|stronger attack", answer: "[0.5]"}
- {match: "", answer: "有害"}
"""
GUARD = '- {match: "", answer: "Safety: Unsafe\\nCategories: Violent\\nRefusal: No"}\n'


def provider(handler: Handler, body: dict[str, Any]) -> None:
    """Refuses what says 敏感; else answers in the form that is asked for, mark and all."""
    system, user = (turn["content"] for turn in body["input"]["messages"])
    if "敏感" in user:
        inspects("Input")(handler, body)
        return
    mark = re.search(r"[0-9a-f]{12}", system)
    assert mark, "a backend without grammar is asked for a mark"
    num = len(re.findall(r"回复\d：|Response \d:", user))
    answer = str([0.2, 0.9, 0.5][:num]) if num else "[0.3]"
    says(message(f"{mark.group()}: {'安全' if '结论' in system else answer}"))(handler, body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TEST_API_KEY", "sk-not-for-logs")
    running = Server()
    running.answers = [provider]
    yield running
    running.stop()


@pytest.fixture
def cfg(server: Server, tmp_path: Path) -> JudgeConfig:
    """What a recipe's section judge would be."""
    tables = {"local": LOCAL, "guard": GUARD}
    for name, lines in tables.items():
        (tmp_path / f"{name}.yaml").write_text(lines, encoding="utf-8")
    local, guard = (ScriptedConfig(answers=str(tmp_path / f"{name}.yaml")) for name in tables)
    first = DashScopeConfig(
        base_url=server.url,
        api_key_env="TEST_API_KEY",
        spending=str(tmp_path / "spending"),
        yuan_per_1k_prompt_tokens=1.0,
        yuan_per_1k_output_tokens=10.0,
    )
    return JudgeConfig(backend=first, fallback=local, guard=guard, guard_grammar="qwen3guard")


@pytest.fixture
def engines(cfg: JudgeConfig) -> Iterator[dict[str, Engine]]:
    """The judge's, by their part."""
    opened = {part: engine.open() for part, engine in cfg.engines()}
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.fixture
def ask(cfg: JudgeConfig, engines: dict[str, Engine], tmp_path: Path) -> Callable[..., Any]:
    """Puts something to the judge's panel, whose first backend keeps its replies if told so."""

    def ask(put: Callable[[Panel], Awaitable[Said]], *, cached: bool = False) -> Said:
        first = engines["backend"]
        if cached:
            first = CachedEngine(first, tmp_path / "replies.sqlite", cfg.backend.identity())
        panel = Panel(
            Rubric(first, cfg.title, cfg.backend.constrains),
            Rubric(engines["fallback"], cfg.fallback.title, cfg.fallback.constrains),
            Guard(engines["guard"], cfg.guard.title, cfg.guard.constrains, cfg.guard_grammar),
            num_repeats=2,
            log_texts=False,
        )

        async def run() -> Said:
            return await put(panel)

        return asyncio.run(run())

    return ask


def pair(prompt: str, **fields: Any) -> api.ResponsesItem:
    given = {"id": "a", "prompt": prompt, "language": "zh", "responses": ["不行。", "好的。"]}
    return api.ResponsesItem(**given | fields)


def test_what_the_provider_refuses_is_scored_whole_by_the_fallback(ask: Any) -> None:
    said = ask(lambda panel: panel.score_responses(pair("敏感的问题", scenario="NS")))
    assert (said.outcome, said.backend) == ("done", "scripted:local.yaml"), said.reason
    assert said.blocked_by == "dashscope:qwen-turbo"
    assert [order.scores for order in said.orders] == [[0.4, 0.6], [0.6, 0.4]]
    assert said.calibrated is False, "nothing says what these would be on the provider's scale"


def test_what_the_provider_answers_is_its_own(ask: Any) -> None:
    said = ask(lambda panel: panel.score_responses(pair("怎样修门？")))
    assert (said.outcome, said.backend) == ("done", "dashscope:qwen-turbo@qwen-turbo")
    assert (said.blocked_by, said.calibrated) == (None, None)
    assert said.scores == pytest.approx([0.55, 0.55]), "both orders: [0.2, 0.9], [0.9, 0.2]"
    assert said.usage.yuan == pytest.approx(2 * (0.070 + 0.12))


def test_without_a_fallback_it_is_blocked_and_has_no_score(ask: Any) -> None:
    def put(panel: Panel) -> Awaitable[api.ScoredPrompt]:
        panel.fallback = None
        item = api.PromptItem(id="a", prompt="敏感的问题", language="zh")
        return panel.score_prompt(item)

    said = ask(put)
    assert (said.outcome, said.score) == ("blocked", None)
    assert "inspect" in said.reason.lower() or "refus" in said.reason.lower()


def test_a_verdict_has_the_guards_opinion_beside_it(ask: Any) -> None:
    item = api.ResponseItem(id="a", prompt="怎样修门？", language="zh", response="先量尺寸。")
    said = ask(lambda panel: panel.verdict(item))
    assert (said.verdict, said.backend) == ("safe", "dashscope:qwen-turbo@qwen-turbo")
    assert (said.second.verdict, said.second.backend) == ("unsafe", "scripted:guard.yaml")


def test_an_audit_asks_everyone_and_draws_again_past_the_cache(ask: Any, server: Server) -> None:
    asked = pair("怎样修门？", audit=True)

    async def twice(panel: Panel) -> list[api.ScoredResponses]:
        return [await panel.score_responses(asked) for _ in range(2)]

    first, second = ask(twice, cached=True)
    assert len(server.asked) == 2 + 2 * 2, "both orders once, and two draws at each time"
    assert first.scores == second.scores
    assert second.usage.yuan == 0, "a kept reply costs nothing"
    assert first.audit.repeats == [[0.2, 0.9], [0.2, 0.9]]
    [other] = first.audit.others
    assert (other.backend, other.scores) == ("scripted:local.yaml", [0.5, 0.5])
    assert [opinion.verdict for opinion in first.audit.opinions] == ["unsafe", "unsafe"]


def test_anchors_are_put_to_all_and_calibrate_the_fallback(
    ask: Any, cfg: JudgeConfig, tmp_path: Path
) -> None:
    judged = replace(cfg, num_repeats=0)

    async def put(panel: Panel) -> tuple[Any, api.ScoredResponses]:
        trust = await examined(panel, judged, str(tmp_path))
        return trust, await panel.score_responses(pair("敏感的问题"))

    trust, said = ask(put)
    assert trust["num_anchors"] == 28
    assert [one["part"] for one in trust["standings"]] == ["first", "fallback", "guard"]
    assert trust["calibration"]["num"] == 72
    assert trust["calibration"]["error"] < trust["calibration"]["error_without"]
    assert (said.calibrated, said.blocked_by) == (True, "dashscope:qwen-turbo")
    # Where the fallback says 0.4 and 0.6 to a pair, and so 0.5 twice, the provider says 0.55.
    assert said.scores == pytest.approx([0.55, 0.55], abs=0.01)
    again, _ = ask(put)
    assert {drift["part"] for drift in again["drifts"]} == {"first", "fallback", "guard"}
    assert again["alarm"] is None


def test_a_provider_that_has_changed_raises_the_alarm(
    ask: Any, cfg: JudgeConfig, server: Server, tmp_path: Path
) -> None:
    judged = replace(cfg, num_repeats=0)

    def changed(handler: Handler, body: dict[str, Any]) -> None:
        system = body["input"]["messages"][0]["content"]
        mark = re.search(r"[0-9a-f]{12}", system)
        num = len(re.findall(r"回复\d：|Response \d:", body["input"]["messages"][1]["content"]))
        word = "有害" if "结论" in system else json.dumps([0.9, 0.9, 0.9][:num] or [0.9])
        says(message(f"{mark.group() if mark else ''}: {word}"))(handler, body)

    assert ask(lambda panel: examined(panel, judged, str(tmp_path)))["alarm"] is None
    server.answers = [changed]
    assert ask(lambda panel: examined(panel, judged, str(tmp_path)))["alarm"]


def test_what_was_asked_is_in_the_ledger_by_question(cfg: JudgeConfig, server: Server) -> None:
    engine = cfg.backend.open()
    rubric = Rubric(engine, cfg.title, cfg.backend.constrains)

    async def both() -> None:
        await rubric.score_responses(pair("怎样修门？"))
        await rubric.score_responses(pair("敏感的问题"))

    asyncio.run(both())
    engine.close()  # which seals the ledger
    found = spent(Folder(cfg.backend.spending))["score_responses"]
    assert found.num_questions == len(server.asked) == 4
    assert found.outcomes == {"done": 2, "blocked": 2}
    assert found.yuan == pytest.approx(2 * (0.070 + 0.12)), "what is refused costs nothing"
