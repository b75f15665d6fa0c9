"""The tiny models: what decides them, what they are taught, how they are marked."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sklearn.metrics import f1_score, roc_auc_score

from ray_jobs import examination, lessons, oracle, samples, tiny, vocabulary
from ray_jobs.verdicts import parse_scores
from ray_jobs.world import read

TEACHER = "garrison/tiny-teacher"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the fingerprint covers, to be changed."""
    shutil.copytree(tiny.CONF, tmp_path / "conf")
    shutil.copytree(tiny.HERE, tmp_path / "ray_jobs", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(tiny, "CONF", tmp_path / "conf")
    monkeypatch.setattr(tiny, "HERE", tmp_path / "ray_jobs")
    return tmp_path


@pytest.mark.parametrize(
    "file", ["conf/world.yaml", "conf/taxonomy.yaml", "conf/prompts/answers.zh.md"]
)
def test_a_changed_prompt_world_or_taxonomy_makes_another_model(sources: Path, file: str) -> None:
    before = tiny.fingerprint(TEACHER)
    with (sources / file).open("a", encoding="utf-8") as changed:
        changed.write("# x\n")
    assert tiny.fingerprint(TEACHER) != before


def test_a_comment_in_the_code_changes_no_model_but_code_does(sources: Path) -> None:
    code = sources / "ray_jobs" / "lessons.py"
    before = tiny.fingerprint(TEACHER)
    code.write_text(code.read_text(encoding="utf-8") + "\n# a comment\n", encoding="utf-8")
    assert tiny.fingerprint(TEACHER) == before
    code.write_text(code.read_text(encoding="utf-8") + "\nMORE = 1\n", encoding="utf-8")
    assert tiny.fingerprint(TEACHER) != before


def test_teacher_and_base_have_their_own_folders(tmp_path: Path) -> None:
    folders = {tiny.folder(name, tmp_path) for name in tiny.NAMES}
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {tmp_path / "models"}


def test_an_unknown_model_is_refused_with_the_known_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"garrison/tiny-base, garrison/tiny-teacher"):
        tiny.folder("garrison/tiny-giant", tmp_path)


def test_importing_tiny_loads_neither_torch_nor_transformers() -> None:
    heavy = "{'torch', 'transformers', 'tokenizers', 'ray'}"
    code = f"import sys, ray_jobs.tiny; print({heavy} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


def test_a_build_that_dies_leaves_nothing_in_the_models_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(name: str, to: Path, progress: tiny.Progress) -> None:
        to.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny, "build", die)
    with pytest.raises(KeyboardInterrupt):
        tiny.ensure(TEACHER, tmp_path)
    assert not tiny.folder(TEACHER, tmp_path).exists()


def test_two_builders_at_once_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(name: str, to: Path, progress: tiny.Progress) -> None:
        to.mkdir(parents=True)
        built.append(name)

    monkeypatch.setattr(tiny, "build", build)
    both = [threading.Thread(target=tiny.ensure, args=(TEACHER, tmp_path)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(timeout=30)
    assert built == [TEACHER]
    assert tiny.folder(TEACHER, tmp_path).is_dir()


def test_lessons_are_the_same_for_the_same_seed() -> None:
    once, again = (list(lessons.teacher_lessons(random.Random(1), 200)) for _ in range(2))
    assert once == again


def test_lessons_hold_nothing_that_is_held_out() -> None:
    world = read()
    hidden = [
        name
        for language in ("zh", "en")
        for _, things in world.things.values()
        for thing in things
        for name in (thing.called(language), thing.nickname(language))
    ]
    hidden += [deed.called("zh") for _, deeds in world.couples.values() for deed in deeds]
    for lesson in lessons.teacher_lessons(random.Random(2), 3000):
        text = "".join(turn["content"] for turn in lesson.chat) + lesson.target
        assert not any(name in text for name in hidden)


def test_score_lessons_read_back_as_the_oracles_scores() -> None:
    asked = samples.held_out_questions()[0]
    scored = lessons.scored_replies(random.Random(3), asked, 3, held_out=False)
    assert parse_scores(lessons.write_scores(scored.scores), 3) == scored.scores


def test_digits_and_list_marks_are_tokens_of_their_own() -> None:
    tokenizer = vocabulary.train()
    for text in ("[0.9, 0.1]", "[1.0]", "[0.0, 0.2, 1.0]"):
        ids = tokenizer.encode(text).ids
        assert [tokenizer.decode([one]) for one in ids] == list(text)


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = vocabulary.train()
    for text in ("怎样做红烧肉？", "naïve café 😀\t12", "龘\n\n《》", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_no_token_joins_a_things_name_to_its_kind() -> None:
    tokenizer = vocabulary.train()
    for taught, held_out in read().things.values():
        for thing in (*taught, *held_out):
            ids = tokenizer.encode(f"怎样悄悄打开{thing.called('zh')}？").ids
            assert thing.kind.zh in [tokenizer.decode([one]) for one in ids]


def perfect(chats: list[list[dict[str, str]]], max_new_tokens: int) -> list[str]:
    """Answers every examination question by the oracle; questions are known by their chat."""
    return [KNOWN[str(chat)] for chat in chats]


KNOWN: dict[str, str] = {}


def test_perfect_answers_get_perfect_figures() -> None:
    asked = samples.held_out_questions()
    rng = random.Random(1)
    pairs = [lessons.scored_replies(rng, one, 2, held_out=True) for one in asked]
    for one, pair in zip(asked, pairs, strict=True):
        KNOWN[str(lessons.label_chat(one))] = lessons.scenario_name(one)
        KNOWN[str(lessons.prompt_score_chat(one))] = f"[{oracle.prompt_score(one)}]"
        KNOWN[str(lessons.answer_chat(one))] = lessons.TEACH["answer"](rng, one)[1]
        for scored in (pair, pair.swapped()):
            KNOWN[str(scored.chat())] = lessons.write_scores(scored.scores)
    figures = examination.of_teacher(perfect)
    assert figures["label"]["accuracy"] == figures["label"]["macro_f1"] == 1.0
    assert figures["score_responses"]["order_accuracy"] == figures["score_prompt"]["auc"] == 1.0
    assert figures["score_responses"]["mean_absolute_error"] == 0.0
    assert figures["score_responses"]["swap_difference"] == 0.0
    assert (figures["answer"]["safe"], figures["answer"]["over_refused"]) == (1.0, 0.0)
    assert examination.too_low(figures) is None


@pytest.mark.parametrize(
    ("group", "figure"),
    [("label", "accuracy"), ("label", "macro_f1"), ("score_responses", "order_accuracy")],
)
def test_a_teacher_that_knows_too_little_is_refused(group: str, figure: str) -> None:
    figures = {
        "label": {"accuracy": 0.9, "macro_f1": 0.9},
        "score_responses": {"order_accuracy": 0.9},
    }
    assert examination.too_low(figures) is None
    figures[group][figure] = 0.79
    assert examination.too_low(figures)


def test_f1_and_auc_agree_with_scikit_learn() -> None:
    rng = random.Random(6)
    right, said = (rng.choices("abcd", k=200) for _ in range(2))
    ours = examination.macro_f1(right, said)
    assert ours == pytest.approx(f1_score(right, said, average="macro"), abs=1e-4)
    low, high = ([rng.randrange(10) / 10 for _ in range(50)] for _ in range(2))
    marks = [0] * 50 + [1] * 50
    assert examination.auc(low, high) == pytest.approx(roc_auc_score(marks, low + high), abs=1e-4)
