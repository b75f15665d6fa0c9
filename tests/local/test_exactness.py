"""What our engine says is what transformers says, in float32 on the same weights: the seam's raw
texts, prefills and likelihoods, lm-evaluation-harness's own `hf` model, and the letters' logits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import config, tiny
from ray_jobs.engines.seam import Reply, Request, Sampling
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.engines.vllm_engine import VllmEngine
from ray_jobs.evals import capability, harness
from ray_jobs.evals.asking_models import question_of
from ray_jobs.evals.harness import Benchmark, Harness
from ray_jobs.evals.suite import Suite
from ray_jobs.outcomes import Refused
from ray_jobs.prompts import Chat
from ray_jobs.tables import Row

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "capability"
LENGTH = 2048
NOISE = 5e-5
"""Of log-probabilities: two float32 programs add in other orders."""


@pytest.fixture(scope="module")
def placed() -> VllmConfig:
    tiny.ensure("garrison/tiny-base", config.cache())
    engine = VllmConfig(
        model="garrison/tiny-base",
        dtype="float32",
        max_model_len=LENGTH,
        max_num_seqs=16,
        max_num_batched_tokens=LENGTH,
        enforce_eager=True,
    )
    return config.placed(engine)


@pytest.fixture(scope="module")
def engine(placed: VllmConfig) -> Iterator[VllmEngine]:
    engine = placed.open()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(placed: VllmConfig) -> tuple[Any, Any]:
    """The model and its tokenizer, as transformers has them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(placed.model, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(placed.tokenizer)


def last_logprobs(reference: tuple[Any, Any], tokens: list[int]) -> list[float]:
    import torch

    with torch.no_grad():
        logits = reference[0](torch.tensor([tokens])).logits[0, -1]
    return torch.log_softmax(logits, -1).tolist()  # type: ignore[no-any-return]


def greedy(reference: tuple[Any, Any], tokens: list[int], num: int) -> list[int]:
    """What transformers writes next, the end excluded."""
    written: list[int] = []
    for _ in range(num):
        logprobs = last_logprobs(reference, tokens + written)
        best = max(range(len(logprobs)), key=logprobs.__getitem__)
        if best == reference[1].eos_token_id:
            break
        written.append(best)
    return written


def ask(engine: VllmEngine, chat: Chat, num: int = 12, **more: Any) -> Reply:
    request = Request(chat=chat, sampling=Sampling(max_tokens=num), seed=1, **more)
    return engine.submit(request).result(timeout=120)


USER = [{"role": "user", "content": "12 加 7 等于多少？"}]


def test_a_raw_text_is_gone_on_with_as_transformers_does(
    engine: VllmEngine, reference: tuple[Any, Any]
) -> None:
    tokenizer = reference[1]
    text = "问题：12 加 7 等于多少？\n答案："
    said = ask(engine, [{"role": "user", "content": text}], raw=True)
    expected = greedy(reference, tokenizer.encode(text), 12)
    assert said.text == tokenizer.decode(expected, skip_special_tokens=True)
    assert said.prompt_tokens == len(tokenizer.encode(text))


def test_an_answer_that_has_begun_is_gone_on_with(
    engine: VllmEngine, reference: tuple[Any, Any]
) -> None:
    tokenizer = reference[1]
    chat = [*USER, {"role": "assistant", "content": "答案是"}]
    text = tokenizer.apply_chat_template(USER, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer.encode(text + "答案是", add_special_tokens=False)
    said = ask(engine, chat)
    assert said.prompt_tokens == len(tokens)
    expected = greedy(reference, tokens, 12)
    assert said.text == tokenizer.decode(expected, skip_special_tokens=True)
    empty = ask(engine, [*USER, {"role": "assistant", "content": ""}])
    assert empty.text == ask(engine, USER).text


def test_an_answer_does_not_end_before_min_tokens(engine: VllmEngine) -> None:
    assert ask(engine, USER, 40).output_tokens < 40
    assert ask(engine, USER, 40, min_tokens=40).output_tokens == 40


def test_continuations_are_as_likely_as_transformers_finds_them(
    engine: VllmEngine, reference: tuple[Any, Any]
) -> None:
    tokenizer = reference[1]
    text = "问题：12 加 7 等于多少？\n答案："
    texts = ("19", " 19 左右", "二十，不是十九。")
    said = ask(engine, [{"role": "user", "content": text}], raw=True, continuations=texts)
    for continuation, found in zip(texts, said.continued, strict=True):
        before, whole = tokenizer.encode(text), tokenizer.encode(text + continuation)
        sums, is_greedy = 0.0, True
        for end in range(len(before), len(whole)):
            logprobs = last_logprobs(reference, whole[:end])
            sums += logprobs[whole[end]]
            is_greedy &= max(logprobs) == logprobs[whole[end]]
        assert found.token_count == len(whole) - len(before)
        assert found.logprob_sum == pytest.approx(sums, abs=NOISE)
        assert found.is_greedy == is_greedy
    best = greedy(reference, tokenizer.encode(text), 3)
    likely = (tokenizer.decode(best),)
    told = ask(engine, [{"role": "user", "content": text}], raw=True, continuations=likely)
    assert told.continued[0].is_greedy


def test_what_is_too_long_is_an_outcome_and_the_engine_lives_on(engine: VllmEngine) -> None:
    long = [{"role": "user", "content": "问" * 3 * LENGTH}]
    with pytest.raises(Refused, match=rf"tokens, max_model_len is {LENGTH}"):
        ask(engine, long)
    with pytest.raises(Refused, match=rf"tokens, max_model_len is {LENGTH}"):
        ask(engine, long, continuations=("A", "B"))
    with pytest.raises(Refused, match=rf"max_tokens {LENGTH}, max_model_len is {LENGTH}"):
        ask(engine, long, LENGTH, cut_left=True)
    assert ask(engine, long, cut_left=True).prompt_tokens == LENGTH - 12
    cut = ask(engine, long, raw=True, cut_left=True, continuations=(" A", " B"))
    assert len(cut.continued) == 2
    nearly = ask(engine, [{"role": "user", "content": "问" * (LENGTH - 60)}], LENGTH, raw=True)
    assert nearly.prompt_tokens + nearly.output_tokens <= LENGTH
    assert ask(engine, USER).output_tokens > 0


def answered(engine: VllmEngine, suite: Suite) -> list[Row]:
    """A suite's rows with the engine's answers, as the job's tables have them."""
    question = question_of(suite, suite.name)
    rows = list(suite.samples())
    futures = []
    assert question.shape is not None
    assert question.read is not None
    for row in rows:
        request = Request(
            chat=question.render(row), sampling=question.sampling, seed=1, stop=question.stop
        )
        futures.append(engine.submit(question.shape(row, request)))
    replies = [future.result(timeout=300) for future in futures]
    return [
        {**row, **question.read(reply, row), "prompt_tokens": reply.prompt_tokens}
        for row, reply in zip(rows, replies, strict=True)
    ]


BENCHMARKS = {
    "gsm8k": Benchmark(tasks=("gsm8k",), files=f"{DATA}/gsm8k/{{split}}.jsonl", limit=2),
    "gsm8k-text": Benchmark(
        tasks=("gsm8k",), files=f"{DATA}/gsm8k/{{split}}.jsonl", limit=2, num_fewshot=1, chat=False
    ),
    "mmlu": Benchmark(
        tasks=("mmlu_anatomy", "mmlu_abstract_algebra"),
        files=f"{DATA}/mmlu/{{subject}}_{{split}}.jsonl",
        num_fewshot=2,
        limit=6,
    ),
    "cmmlu": Benchmark(
        tasks=("cmmlu_agronomy",),
        files=f"{DATA}/cmmlu/{{subject}}_{{split}}.jsonl",
        num_fewshot=5,
        limit=8,
        chat=False,
        language="zh",
    ),
    "ceval": Benchmark(
        tasks=("ceval-valid_computer_network",),
        files=f"{DATA}/ceval/{{subject}}_{{split}}.jsonl",
        num_fewshot=3,
        limit=8,
        language="zh",
    ),
}


class Lm:
    """lm-eval's `hf` model, made once."""

    made: Any = None


def hf_samples(placed: VllmConfig, cfg: Benchmark, name: str, tmp_path: Path) -> list[Row]:
    """What lm-eval logs of its own run: its `hf` model, its YAML overrides, its files."""
    import datasets
    import lm_eval
    import yaml
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    datasets.config.HF_DATASETS_CACHE = tmp_path / "cache"
    Lm.made = Lm.made or HFLM(
        pretrained=placed.model,
        tokenizer=placed.tokenizer,
        dtype="float32",
        device="cpu",
        batch_size=1,
        max_length=LENGTH,
    )
    known = harness.known_of(cfg.tasks[0])
    assert known is not None
    built_in = Path(lm_eval.__file__).parent / "tasks" / known.folder
    for task in cfg.tasks:
        config_file = next(
            file
            for file in built_in.glob("*.yaml")
            if yaml.safe_load(file.read_text(encoding="utf-8")).get("task") == task
        )
        subject = task.partition("_")[2]
        splits = {"gsm8k": ("train", "test"), "ceval": ("dev", "val")}
        files = {
            split: cfg.files.format(subject=subject, split=split)
            for split in splits.get(name.partition("-")[0], ("dev", "test"))
        }
        override = {
            "include": str(config_file),
            "task": task,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files},
        }
        (tmp_path / f"{task}.yaml").write_text(yaml.safe_dump(override), encoding="utf-8")
    found = lm_eval.simple_evaluate(
        model=Lm.made,
        tasks=list(cfg.tasks),
        num_fewshot=cfg.num_fewshot,
        limit=cfg.limit,
        bootstrap_iters=0,
        apply_chat_template=cfg.chat,
        fewshot_as_multiturn=cfg.chat,
        task_manager=TaskManager(include_defaults=False, include_path=str(tmp_path)),
    )
    return [
        {**sample, "id": f"{task}/{sample['doc_id']}"}
        for task in cfg.tasks
        for sample in found["samples"][task]
    ]


def our_marks(suite: Suite, rows: Sequence[Row]) -> dict[tuple[str, str], float | None]:
    return {(row["id"], mark.measure): mark.score for row in rows for mark in suite.marks(row)}


@pytest.mark.shared
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_sample_is_answered_and_marked_as_by_lm_evals_own_hf_model(
    engine: VllmEngine, placed: VllmConfig, name: str, tmp_path: Path
) -> None:
    cfg = BENCHMARKS[name]
    [suite] = harness.suites(Harness(benchmarks={name: cfg}))
    rows = {row["id"]: row for row in answered(engine, suite)}
    theirs = hf_samples(placed, cfg, name, tmp_path)
    assert {sample["id"] for sample in theirs} == rows.keys()
    marks = our_marks(suite, list(rows.values()))
    worst = 0.0
    for sample in theirs:
        row = rows[sample["id"]]
        if row["options"]:
            sums, are_greedy = zip(*(resp[0] for resp in sample["resps"]), strict=True)
            pairs = zip(row["option_logprobs"], sums, strict=True)
            worst = max(worst, *(abs(mine - other) for mine, other in pairs))
            assert json.loads(row["answer"]) == list(are_greedy)
        else:
            assert row["answer"] == sample["resps"][0][0]
        for metric in sample["metrics"]:
            measure = metric if sample["filter"] == "none" else f"{metric} {sample['filter']}"
            assert marks[row["id"], measure] == sample[metric]
    print(f"{name}: {len(theirs)} samples, log-probabilities within {worst:.1e}")
    assert worst < NOISE
    if name == "gsm8k":
        # Five worked examples are longer than this model's context: cut where lm-eval cuts.
        assert max(row["prompt_tokens"] for row in rows.values()) == LENGTH - 256


@pytest.mark.shared
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.timeout(600)
def test_the_papers_protocol_reads_the_letters_that_transformers_logits_give(
    engine: VllmEngine, reference: tuple[Any, Any]
) -> None:
    tokenizer = reference[1]
    letters = [tokenizer.encode(letter, add_special_tokens=False)[-1] for letter in "ABCD"]
    cfg = capability.Capability(
        mmlu=str(DATA / "mmlu"), cmmlu=str(DATA / "cmmlu"), ceval=str(DATA / "ceval"), limit=2
    )
    num = 0
    for suite in capability.suites(cfg):
        for row in answered(engine, suite):
            chat = json.loads(row["asked"])["chat"]
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            tokens = tokenizer.encode(text, add_special_tokens=False)
            told = last_logprobs(reference, tokens)
            logprobs = [told[letter] for letter in letters]
            assert row["option_logprobs"] == pytest.approx(logprobs, abs=NOISE)
            best = "ABCD"[max(range(4), key=logprobs.__getitem__)]
            marks = list(suite.marks({**row, "outcome": "done"}))
            assert [mark.said for mark in marks] == [best]
            num += 1
    assert num == 2 * 10
