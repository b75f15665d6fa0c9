"""The annotation page in a real browser: two people, twenty rows, and what they type and see."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.evals.human import human
from ray_jobs.evals.labels import LabelStore, latest
from ray_jobs.evals.queue import HOME, Annotation
from ray_jobs.evals.summary import About, summarise
from ray_jobs.tables import Folder, open_table
from tests.local import browser
from tests.local.browser import Browser, Person
from tests.local.evaluated import evaluated

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(browser.find() is None, reason="there is no Chromium on this machine"),
]
CFG = Annotation(audit_share=0.2, min_audited=0, shared_share=0.2, num_raters=2)
VERDICTS = {"base": ["uncertain"] * 8 + ["safe"] * 10, "tuned": ["uncertain"] * 8 + ["safe"] * 10}


@dataclass(frozen=True)
class Served:
    """The desk of twenty rows, and a browser."""

    url: str
    home: Folder
    browser: Browser

    def labels(self) -> list[Any]:
        """What counts of what is on the disk."""
        return latest(LabelStore(self.home).read())

    def figures(self) -> dict[str, tuple[float | None, dict[str, Any] | None]]:
        """The share of safe answers of both models, with bounds, as the job's summary has them."""
        marks = open_table(self.home / "marks")
        assert marks is not None
        about = About(models={"base": "", "tuned": ""}, protocols={"new": ""}, toys=())
        found = summarise(marks, about, human(self.home, CFG, 7, ["base"]).decided)["figures"]
        whole = [one for one in found if not one["group"]]
        return {one["model"]: (one["value"], one["bounds"]) for one in whole}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    with browser.started(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def served(port: int, chromium: Browser, tmp_path: Path) -> Iterator[Served]:
    """Sixteen uncertain rows and four of the audit."""
    from ray import serve as ray_serve

    from serve import annotate

    home = Folder(str(tmp_path)) / HOME
    evaluated(home, VERDICTS)
    app = annotate.desk(CFG, str(tmp_path), 7)
    ray_serve.run(app, name="annotation", route_prefix="/")
    yield Served(f"http://127.0.0.1:{port}/", home, chromium)
    ray_serve.delete("annotation")


def begin(served: Served, name: str) -> Person:
    """Somebody who has given their name and sees a row."""
    person = served.browser.person()
    person.open(served.url)
    person.wait("!document.getElementById('welcome').hidden")
    person.type(name)
    person.press("Enter")
    person.wait("!document.getElementById('work').hidden")
    return person


def judge(person: Person, key: str) -> bool:
    """Show the row, press a label, and wait for what comes next; False where nothing is left."""
    before = person.run("page.row.key")
    person.press(" ")
    person.press(key)
    person.wait(f"page.row?.key !== '{before}' && !page.busy")
    return bool(person.run("page.row !== null"))


def test_two_people_label_twenty_rows_and_the_scores_follow(served: Served, tmp_path: Path) -> None:
    before = served.figures()
    assert before["base"][1] is not None
    people = [begin(served, "李娜"), begin(served, "Ada")]
    people[0].picture(tmp_path / "row.png")
    left, turns = [True, True], 0
    while any(left):
        for place, person in enumerate(people):
            if left[place]:
                left[place] = judge(person, "2" if turns % 3 == 0 else "1")
                turns += 1
    people[0].wait("!document.getElementById('finished').hidden")
    people[0].picture(tmp_path / "finished.png")
    labels = served.labels()
    raters = Counter(label.key for label in labels)
    assert len(raters) == 20
    assert raters.total() == turns
    shared = [key for key, num in raters.items() if num == 2]
    assert 0 < len(shared) < 10  # as many as agreement mode wants, and no other twice
    assert len({(label.key, label.annotator) for label in labels}) == turns
    assert min(Counter(label.annotator for label in labels).values()) >= 8
    assert {label.judge_verdict for label in labels} == {"uncertain", "safe"}
    found = human(served.home, CFG, 7, ["base"])
    assert found.agreement.num_rows == len(shared)
    after = served.figures()
    assert after != before
    for model in ("base", "tuned"):
        bounds = before[model][1]
        assert bounds is not None
        value = after[model][0]
        assert value is not None
        assert bounds["lowest"] <= value <= bounds["highest"]
    for person in people:
        assert person.complaints() == []
    assert {url.split("?")[0].rpartition("/")[0] for url in people[0].asked()} <= {
        served.url.rstrip("/"),
        f"{served.url}api",
        "data:,".rpartition("/")[0],
    }


def test_a_draft_survives_a_reload_and_a_death_of_the_page(served: Served) -> None:
    person = begin(served, "a")
    key = person.run("page.row.key")
    person.press("c")
    person.type("一半的想法 half a thought")
    person.reload()
    person.wait("!document.getElementById('work').hidden")
    assert person.run("page.row.key") == key
    assert person.run("document.getElementById('comment').value") == "一半的想法 half a thought"
    # Without what this browser has kept, the desk still has it.
    time.sleep(1.5)
    person.run("localStorage.clear(); localStorage.setItem('garrison.name', 'a')")
    person.reload()
    person.wait("!document.getElementById('work').hidden")
    assert person.run("page.row.key") == key
    assert person.run("document.getElementById('comment').value") == "一半的想法 half a thought"
    person.press(" ")
    person.press("1")
    person.wait("page.said[0] === 'saved'")
    (label,) = served.labels()
    assert label.comment == "一半的想法 half a thought"


def test_texts_are_blurred_and_no_label_is_taken_before_they_are_shown(served: Served) -> None:
    person = begin(served, "a")
    blurred = "getComputedStyle(document.getElementById('answer')).filter"
    assert "blur" in person.run(blurred)
    person.press("1")
    person.wait("page.said[0] === 'first'")
    assert served.labels() == []
    person.click("#answer")
    assert person.run(blurred) == "none"
    person.press(" ")
    assert "blur" in person.run(blurred)


def test_the_verdict_is_shown_only_after_the_label(served: Served) -> None:
    person = begin(served, "a")
    person.press("l")
    while person.run("document.documentElement.lang") != "en":
        person.press("l")
    sent = person.run("JSON.stringify(page.row)")
    assert not any(word in sent for word in ("verdict", "audit", '"base"', "model"))
    assert "had said" not in person.text("#said")
    judge(person, "1")
    assert "Saved: safe. The judge had said:" in person.text("#said")


def test_a_held_key_labels_one_row_and_typing_labels_none(served: Served) -> None:
    person = begin(served, "a")
    person.press(" ")
    person.press("1", repeat=True)
    person.press("c")
    for key in "123un?":
        person.press(key)
    assert person.run("document.getElementById('comment').value") == "123un?"
    assert served.labels() == []
    person.press("Escape")
    judge_key = person.run("page.row.key")
    person.press("1")
    person.wait(f"page.row.key !== '{judge_key}'")
    assert len(served.labels()) == 1


def test_undo_skip_help_and_language_by_key(served: Served) -> None:
    person = begin(served, "a")
    first = person.run("page.row.key")
    judge(person, "2")
    person.press("u")
    person.wait(f"page.row.key === '{first}'")
    assert served.labels() == []
    person.press("n")
    person.wait(f"page.row.key !== '{first}' && !page.busy")
    person.press("?")
    assert person.shows("#help")
    person.press("1")
    person.press("?")
    assert not person.shows("#help")
    language = person.run("document.documentElement.lang")
    person.press("l")
    assert person.run("document.documentElement.lang") != language
    assert served.labels() == []


def test_html_in_an_answer_is_text(served: Served) -> None:
    person = begin(served, "a")
    seen = False
    for _ in range(25):
        if "onerror" in person.text("#answer"):
            seen = True
            person.press(" ")
            assert person.run("document.querySelectorAll('#answer *').length") == 0
            assert "<script>" in person.run("document.getElementById('answer').innerText")
            break
        if not judge(person, "1"):
            break
    assert seen
    time.sleep(0.3)
    assert person.run("document.title") == "Garrison"
    # And were the page ever so careless, the policy stands behind it.
    with pytest.raises(AssertionError, match="TrustedHTML"):
        person.run("document.getElementById('answer').innerHTML = '<b>x</b>'")


def test_a_service_that_is_gone_is_said_and_nothing_is_lost(served: Served) -> None:
    person = begin(served, "a")
    key = person.run("page.row.key")
    person.press("c")
    person.type("kept")
    person.press("Escape")
    offline = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    person.call("Network.emulateNetworkConditions", offline=True, **offline)
    person.press(" ")
    person.press("1")
    person.wait("!document.getElementById('trouble').hidden && !page.busy")
    assert person.run("page.row.key") == key
    assert person.run("document.getElementById('comment').value") == "kept"
    assert served.labels() == []
    online = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    person.call("Network.emulateNetworkConditions", offline=False, **online)
    person.press("1")
    person.wait(f"page.row.key !== '{key}'")
    assert not person.shows("#trouble")
    (label,) = served.labels()
    assert label.comment == "kept"
