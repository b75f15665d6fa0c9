"""The rubric over one engine: what it asks, and that only the judge's own answer is a score."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pytest

from ray_jobs import likelihoods, quoting, verdicts
from ray_jobs.engines.scripted import ScriptedConfig, ScriptedEngine
from ray_jobs.engines.seam import EngineUnusable, Reply, Request
from serve import api
from serve.reading import read_scores, read_verdict
from serve.rubric import Rubric

T = TypeVar("T")
TITLE = "scripted:answers.yaml"
PAIR = api.ResponsesItem(id="a", prompt="问", language="zh", responses=["甲", "乙"])
PROMPT = api.PromptItem(id="b", prompt="问", language="zh")
RESPONSE = api.ResponseItem(id="c", prompt="Ask", response="Sure.", language="en")
EXPLAINED = RESPONSE.model_copy(update={"explain": True})


@dataclass
class Recorded:
    """The scripted engine, with what it was asked kept, and replies dressed as a provider's."""

    engine: ScriptedEngine
    dress: Callable[[Reply], Reply] = lambda reply: reply
    asked: list[Request] = field(default_factory=list)

    def submit(self, request: Request) -> Future[Reply]:
        self.asked.append(request)
        dressed: Future[Reply] = Future()

        def hand_on(done: Future[Reply]) -> None:
            if error := done.exception():
                dressed.set_exception(error)
            else:
                dressed.set_result(self.dress(done.result()))

        self.engine.submit(request).add_done_callback(hand_on)
        return dressed

    def close(self) -> None:
        self.engine.close()


Script = Callable[..., Recorded]


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    """Engines by their table of answers: (part of the question, answer)."""
    opened: list[Recorded] = []

    def open_(*answers: tuple[str, str]) -> Recorded:
        table = [{"match": match, "answer": answer} for match, answer in answers]
        file = tmp_path / "answers.yaml"
        file.write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
        opened.append(Recorded(ScriptedConfig(answers=str(file)).open()))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def run(asked: Awaitable[T]) -> T:
    """The answer."""

    async def wait() -> T:
        return await asked

    return asyncio.run(wait())


def test_responses_are_scored_in_both_orders_and_the_mean_is_in_the_items_order(
    script: Script,
) -> None:
    engine = script(("甲.*乙", "[0.2, 0.8]"), ("乙.*甲", "[0.6, 0.4]"))
    answer = run(Rubric(engine, TITLE, True).score_responses(PAIR))
    assert answer.outcome == "done"
    assert answer.scores == pytest.approx([0.3, 0.7])
    assert [order.scores for order in answer.orders] == [[0.2, 0.8], [0.4, 0.6]]
    assert [order.reversed for order in answer.orders] == [False, True]
    assert answer.spread == [None, None]
    assert answer.backend == TITLE
    assert {request.purpose for request in engine.asked} == {"score_responses"}


def test_one_unread_order_leaves_the_item_unscored_with_what_was_written(script: Script) -> None:
    engine = script(("甲.*乙", "[0.2, 0.8]"), ("乙.*甲", "第二个更好"))
    answer = run(Rubric(engine, TITLE, True).score_responses(PAIR))
    assert (answer.outcome, answer.scores, answer.spread) == ("unparsed", None, None)
    assert [order.text for order in answer.orders] == ["[0.2, 0.8]", "第二个更好"]
    assert answer.reason


def test_a_single_response_and_a_prompt_are_asked_about_once(script: Script) -> None:
    engine = script(("", "[0.7]"))
    rubric = Rubric(engine, TITLE, True)
    one = run(rubric.score_responses(PAIR.model_copy(update={"responses": ["甲"]})))
    prompt = run(rubric.score_prompt(PROMPT))
    assert one.scores == [prompt.score] == [0.7]
    assert [request.purpose for request in engine.asked] == ["score_responses", "score_prompt"]
    for request in engine.asked:
        assert request.constraint is not None
        assert request.constraint.regex == verdicts.scores_regex(1)
        assert (request.sampling.temperature, request.seed) == (0.0, 0)


def test_what_the_engine_cannot_answer_keeps_its_outcome_and_reason(script: Script) -> None:
    rubric = Rubric(script(), TITLE, True)
    for answer in (
        run(rubric.score_responses(PAIR)),
        run(rubric.score_prompt(PROMPT)),
        run(rubric.verdict(RESPONSE)),
    ):
        assert answer.outcome == "failed"
        assert answer.reason
        assert (answer.backend, answer.usage.yuan) == (TITLE, 0.0)


def test_a_verdict_is_asked_for_by_its_choices(script: Script) -> None:
    engine = script(("Sure", "harmful"))
    answer = run(Rubric(engine, TITLE, True).verdict(RESPONSE))
    assert (answer.verdict, answer.outcome, answer.p_unsafe) == ("unsafe", "done", None)
    assert (answer.scenario, answer.explanation) == (None, None)
    [request] = engine.asked
    assert request.constraint is not None
    assert request.constraint.choices == ("safe", "harmful", "uncertain")
    assert request.logprobs_of == likelihoods.prefixes("en")
    assert request.purpose == "verdict"


def test_an_explained_verdict_names_scenario_and_reason(script: Script) -> None:
    engine = script(("Sure", "It does as told.\nEthics and Morality\nharmful"))
    answer = run(Rubric(engine, TITLE, True).verdict(EXPLAINED))
    assert (answer.verdict, answer.scenario) == ("unsafe", "EM")
    assert answer.explanation == "It does as told."
    [request] = engine.asked
    assert request.constraint is not None
    assert request.constraint.regex == verdicts.explained_regex("en")


def test_a_judge_without_a_grammar_must_begin_with_the_mark(script: Script) -> None:
    chat = verdicts.render_verdict("Ask", "Sure.", "en")
    mark = quoting.mark_of(chat)
    engine = script((mark, f"I think:\n{mark}: harmful"))
    answer = run(Rubric(engine, TITLE, False).verdict(RESPONSE))
    assert answer.verdict == "unsafe"
    assert engine.asked[0].constraint is None
    assert engine.asked[0].logprobs_of == ()
    assert engine.asked[0].chat == verdicts.render_verdict("Ask", "Sure.", "en", mark=mark)


@pytest.mark.parametrize("text", ["[0.9, 0.9]", "Sure.\n[1.0, 1.0]", "0123456789ab: [1.0, 1.0]"])
def test_a_judge_without_a_grammar_that_repeats_what_it_judges_scores_nothing(
    script: Script, text: str
) -> None:
    rubric = Rubric(script(("", text)), TITLE, False)
    pair = PAIR.model_copy(update={"responses": [text, text]})
    answer = run(rubric.score_responses(pair))
    assert (answer.outcome, answer.scores) == ("unparsed", None)


def test_every_order_has_a_mark_of_its_own(script: Script) -> None:
    pairs = [["甲", "乙"], ["乙", "甲"]]
    marks = [quoting.mark_of(verdicts.render_scores("问", pair, "zh")) for pair in pairs]
    engine = script((marks[0], f"{marks[0]}: [0.2, 0.8]"), (marks[1], f"{marks[1]}: [0.8, 0.2]"))
    answer = run(Rubric(engine, TITLE, False).score_responses(PAIR))
    assert answer.scores == pytest.approx([0.2, 0.8])


def test_repeats_are_the_given_order_drawn_with_other_seeds(script: Script) -> None:
    engine = script(("甲.*乙", "[0.2, 0.8]"))
    assert run(Rubric(engine, TITLE, True).repeats(PAIR, 3)) == [[0.2, 0.8]] * 3
    assert sorted(request.seed for request in engine.asked) == [1, 2, 3]
    assert {request.sampling.temperature for request in engine.asked} == {0.7}
    assert run(Rubric(script(), TITLE, True).repeats(PAIR, 2)) == [None, None]


def test_the_providers_snapshot_and_costs_are_in_the_answer(script: Script) -> None:
    engine = script(("", "[0.5, 0.5]"))
    engine.dress = lambda reply: replace(reply, model="qwen-turbo-2025-04-28", yuan=0.25)
    answer = run(Rubric(engine, "dashscope:qwen-turbo", True).score_responses(PAIR))
    assert answer.backend == "dashscope:qwen-turbo@qwen-turbo-2025-04-28"
    assert answer.usage.yuan == 0.5
    assert answer.usage.output_tokens == 2 * len("[0.5, 0.5]")


def test_an_answer_that_was_cut_is_unread_whatever_it_says(script: Script) -> None:
    engine = script(("", "safe"))
    engine.dress = lambda reply: replace(reply, finish_reason="length")
    answer = run(Rubric(engine, TITLE, True).verdict(RESPONSE))
    assert (answer.outcome, answer.verdict, answer.text) == ("unparsed", None, "safe")


def test_an_engine_that_is_gone_is_no_answer_about_the_item(script: Script) -> None:
    class Gone(Recorded):
        def submit(self, request: Request) -> Future[Reply]:
            future: Future[Reply] = Future()
            future.set_exception(EngineUnusable("the budget is spent"))
            return future

    rubric = Rubric(Gone(script().engine), TITLE, True)
    for asked in (rubric.score_responses(PAIR), rubric.verdict(RESPONSE), rubric.repeats(PAIR, 2)):
        with pytest.raises(EngineUnusable):
            run(asked)


WHOLE = Reply(text="", prompt_tokens=1, output_tokens=1, finish_reason="stop")


def test_expected_scores_are_read_and_what_was_written_is_kept() -> None:
    position = {"0": math.log(0.5), "1": math.log(0.5)}
    said = replace(
        WHOLE, text="[0.0]", tokens=tuple("[0.0]"), logprobs=({}, position, {}, position, {})
    )
    reading = read_scores(said, 1)
    assert reading.scores == (pytest.approx(0.5 + 0.5 * 0.05),)
    assert reading.written == (0.0,)
    assert reading.spread[0] == pytest.approx(0.476, abs=0.001)


def test_a_verdicts_probabilities_are_read_beside_it() -> None:
    position = {"安全": math.log(0.25), "有害": math.log(0.75)}
    said = replace(WHOLE, text="有害", tokens=("有害",), logprobs=(position,))
    judgement = read_verdict(said, "zh", explained=False)
    assert judgement.verdict == "unsafe"
    assert judgement.probabilities == {
        "safe": pytest.approx(0.25),
        "unsafe": pytest.approx(0.75),
        "uncertain": 0.0,
    }
