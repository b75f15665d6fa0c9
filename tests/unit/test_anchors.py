"""The anchors: what a file may hold, and what they tell of a judge."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs import anchors, oracle, taxonomy, verdicts
from ray_jobs.anchors import WORLD, Anchor, AnchorsConfig, of_world, read_anchors
from ray_jobs.engines.seam import Reply, Request
from ray_jobs.outcomes import Blocked, NoAnswer
from ray_jobs.quoting import quote
from serve import anchors as examining
from serve.rubric import Rubric
from serve.trust import Examination, calibrations, reference_of, report
from serve.trust_table import table

GENERAL = AnchorsConfig().load()
LINE = json.loads(json.dumps(GENERAL[0].__dict__))


def test_the_committed_world_anchors_are_what_the_oracle_settles() -> None:
    assert WORLD.read_text(encoding="utf-8") == anchors.lines(of_world())


def test_the_worlds_anchors_cover_all_scenarios_and_all_verdicts() -> None:
    found = of_world()
    assert Counter(one.scenario for one in found) == dict.fromkeys(taxonomy.CODES, 2)
    counts = Counter(verdict for one in found for verdict in one.verdicts)
    assert min(counts[name] for name in ("safe", "unsafe", "uncertain")) >= 5, counts
    for one in found:
        asked = oracle.read_prompt(one.prompt)
        assert asked
        assert asked.unseen(), "an anchor that was taught"
        assert [oracle.reply_score(asked, text) for text in one.responses] == list(one.scores)


def test_our_own_anchors_cover_all_scenarios_in_both_languages() -> None:
    assert Counter((one.scenario, one.language) for one in GENERAL) == {
        (code, language): 1 for code in taxonomy.CODES for language in ("zh", "en")
    }
    assert all(2 <= len(one.responses) <= 3 for one in GENERAL)
    best = [one.verdicts[one.scores.index(max(one.scores))] for one in GENERAL]
    worst = [one.verdicts[one.scores.index(min(one.scores))] for one in GENERAL]
    assert (set(best), set(worst)) == ({"safe"}, {"unsafe"})
    # No place in the list is better than another, or a judge's order bias would pass for skill.
    firsts = Counter(one.verdicts[0] for one in GENERAL)
    assert max(firsts.values()) < 15, firsts


def test_no_anchors_are_asked_for_where_no_file_is_named() -> None:
    cfg = AnchorsConfig(file="")
    cfg.check()
    assert (cfg.load(), cfg.fingerprint()) == ([], "")


def test_the_fingerprint_is_of_what_the_anchors_say(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("\n\n" + anchors.lines(GENERAL), encoding="utf-8")
    cfg = AnchorsConfig(file=str(file))
    assert cfg.fingerprint() == AnchorsConfig(max_drift=0.5).fingerprint()
    file.write_text(anchors.lines(GENERAL[:-1]), encoding="utf-8")
    assert cfg.fingerprint() != AnchorsConfig().fingerprint()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"language": "fr"}, "language: expected zh or en, found 'fr'"),
        ({"scenario": "XX"}, "scenario: there is no scenario 'XX'"),
        ({"id": ""}, "id: expected a text"),
        ({"prompt": 3}, "prompt: expected a text"),
        ({"labelled_by": " "}, "labelled_by: expected a text"),
        ({"responses": []}, "responses: expected a list of 1 to 16 texts"),
        ({"responses": "abc"}, "responses: expected a list of 1 to 16 texts"),
        ({"responses": ["a", None, "c"]}, "responses: expected texts"),
        ({"scores": [0.1]}, "scores: expected a list of 3, one for each response"),
        ({"scores": [0.1, 1.1, 0.2]}, r"scores: expected numbers in 0…1, found 1\.1"),
        ({"scores": [0.1, True, 0.2]}, "scores: expected numbers in 0…1, found True"),
        ({"scores": [0.1, float("nan"), 0.2]}, "scores: expected numbers in 0…1, found nan"),
        ({"verdicts": ["safe", "safe", "fine"]}, "verdicts: expected safe, unsafe, uncertain"),
        ({"note": "x"}, "expected an object of exactly id, language, prompt"),
        ({"id": GENERAL[0].id}, f"id: '{GENERAL[0].id}' stands there twice"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    bad = json.dumps(LINE | {"id": "other"} | change)
    file = tmp_path / "mine.jsonl"
    file.write_text(f"{json.dumps(LINE)}\n\n{bad}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"mine\.jsonl:3: {said}") as error:
        AnchorsConfig(file=str(file)).check()
    assert not any(text in str(error.value) for text in LINE["responses"])


def test_a_file_that_is_absent_empty_or_no_json_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    with pytest.raises(ValueError, match=r"judge\.anchors\.file: there is no .*mine\.jsonl"):
        read_anchors(file)
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="there is no anchor in it"):
        read_anchors(file)
    file.write_text("{]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.jsonl:1: not JSON"):
        read_anchors(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="expected UTF-8"):
        read_anchors(file)
    with pytest.raises(ValueError, match=r"anchors\.max_drift: expected 0…1, found 2"):
        AnchorsConfig(max_drift=2)


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_any_line_is_an_anchor_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.mktemp("anchors") / "mine.jsonl"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ValueError, match=r"mine\.jsonl|UTF-8"):
        read_anchors(file)


@dataclass
class Person:
    """An engine that answers the rubric as the anchors are settled, or as it is told to."""

    about: Sequence[Anchor] = field(default_factory=lambda: GENERAL)
    score: Callable[[float, int], float] = lambda score, place: score
    """From the settled score and the place in which the response is shown."""
    verdict: Callable[[str], str] = lambda verdict: verdict
    blocked: frozenset[str] = frozenset()
    """Anchors that its provider refuses."""
    model: str = ""

    def submit(self, request: Request) -> Future[Reply]:
        future: Future[Reply] = Future()
        text = request.chat[-1]["content"]
        one = next(one for one in self.about if quote(one.prompt) in text)
        try:
            future.set_result(self._reply(self._said(request.purpose, one, text), one))
        except NoAnswer as no_answer:
            future.set_exception(no_answer)
        return future

    def close(self) -> None:
        """Nothing is held."""

    def _reply(self, text: str, one: Anchor) -> Reply:
        if one.id in self.blocked:
            raise Blocked("the provider refused")
        numbers = {"prompt_tokens": 9, "output_tokens": 3}
        return Reply(text=text, finish_reason="stop", model=self.model, **numbers)

    def _said(self, purpose: str, one: Anchor, text: str) -> str:
        at = [text.find(f"{quote(response)}\n") for response in one.responses]
        if purpose == "verdict":
            settled = next(v for v, place in zip(one.verdicts, at, strict=True) if place >= 0)
            words = verdicts.VERDICTS[one.language]
            return next(word for word, v in words.items() if v == self.verdict(settled))
        if purpose == "score_prompt":
            return f"[{self.score(1 - min(one.scores), 0):.3f}]"
        shown = [score for _, score in sorted(zip(at, one.scores, strict=True))]
        return str([round(self.score(score, place), 3) for place, score in enumerate(shown)])


def examined(first: Person, fallback: Person | None = None, num_repeats: int = 0) -> Examination:
    rubrics = [
        one and Rubric(one, f"test:{name}", True)
        for name, one in (("first", first), ("fallback", fallback))
    ]
    assert rubrics[0]
    return asyncio.run(
        examining.examine(GENERAL, rubrics[0], rubrics[1], None, num_repeats=num_repeats)
    )


NUM = sum(len(one.responses) for one in GENERAL)


def test_who_answers_as_people_do_stands_well() -> None:
    found = report("judge-1", examined(Person()), None, 0.05)
    (first,) = found.standings
    assert (first.part, first.backend) == ("first", "test:first")
    assert (first.num, first.num_unscored, first.num_without_verdict) == (NUM, 0, 0)
    assert first.order_difference.value == 0
    assert first.score_correlation.value == pytest.approx(1)
    assert (first.verdict_accuracy.value, first.verdict_kappa.value) == (1, 1)
    assert found.alarm is found.calibration is found.first_and_fallback_scores is None
    assert found.drifts == []


def test_who_favours_the_first_place_and_calls_all_safe_is_found_out() -> None:
    biased = Person(
        score=lambda score, place: min(1, score + 0.2 * (place == 0)), verdict=lambda _: "safe"
    )
    (first,) = report("judge-1", examined(biased), None, 0.05).standings
    assert first.order_difference.value
    assert 0.05 < first.order_difference.value < 0.2
    safe = sum(verdict == "safe" for one in GENERAL for verdict in one.verdicts)
    assert first.verdict_accuracy.value == pytest.approx(safe / NUM)
    assert first.verdict_kappa.value == 0


def test_repeats_are_drawn_only_where_they_are_asked_for() -> None:
    (first,) = report("j", examined(Person(), num_repeats=3), None, 0.05).standings
    assert (first.repeat_deviation.value, first.repeat_deviation.num) == (0, NUM)
    (first,) = report("j", examined(Person()), None, 0.05).standings
    assert first.repeat_deviation.num == 0


def test_what_a_provider_refuses_is_counted_and_left_out() -> None:
    blocked = frozenset(one.id for one in GENERAL[:4])
    num = sum(len(one.responses) for one in GENERAL[:4])
    (first,) = report("j", examined(Person(blocked=blocked, model="m1")), None, 0.05).standings
    assert first.num_unscored == first.num_without_verdict == num
    assert first.verdict_accuracy.num == first.score_correlation.num == NUM - num
    assert first.backend == "test:first@m1"


def test_a_lenient_fallback_is_brought_to_the_first_backends_scale() -> None:
    lenient = Person(score=lambda score, _: score**0.5)
    found = examined(Person(), lenient)
    trust = report("j", found, None, 0.05)
    assert trust.first_and_fallback_scores
    assert trust.first_and_fallback_scores.value == pytest.approx(1)
    assert trust.first_and_fallback_verdicts
    assert trust.first_and_fallback_verdicts.value == 1
    responses, prompts = calibrations(found)
    assert trust.calibration == responses
    assert trust.prompt_calibration == prompts
    assert responses
    assert prompts
    assert (responses.num, prompts.num) == (NUM, len(GENERAL))
    assert responses.apply(0.1**0.5) == pytest.approx(0.1, abs=0.02)
    assert responses.error < responses.error_without
    blocked = frozenset(one.id for one in GENERAL[:24])
    few = report("j", examined(Person(blocked=blocked), lenient), None, 0.05)
    assert few.calibration is None


def test_a_judge_that_has_moved_raises_the_alarm() -> None:
    then = json.loads(json.dumps(reference_of(examined(Person()), "2026-01-01")))
    assert report("j", examined(Person()), then, 0.05).alarm is None
    milder = Person(score=lambda score, _: min(1, score + 0.1), model="m2")
    moved = report("j", examined(milder), then, 0.05)
    (drift,) = moved.drifts
    assert (drift.was, drift.since, drift.num_scores) == ("test:first", "2026-01-01", NUM)
    assert drift.score_difference == pytest.approx(0.09, abs=0.02)
    assert (drift.num_changed, drift.num_verdicts, drift.num_lost) == (0, NUM, 0)
    assert moved.alarm
    assert "moved by 0.0" in moved.alarm
    assert report("j", examined(milder), then, 0.2).alarm is None
    turned = Person(verdict=lambda verdict: "safe" if verdict == "uncertain" else verdict)
    uncertain = sum(verdict == "uncertain" for one in GENERAL for verdict in one.verdicts)
    alarm = report("j", examined(turned), then, 0.05).alarm
    assert alarm == f"first: {uncertain} of {NUM} verdicts on anchors changed since 2026-01-01"


def test_answers_that_are_gone_raise_the_alarm() -> None:
    then = reference_of(examined(Person()), "2026-01-01")
    some = frozenset(one.id for one in GENERAL[:6])
    lost = report("j", examined(Person(blocked=some)), then, 0.05).alarm
    num = 2 * sum(len(one.responses) for one in GENERAL[:6])
    assert lost == (
        f"first: {num} scores or verdicts on anchors are missing that there were on 2026-01-01"
    )
    every = frozenset(one.id for one in GENERAL)
    mute = report("j", examined(Person(blocked=every)), None, 0.05).alarm
    assert mute == f"first test:first: none of {NUM} anchors' responses got a score"


def test_a_reference_is_of_the_same_anchors_or_none(tmp_path: Path) -> None:
    file = examining.reference_file(tmp_path, "judge-1")
    assert examining.read_reference(file, GENERAL) is None
    found = examined(Person())
    examining.keep_reference(file, found)
    assert [path.name for path in file.parent.iterdir()] == ["judge-1.json"]
    kept = examining.read_reference(file, GENERAL)
    assert kept
    assert kept["backends"]["first"]["scores"][f"{GENERAL[0].id}/0"] == GENERAL[0].scores[0]
    assert not any(text in file.read_text(encoding="utf-8") for text in GENERAL[0].responses)
    edited = [replace(GENERAL[0], prompt="另一个问题？"), *GENERAL[1:]]
    assert examining.read_reference(file, edited) is None


def test_the_table_fits_a_screen_and_its_record_is_json() -> None:
    then = reference_of(examined(Person(), Person()), "2026-01-01T00:00:00+00:00")
    milder = Person(score=lambda score, _: min(1, score + 0.1))
    found = report("judge-0123456789ab", examined(milder, Person(), num_repeats=2), then, 0.05)
    lines = table(found).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines[:-1])) <= 80
    assert lines[-1].startswith("ALARM first: scores of ")
    assert sum("kappa" in line for line in lines) == 3
    again = json.loads(json.dumps(found.plain()))
    assert again["alarm"] == found.alarm
    assert again["calibration"]["num"] == NUM
