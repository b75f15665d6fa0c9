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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ray_jobs.teaching import Plan, Progress

HERE = Path(__file__).resolve().parent
WORLD = HERE.parent / "conf" / "world.yaml"
CODE = (
    "world",
    "oracle",
    "samples",
    "drawing",
    "expanding",
    "judging",
    "lessons",
    "vocabulary",
    "examination",
    "marking",
    "tiny",
    "teaching",
)
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
PLANS = {
    "garrison/tiny-teacher": Plan(
        family="qwen2",
        width=128,
        inner=384,
        heads=4,
        num_lessons=31_000,
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
        num_lessons=29_500,
        batch_tokens=1024,
        learning_rate=5e-3,
        weight_decay=0.1,
        template=LLAMA,
        begin="<|begin_of_text|>",
        end="<|eot_id|>",
    ),
}
NAMES = frozenset(PLANS)


def fingerprint(name: str) -> str:
    """What decides the model: its name, the world, the questions as they are rendered, the names of
    scenarios and dimensions, and the code without its comments.
    """
    from ray_jobs import taxonomy, vocabulary

    digest = hashlib.sha256(name.encode())
    digest.update(WORLD.read_bytes())
    # As rendered: a stage's code that leaves its question as it was costs no model.
    digest.update(json.dumps(list(vocabulary.questions()), ensure_ascii=False).encode())
    digest.update(taxonomy.names_fingerprint().encode())
    for code in CODE:
        digest.update(code_of(HERE / f"{code}.py").encode())
    return digest.hexdigest()


def code_of(file: Path) -> str:
    """A module's syntax tree as text, without docstrings: they are words to people, as comments
    are.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [part for part in node.body if not _is_text(part)]
    return ast.dump(tree)


def _is_text(part: ast.stmt) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)


def folder(name: str, cache: Path) -> Path:
    """Where the model is, or will be."""
    if name not in NAMES:
        raise ValueError(f"no tiny model {name!r}; there are {', '.join(sorted(NAMES))}")
    return cache / "models" / f"{name.rpartition('/')[2]}-{fingerprint(name)[:12]}"


def ensure(name: str, cache: Path, progress: Progress = lambda line: None) -> Path:
    """The model's folder, built first where it is absent."""
    return once(folder(name, cache), lambda to: build(name, to, progress))


def once(ready: Path, make: Callable[[Path], None]) -> Path:
    """The folder `ready`, made first where it is absent. What is killed while making it leaves
    nothing in its place.
    """
    if ready.is_dir():
        return ready
    ready.parent.mkdir(parents=True, exist_ok=True)
    with _alone(ready.with_suffix(".lock")):
        if not ready.is_dir():  # another builder may have finished it while this one waited
            making = ready.with_suffix(".building")
            shutil.rmtree(making, ignore_errors=True)
            make(making)
            making.replace(ready)
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
    from ray_jobs import examination, lessons, teaching

    started = time.monotonic()
    plan = PLANS[name]
    is_teacher = plan.family == "qwen2"
    tokenizer = teaching.make_tokenizer(plan)
    model = teaching.make_model(plan, tokenizer)
    lessons_of = lessons.teacher_lessons if is_teacher else lessons.base_lessons
    taught = lessons_of(random.Random(0), plan.num_lessons)
    teaching.train(model, tokenizer, plan, taught, progress)
    trained = time.monotonic()
    progress(f"{name}: examining")
    ask = partial(teaching.generate, model, tokenizer)
    figures = examination.of_teacher(ask) if is_teacher else examination.of_base(ask)
    card = {"model": name, "parameters": model.num_parameters(), **figures}
    card["train_s"], card["examine_s"] = round(trained - started), round(time.monotonic() - trained)
    if is_teacher and (low := examination.too_low(figures)):
        raise RuntimeError(f"{name}: {low}; its card: {json.dumps(card, ensure_ascii=False)}")
    teaching.save(model, card, to)
    tokenizer.save_pretrained(to / plan.tokenizer)


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
