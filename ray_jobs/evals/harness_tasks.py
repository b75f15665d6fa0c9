"""lm-eval's tasks: their documents as samples, and their filters and metrics as marks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from ray_jobs.evals.harness import Benchmark, chat_as_turns
from ray_jobs.evals.harness_index import leaves, load_task, reader
from ray_jobs.evals.suite import Mark, text
from ray_jobs.tables import Row

MAX_GEN_TOKS = 256
"""What lm-eval's `hf` model generates where a task does not say."""
NOT_FOUND = "[invalid]"
"""What lm-eval's filters give where they find nothing: it counts as wrong."""
SAMPLING = {"do_sample", "until", "max_gen_toks", "temperature", "top_p", "top_k"}


def samples(name: str, cfg: Benchmark) -> Iterator[Row]:
    """The rows of SAMPLES: every document of every task, in lm-eval's order."""
    for task_name in leaves(cfg.tasks):
        task = load_task(task_name, cfg)
        _set_shots(task, cfg)
        task.set_fewshot_seed(seed=cfg.fewshot_seed)
        _build(task, task_name, cfg)
        for doc_id, instances in groupby(task.instances, key=lambda one: one.doc_id):
            row = _sample(task, task_name, doc_id, list(instances), cfg)
            if doc_id == 0:
                _check_metrics(task_name, row)
            yield row


def _build(task: Any, name: str, cfg: Benchmark) -> None:
    import jinja2

    try:
        task.build_all_requests(
            limit=cfg.limit or None,
            apply_chat_template=cfg.chat,
            fewshot_as_multiturn=cfg.chat,
            chat_template=chat_as_turns if cfg.chat else None,
        )
    except (jinja2.UndefinedError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"lm-eval's task {name}: a document does not fit it: {error}") from error


def marks(row: Row) -> Iterator[Mark]:
    """The task's metrics of a row of ANSWERS, each under each of its filters."""
    about = json.loads(row["about"])
    task = reader(about["task"], about["doc"])
    answered = row["outcome"] == "done"
    instances = task.construct_requests(
        doc=about["doc"], ctx="", metadata=(about["task"], 0, 1), apply_chat_template=False
    )
    instances = instances if isinstance(instances, list) else [instances]
    said = _responses(row) if answered else _placeholders(task, len(instances))
    for instance, response in zip(instances, said, strict=True):
        instance.resps = [response]
    for ensemble in task._filters:
        ensemble.apply(instances)
    for key in instances[0].filtered_resps:
        read = [instance.filtered_resps[key] for instance in instances]
        for metric, value in task.process_results(about["doc"], read).items():
            measure = metric if key == "none" else f"{metric} {key}"
            if answered:
                yield _mark(measure, value, read, row)
            else:
                yield Mark(
                    measure=measure, score=None, outcome=row["outcome"], reason=row["reason"]
                )


def _mark(measure: str, value: Any, read: list[Any], row: Row) -> Mark:
    if row["options"]:
        likelihoods = [logprob for logprob, _ in read]
        said = row["options"][max(range(len(read)), key=likelihoods.__getitem__)]
    else:
        said = str(read[0])
    reason = "lm-eval's filter found nothing" if said == NOT_FOUND else None
    return Mark(measure=measure, score=float(value), said=said, reason=reason)


def _responses(row: Row) -> list[Any]:
    """What lm-eval's model would have returned for each request."""
    if row["option_logprobs"] is None:
        return [row["answer"]]
    return list(zip(row["option_logprobs"], json.loads(row["answer"]), strict=True))


def _placeholders(task: Any, num: int) -> list[Any]:
    """Something that the metrics can be applied to, where only their names are wanted."""
    return [""] if task.OUTPUT_TYPE == "generate_until" else [(0.0, False)] * num


def _sample(task: Any, name: str, doc_id: int, instances: list[Any], cfg: Benchmark) -> Row:
    first = instances[0]
    if any(one.args[0] != first.args[0] for one in instances):
        raise ValueError(f"lm-eval's task {name} asks about several texts in one document")
    asked = json.loads(first.args[0] if cfg.chat else text(first.args[0]))
    if task.OUTPUT_TYPE == "generate_until":
        asked |= _sampling(name, first.args[1])
    else:
        asked["continuations"] = [one.args[1] for one in instances]
    choices = task.doc_to_choice(first.doc) if task.OUTPUT_TYPE == "multiple_choice" else None
    target = task.doc_to_target(first.doc)
    return {
        "id": f"{name}/{doc_id}",
        "group": name,
        "cluster": f"{name}/{doc_id}",
        "language": cfg.language,
        "prompt": str(task.doc_to_text(first.doc)),
        "asked": json.dumps({**asked, "cut_left": True}, ensure_ascii=False),
        "options": choices,
        "gold": choices[target] if choices and isinstance(target, int) else str(target),
        "about": json.dumps(
            {"task": name, "version": task.VERSION, "doc": first.doc}, ensure_ascii=False
        ),
        "outcome": "done",
        "reason": None,
    }


def _sampling(name: str, gen_kwargs: dict[str, Any]) -> dict[str, Any]:
    from lm_eval.models.utils import normalize_gen_kwargs

    given = normalize_gen_kwargs(gen_kwargs, MAX_GEN_TOKS)
    if unknown := sorted(given.keys() - SAMPLING):
        raise ValueError(f"lm-eval's task {name} generates with {', '.join(unknown)}: unknown here")
    drawn = {key: given[key] for key in ("top_p", "top_k") if key in given and given["do_sample"]}
    return {
        "max_tokens": given["max_gen_toks"],
        "temperature": given["temperature"] if given["do_sample"] else 0.0,
        "stop": [stop for stop in given["until"] if stop],
        **drawn,
    }


def _set_shots(task: Any, cfg: Benchmark) -> None:
    """As lm-eval's simple_evaluate does: a task whose config says 0 keeps to it."""
    own = task.get_config("num_fewshot")
    if cfg.num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=cfg.num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)


def _check_metrics(name: str, row: Row) -> None:
    """Refuse, before a model is asked, a task whose metrics are no shares of 0…1."""
    options = row["options"] or json.loads(row["asked"]).get("continuations", [])
    filled = {
        "answer": json.dumps([False] * len(options)) if options else "",
        "option_logprobs": [float(-k) for k in range(len(options))] or None,
    }
    try:
        scores = [mark.score for mark in marks({**row, **filled})]
    except (TypeError, ValueError) as error:
        raise ValueError(f"lm-eval's task {name}: its metrics are no numbers: {error}") from error
    if not scores or not all(score is not None and 0 <= score <= 1 for score in scores):
        raise ValueError(f"lm-eval's task {name}: expected metrics between 0 and 1, got {scores}")
