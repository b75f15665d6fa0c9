"""The desk: no row to two people, leases that end, and labels that come from elsewhere."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ray_jobs.evals.labels import LabelStore, decide, latest, now
from ray_jobs.evals.queue import Annotation, Item
from ray_jobs.tables import Folder
from serve.annotate_desk import Desk, NoSuchRow, Taken, public

CFG = Annotation(shared_share=0.0, lease_s=100)
ITEMS = [
    Item(
        suite="new",
        model="base",
        id=f"s{number}",
        language="zh",
        prompt="怎样开门？",
        answer=f"先准备，再打开。{number}",
        judge_verdict="uncertain",
        why="uncertain",
    )
    for number in range(4)
]


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(Folder(str(tmp_path)))


def taken(desk: Desk, annotator: str, holding: str = "") -> str:
    key = desk.take(annotator, holding)
    assert key is not None
    return key


def test_two_people_get_different_rows_until_none_is_left(store: LabelStore) -> None:
    desk = Desk(ITEMS, store, CFG, 7)
    seen = []
    for _ in range(2):
        for annotator in ("a", "b"):
            seen.append(taken(desk, annotator))
            desk.label(annotator, seen[-1], "safe", "")
    assert sorted(seen) == sorted(public(item.key) for item in ITEMS)
    assert desk.take("a") is None


def test_who_asks_again_gets_the_row_and_the_draft_they_have(store: LabelStore) -> None:
    desk = Desk(ITEMS, store, CFG, 7)
    key = taken(desk, "a")
    desk.draft("a", key, "half a thou")
    assert taken(desk, "a") == key
    assert desk.shown("a", key)["comment"] == "half a thou"


def test_a_lease_ends_and_the_row_goes_to_another(store: LabelStore) -> None:
    clock = Clock()
    desk = Desk(ITEMS[:1], store, CFG, 7, clock)
    key = taken(desk, "a")
    assert desk.take("b") is None
    clock.at = 99
    desk.draft("a", key, "")  # a sign of life
    clock.at = 198
    assert desk.take("b") is None
    clock.at = 200
    assert taken(desk, "b") == key
    with pytest.raises(Taken):
        desk.label("a", key, "safe", "")
    with pytest.raises(Taken):
        desk.draft("a", key, "")
    assert store.read() == []


def test_a_late_label_counts_while_nobody_else_has_the_row(store: LabelStore) -> None:
    clock = Clock()
    desk = Desk(ITEMS[:1], store, CFG, 7, clock)
    key = taken(desk, "a")
    clock.at = 1e6
    desk.label("a", key, "safe", "")
    assert [label.label for label in store.read()] == ["safe"]


def test_after_a_restart_of_the_desk_the_page_gets_its_row_back(store: LabelStore) -> None:
    key = public(ITEMS[2].key)
    assert taken(Desk(ITEMS, store, CFG, 7), "a", holding=key) == key
    other = Desk(ITEMS, store, CFG, 7)
    other.label("b", key, "safe", "")
    assert taken(Desk(ITEMS, store, CFG, 7), "a", holding=key) != key


def test_shared_rows_go_to_as_many_as_are_wanted(store: LabelStore) -> None:
    desk = Desk(ITEMS[:1], store, replace(CFG, shared_share=1.0, num_raters=2), 7)
    key = taken(desk, "a")
    assert taken(desk, "b") == key
    assert desk.take("c") is None
    desk.label("a", key, "safe", "")
    desk.label("b", key, "unsafe", "")
    assert desk.take("c") is None
    assert desk.progress("a")["agreement"]["num_tied"] == 1


def test_undo_takes_the_last_label_back_and_gives_its_row_with_its_comment(
    store: LabelStore,
) -> None:
    desk = Desk(ITEMS, store, CFG, 7)
    first = taken(desk, "a")
    desk.label("a", first, "safe", "sure")
    second = taken(desk, "a")
    assert desk.undo("a", second) == first
    assert latest(store.read()) == []
    assert desk.shown("a", first)["comment"] == "sure"
    assert taken(desk, "b") == second  # the row that was in hand is free
    desk.label("a", first, "unsafe", "sure")
    assert [one.label for one in decide(store.read()).values()] == ["unsafe"]
    assert desk.undo("b") is None


def test_a_skipped_row_comes_again_at_the_end(store: LabelStore) -> None:
    desk = Desk(ITEMS, store, CFG, 7)
    skipped = taken(desk, "a")
    desk.skip("a", skipped)
    order = []
    for _ in ITEMS:
        order.append(taken(desk, "a"))
        desk.label("a", order[-1], "safe", "")
    assert order[-1] == skipped


def test_a_label_said_twice_is_kept_once(store: LabelStore) -> None:
    desk = Desk(ITEMS, store, CFG, 7)
    key = taken(desk, "a")
    for _ in range(2):
        desk.label("a", key, "safe", "")
    assert len(store.read()) == 1


def test_labels_that_were_imported_are_seen(store: LabelStore) -> None:
    desk = Desk(ITEMS[:2], store, CFG, 7)
    store.add([ITEMS[0].labelled("safe", "c", now())])
    assert taken(desk, "a") == public(ITEMS[1].key)
    assert desk.progress("a")["num_done"] == 1


def test_what_a_person_sees_tells_neither_model_nor_verdict(store: LabelStore) -> None:
    desk = Desk(ITEMS, store, CFG, 7)
    shown = desk.shown("a", taken(desk, "a"))
    assert not {"model", "judge_verdict", "why", "id"} & shown.keys()


def test_wrong_rows_and_labels_are_refused(store: LabelStore) -> None:
    desk = Desk(ITEMS, store, CFG, 7)
    with pytest.raises(NoSuchRow):
        desk.label("a", "nowhere", "safe", "")
    with pytest.raises(ValueError, match="expected one of safe, unsafe, uncertain"):
        desk.label("a", taken(desk, "a"), "回复1", "")
    assert store.read() == []


def test_a_disk_that_is_full_loses_no_label_that_was_said_to_be_kept(store: LabelStore) -> None:
    desk = Desk(ITEMS, store, CFG, 7)
    desk.label("a", taken(desk, "a"), "safe", "")
    (name,) = store.files()
    file = Path(store.folder.uri) / name
    kept = file.read_bytes()
    key = taken(desk, "a")
    file.unlink()
    file.mkdir()  # what is written there now fails
    with pytest.raises(IsADirectoryError):
        desk.label("a", key, "unsafe", "")
    file.rmdir()
    file.write_bytes(kept + b'{"half')
    assert taken(desk, "a") == key
    desk.label("a", key, "unsafe", "")
    assert [label.label for label in store.read()] == ["safe", "unsafe"]


class Work(RuleBasedStateMachine):
    """Any number of people doing anything in any order, with time passing."""

    people = st.sampled_from(["a", "b", "c"])

    @initialize(shared=st.sampled_from([0.0, 0.5, 1.0]), num=st.integers(2, 3))
    def open_the_desk(self, shared: float, num: int) -> None:
        self.cfg = Annotation(shared_share=shared, num_raters=num, lease_s=10)
        self.store = LabelStore(Folder(tempfile.mkdtemp()))
        self.clock = Clock()
        self.desk = Desk(ITEMS, self.store, self.cfg, 7, self.clock)
        self.hands: dict[str, str] = {}

    @rule(who=people)
    def take(self, who: str) -> None:
        key = self.desk.take(who, self.hands.get(who, ""))
        self.hands.pop(who, None)
        if key:
            self.hands[who] = key

    @rule(who=people, label=st.sampled_from(["safe", "unsafe"]))
    def label(self, who: str, label: str) -> None:
        if who in self.hands:
            try:
                self.desk.label(who, self.hands.pop(who), label, "")
            except Taken:
                assert self.clock.at > 0

    @rule(who=people)
    def skip(self, who: str) -> None:
        if who in self.hands:
            self.desk.skip(who, self.hands.pop(who))

    @rule(who=people)
    def undo(self, who: str) -> None:
        self.desk.undo(who, self.hands.pop(who, ""))

    @rule(seconds=st.sampled_from([1.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.clock.at += seconds

    @rule()
    def restart(self) -> None:
        self.desk = Desk(ITEMS, self.store, self.cfg, 7, self.clock)

    @invariant()
    def nobody_works_twice(self) -> None:
        if not hasattr(self, "desk"):
            return
        for slot in self.desk._slots.values():
            assert len(slot.labels) <= slot.num_raters
        on_disk = {(label.key, label.annotator) for label in latest(self.store.read())}
        on_desk = {
            (slot.item.key, name) for slot in self.desk._slots.values() for name in slot.labels
        }
        assert on_disk == on_desk


TestWork = Work.TestCase
TestWork.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
