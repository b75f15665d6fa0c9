"""The tiny teacher (Qwen2) and the tiny base (Llama) of the embedded recipe: built at first use,
cached by what decides them.

`python -m ray_jobs.tiny` builds both and prints the teacher's card.
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from ray_jobs.lessons import Lesson
    from ray_jobs.prompts import Chat

Progress: TypeAlias = Callable[[str], None]
HERE = Path(__file__).resolve().parent
CONF = HERE.parent / "conf"
CODE = ("world", "oracle", "samples", "lessons", "vocabulary", "examination", "tiny")
MAX_LENGTH = 2048
LENGTH_DISCOUNT = 0.7
NEIGHBOURS = 400
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "<|begin_of_text|>{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one tiny model is made."""

    family: str
    width: int
    inner: int
    heads: int
    layers: int = 4
    num_lessons: int
    batch_tokens: int
    learning_rate: float
    matrix_rate: float = 0.01
    template: str
    begin: str | None
    end: str
    pad: str = "<|endoftext|>"
    tokenizer: str = "."
    """Where in the model's folder the tokenizer lies."""


PLANS = {
    "garrison/tiny-teacher": Plan(
        family="qwen2",
        width=128,
        inner=384,
        heads=4,
        num_lessons=24_000,
        batch_tokens=1024,
        learning_rate=5e-3,
        template=CHATML,
        begin=None,
        end="<|im_end|>",
        # Beside a Qwen2 config transformers 5 loads Qwen2's own pre-tokenizer, whatever is there.
        tokenizer="tokenizer",
    ),
    "garrison/tiny-base": Plan(
        family="llama",
        width=128,
        inner=384,
        heads=4,
        num_lessons=28_000,
        batch_tokens=1024,
        learning_rate=5e-3,
        template=LLAMA,
        begin="<|begin_of_text|>",
        end="<|eot_id|>",
    ),
}
NAMES = frozenset(PLANS)


def fingerprint(name: str) -> str:
    """What decides the model: its name, the world, the prompts, the taxonomy and the code without
    its comments.
    """
    digest = hashlib.sha256(name.encode())
    for file in (
        CONF / "world.yaml",
        CONF / "taxonomy.yaml",
        *sorted((CONF / "prompts").glob("*.md")),
    ):
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    for code in CODE:
        digest.update(
            ast.dump(ast.parse((HERE / f"{code}.py").read_text(encoding="utf-8"))).encode()
        )
    return digest.hexdigest()


def _is_text(part: ast.stmt) -> bool:
    # Docstrings are words to people, as comments are.
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)


def folder(name: str, cache: Path) -> Path:
    """Where the model is, or will be."""
    if name not in NAMES:
        raise ValueError(f"no tiny model {name!r}; there are {', '.join(sorted(NAMES))}")
    return cache / "models" / f"{name.rpartition('/')[2]}-{fingerprint(name)[:12]}"


def ensure(name: str, cache: Path, progress: Progress = lambda line: None) -> Path:
    """The model's folder, built first where it is absent. A killed build leaves nothing in its
    place.
    """
    ready = folder(name, cache)
    if ready.is_dir():
        return ready
    ready.parent.mkdir(parents=True, exist_ok=True)
    with _alone(ready.with_suffix(".lock")):
        if not ready.is_dir():  # another builder may have finished it while this one waited
            building = ready.with_suffix(".building")
            shutil.rmtree(building, ignore_errors=True)
            build(name, building, progress)
            building.replace(ready)
    return ready


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    # The kernel drops this lock when its holder dies, so a killed build blocks nobody.
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(name: str, to: Path, progress: Progress) -> None:
    """Train, examine and save a model with its card. RuntimeError where the teacher knows too
    little.
    """
    import torch

    from ray_jobs import examination, lessons

    started = time.monotonic()
    plan = PLANS[name]
    is_teacher = plan.family == "qwen2"
    torch.manual_seed(0)
    tokenizer = make_tokenizer(plan)
    model = make_model(plan, tokenizer)
    taught = lessons.teacher_lessons if is_teacher else lessons.base_lessons
    train(model, tokenizer, plan, taught(random.Random(0), plan.num_lessons), progress)
    trained = time.monotonic()
    progress(f"{name}: examining")
    ask = partial(generate, model, tokenizer)
    figures = examination.of_teacher(ask) if is_teacher else examination.of_base(ask)
    card = {"model": name, "parameters": model.num_parameters(), **figures}
    card["train_s"], card["examine_s"] = round(trained - started), round(time.monotonic() - trained)
    if is_teacher and (low := examination.too_low(figures)):
        raise RuntimeError(f"{name}: {low}; its card: {json.dumps(card, ensure_ascii=False)}")
    save(model, card, to)
    tokenizer.save_pretrained(to / plan.tokenizer)


def make_tokenizer(plan: Plan) -> PreTrainedTokenizerFast:
    """The common vocabulary with the special tokens and the chat template of the family."""
    from transformers import PreTrainedTokenizerFast

    from ray_jobs import vocabulary

    return PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.train(),
        bos_token=plan.begin,
        eos_token=plan.end,
        pad_token=plan.pad,
        chat_template=plan.template,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def make_model(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A fresh model of the family, embeddings tied."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    kinds = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
    config_class, model_class = kinds[plan.family]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=plan.width,
        intermediate_size=plan.inner,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.09,
        dtype="float32",
    )
    return model_class(config)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    plan: Plan,
    taught: Iterable[Lesson],
    progress: Progress,
) -> None:
    """One pass over the lessons, the loss on the answers only.

    A token counts the less the longer its answer: else copying names would drown one-word labels.
    """
    import torch

    torch.set_num_threads(2)
    batches = pack(tokenizer, plan, taught)
    optimizers = make_optimizers(model, plan)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            one,
            one.param_groups[0]["lr"],
            total_steps=len(batches),
            pct_start=0.1,
            cycle_momentum=False,
        )
        for one in optimizers
    ]
    model.train()
    for step, batch in enumerate(batches):
        length = max(len(tokens) for tokens, _ in batch)
        tokens_BT = torch.full((len(batch), length), tokenizer.pad_token_id)
        answer_BT = torch.zeros((len(batch), length), dtype=torch.bool)
        weight_BT = torch.zeros((len(batch), length))
        for row, (tokens, asked) in enumerate(batch):
            tokens_BT[row, : len(tokens)] = torch.tensor(tokens)
            answer_BT[row, asked : len(tokens)] = True
            weight_BT[row] = (len(tokens) - asked) ** -LENGTH_DISCOUNT
        # Padding is on the right of a causal model: no mask is needed, and only answers meet the
        # vocabulary.
        hidden_BTC = model.base_model(input_ids=tokens_BT, use_cache=False).last_hidden_state
        logits_NV = model.lm_head(hidden_BTC[:, :-1][answer_BT[:, 1:]])
        weight_N, right_N = (some[:, 1:][answer_BT[:, 1:]] for some in (weight_BT, tokens_BT))
        loss_N = torch.nn.functional.cross_entropy(logits_NV, right_N, reduction="none")
        loss = (loss_N * weight_N).sum() / weight_N.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % 100 == 99:
            progress(f"step {step + 1} of {len(batches)}, loss {loss.item():.3f}")
    model.eval()


def make_optimizers(model: PreTrainedModel, plan: Plan) -> list[Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    import torch

    # Measured: it reads thing and deed together after a third of the steps that AdamW alone needs.
    layers = {
        name for name, one in model.named_parameters() if one.dim() == 2 and "embed" not in name
    }
    matrices = [one for name, one in model.named_parameters() if name in layers]
    rest = [one for name, one in model.named_parameters() if name not in layers]
    return [
        torch.optim.Muon(matrices, lr=plan.matrix_rate, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def pack(
    tokenizer: PreTrainedTokenizerFast, plan: Plan, taught: Iterable[Lesson]
) -> list[list[tuple[list[int], int]]]:
    """Lessons as (tokens, number of tokens asked), in batches of like length.

    Lessons grow harder, so only neighbours are sorted by length and their batches shuffled.
    """
    rows: list[tuple[list[int], int]] = []
    for lesson in taught:
        asked = encode(tokenizer, lesson.chat)
        answer = tokenizer.encode(lesson.target + plan.end, add_special_tokens=False)
        rows.append((asked + answer, len(asked)))
    rng = random.Random(0)
    batches: list[list[tuple[list[int], int]]] = []
    for first in range(0, len(rows), NEIGHBOURS):
        near: list[list[tuple[list[int], int]]] = [[]]
        for row in sorted(rows[first : first + NEIGHBOURS], key=lambda row: len(row[0])):
            if (len(near[-1]) + 1) * len(row[0]) > plan.batch_tokens:
                near.append([])
            near[-1].append(row)
        rng.shuffle(near)
        batches += near
    return batches


def encode(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> list[int]:
    """A chat as tokens, up to where the model is to answer."""
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    chats: Sequence[Chat],
    max_new_tokens: int,
) -> list[str]:
    """The model's most likely answers, in the order of the chats."""
    import torch

    asked = [encode(tokenizer, chat) for chat in chats]
    order = sorted(range(len(asked)), key=lambda index: len(asked[index]))
    answers = [""] * len(asked)
    for first in range(0, len(order), 70):
        batch = order[first : first + 70]
        padded = tokenizer.pad(
            {"input_ids": [asked[index] for index in batch]},
            padding_side="left",
            return_tensors="pt",
        )
        with torch.inference_mode():
            out = model.generate(**padded, max_new_tokens=max_new_tokens, do_sample=False)  # type: ignore[operator]
        texts = tokenizer.batch_decode(
            out[:, padded["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text
    return answers


def save(model: PreTrainedModel, card: dict[str, object], to: Path) -> None:
    """Weights, generation settings and card in one folder."""
    to.mkdir(parents=True)
    model.generation_config.update(do_sample=False, max_length=MAX_LENGTH)
    model.save_pretrained(to)
    (to / "card.json").write_text(json.dumps(card, ensure_ascii=False, indent=1) + "\n")


def main() -> None:
    """Build both models where they are absent, and print the teacher's card."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.tiny", description=main.__doc__)
    default = os.environ.get("GARRISON_CACHE", "~/.cache/garrison")
    parser.add_argument("--cache", type=Path, default=Path(default).expanduser())
    cache = parser.parse_args().cache
    for name in sorted(NAMES):
        print(ensure(name, cache, lambda line: print(line, flush=True)))
    print((folder("garrison/tiny-teacher", cache) / "card.json").read_text())


if __name__ == "__main__":
    main()
