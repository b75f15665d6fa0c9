"""The queue as tasks of Label Studio, and the labels in what it exports as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ray_jobs import formats
from ray_jobs.evals.labels import SAID, WHERE, Label
from ray_jobs.evals.queue import Item

SHOWN = (*WHERE, "language", "prompt", "answer", "digest")
VIEW = """<View>
  <Text name="prompt" value="$prompt"/>
  <Text name="answer" value="$answer"/>
  <Choices name="label" toName="answer" value="$options" choice="single" required="true"/>
  <TextArea name="comment" toName="answer" maxSubmissions="1"/>
</View>
"""
"""Label Studio's labelling interface for the exported tasks."""


def task(item: Item, labels: Sequence[Label]) -> dict[str, Any]:
    """A task of Label Studio. Labels given elsewhere are in `meta`, since Label Studio refuses
    annotations of people whom it does not know.
    """
    shown = {name: getattr(item, name) for name in SHOWN}
    options = [{"value": option} for option in item.options]
    given = [{name: getattr(label, name) for name in SAID} for label in labels]
    return {"data": {**shown, "options": options}, "meta": {"labels": given}}


def rows(path: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The labels, each with its place in the file."""
    tasks = formats.load_json(path)
    if not isinstance(tasks, list):
        raise ValueError(
            f"{path}: expected an array of tasks, found {formats.kind_of(tasks)}; export it from "
            "Label Studio as JSON"
        )
    for number, task in enumerate(tasks, start=1):
        where = f"task {number}"
        data = _part(path, where, _part(path, where, task, dict), dict, "data")
        missing = [name for name in WHERE if not isinstance(data.get(name), str)]
        if missing:
            raise ValueError(f"{path} {where}: data: there is no text {', '.join(missing)}")
        about = {name: data[name] for name in (*WHERE, "digest") if isinstance(data.get(name), str)}
        meta = _part(path, where, task, dict, "meta", optional=True)
        given = _part(path, where, meta, list, "labels", optional=True)
        for place, said in enumerate(given, start=1):
            cells = _part(path, f"{where} label {place}", said, dict)
            yield f"{where} label {place}", {**about, **_texts(cells)}
        annotations = _part(path, where, task, list, "annotations", optional=True)
        for place, annotation in enumerate(annotations, start=1):
            inside = f"{where} annotation {place}"
            cells = _part(path, inside, annotation, dict)
            if not cells.get("was_cancelled"):  # skipped there
                yield inside, {**about, **_annotated(path, inside, cells)}


def _texts(cells: Mapping[str, Any]) -> dict[str, str]:
    found = {name: cells[name] for name in SAID if isinstance(cells.get(name), str)}
    return {"label": "", "annotator": "", **found}


def _annotated(path: str, where: str, annotation: Mapping[str, Any]) -> dict[str, str]:
    choices: list[str] = []
    comments: list[str] = []
    for result in _part(path, where, annotation, list, "result"):
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(value, dict) and result.get("from_name") == "label":
            choices += [str(one) for one in value.get("choices") or []]
        elif isinstance(value, dict) and result.get("from_name") == "comment":
            text = value.get("text") or []
            comments += [text] if isinstance(text, str) else [str(one) for one in text]
    if len(choices) != 1:
        raise ValueError(f"{path} {where}: expected one choice named label, found {len(choices)}")
    by = annotation.get("completed_by")
    name = by.get("email") or by.get("username") if isinstance(by, dict) else by
    return {
        "label": choices[0],
        "annotator": f"label-studio-{name}" if isinstance(name, int) else str(name or ""),
        "when": str(annotation.get("updated_at") or annotation.get("created_at") or ""),
        "comment": "\n".join(comments),
    }


def _part(
    path: str, where: str, value: Any, kind: type[Any], name: str = "", optional: bool = False
) -> Any:
    """A value, or the member `name` of an object, of the kind that is expected."""
    found = value.get(name) if name else value
    if found is None and optional:
        return kind()
    if not isinstance(found, kind):
        what = "an object" if kind is dict else "an array"
        at = f"{name}: " if name else ""
        raise ValueError(f"{path} {where}: {at}expected {what}, found {formats.kind_of(found)}")
    return found
