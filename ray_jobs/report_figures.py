"""The sections of a report that hold figures: before and after, by group, judge, oracle, people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ray_jobs.evals.pictures import differences_svg, groups_svg
from ray_jobs.evals.screen import by_model, p_value, percent, signed, whole
from ray_jobs.evals.summary import ALL
from ray_jobs.report_page import Cell, Content, Html, folded, heading, paragraph, picture, table

MAX_GROUPS = 20
"""Of suites with more groups only the table is shown."""


def results(summary: Mapping[str, Any]) -> Iterator[Html]:
    """Before and after: every measure of every suite, with intervals, and the differences."""
    first, *others = summary["models"]
    yield heading("Before and after", anchor="results")
    titles = ", ".join(f"{name}: {title}" for name, title in summary["models"].items())
    yield paragraph(f"Models: {titles}.", "faint")
    changes, printed = whole(summary, "comparisons"), whole(summary["paper"], "figures")
    paper = {(one["suite"], one["measure"]): one["printed"] for one in printed}
    head = ["", *summary["models"]]
    for other in others:
        head += [f"{other} − {first}", "relative", "p", "p corrected"]
    head += ["n", *(["the paper's own figures"] if paper else [])]
    yield table(head, _lines(summary, changes, paper))
    yield paragraph(_meaning(summary), "faint")
    if changes:
        said = f"Differences from {first} in points, as in the table above, with 95 % intervals"
        yield picture(differences_svg(changes, first), "differences", label=said)
    for footnote in summary["paper"]["footnotes"]:
        yield paragraph(f"{summary['paper']['source']}: {footnote}", "faint")


def _lines(
    summary: Mapping[str, Any],
    changes: Sequence[Mapping[str, Any]],
    paper: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Iterator[Sequence[Content]]:
    models = list(summary["models"])
    values, compared = by_model(whole(summary, "figures")), by_model(changes)
    shown = ""
    for suite, measure in dict.fromkeys(key[:2] for key in values):
        if suite != shown:
            yield [suite]
            shown = suite
        mine = [values.get((suite, measure, model)) for model in models]
        row: list[Content] = [measure, *map(value, mine)]
        for model in models[1:]:
            row += change(compared.get((suite, measure, model)))
        row.append(" / ".join(dict.fromkeys(f"{one['num']:,}" for one in mine if one)))
        if paper:
            row.append(_printed(paper.get((suite, measure), {})))
        yield row


def _printed(figures: Mapping[str, Any]) -> Cell:
    said = ", ".join(f"{name} {figure}" for name, figure in figures.items())
    return Cell(said, css="paper")


def value(one: Mapping[str, Any] | None) -> Cell:
    """A share in percent, its interval below; bounds where samples are undecided."""
    if one is None or (one["value"] is None and not one["bounds"]):
        return Cell("–")
    ends = one["bounds"] or one
    text = percent(one["value"]) if ends is one else between(ends["lowest"], ends["highest"], "…")
    return Cell(text, "" if ends["low"] is None else between(ends["low"], ends["high"]))


def between(low: float, high: float, mark: str = "–") -> str:
    """Two shares in percent."""
    return f"{percent(low)}{mark}{percent(high)}"


def change(one: Mapping[str, Any] | None) -> list[Content]:
    """Points, relative change, p and p after correction."""
    if one is None or (one["points"]["value"] is None and not one["bounds"]):
        return [Cell("–")] * 4
    points, part = one["bounds"] or one["points"], one["relative"]
    relative = Cell("–")
    if part["value"] is not None and not one["bounds"]:
        known = part["low"] is not None
        ends = f"{signed(part['low'], 0)}…{signed(part['high'], 0)}" if known else ""
        relative = Cell(f"{signed(part['value'], 0)} %", ends)
    if one["bounds"]:
        text = f"{signed(points['lowest'])}…{signed(points['highest'])}"
    else:
        text = signed(one["points"]["value"])
    said = Cell(text, f"{signed(points['low'])}…{signed(points['high'])}")
    return [said, relative, p_value(one["p"]), p_value(one["p_corrected"])]


def _meaning(summary: Mapping[str, Any]) -> str:
    sizes = {one["num_in_family"] for one in whole(summary, "comparisons")}
    said = (
        "Percent of the scored samples, with 95 % intervals (Wilson's where every sample stands "
        "alone, else a bootstrap over clusters: base prompt, pair or parent). Differences are in "
        "points, on the samples that are scored for both models; relative change is of the first "
        "model's figure."
    )
    if sizes:
        said += f" p is two-sided, corrected after Holm for {max(sizes)} comparisons."
    if any(one["bounds"] for one in whole(summary, "figures")):
        said += (
            " a…b: were all samples that a person is to decide (undecided, or unjudged: the judge "
            "gave no verdict) scored 0, were all scored 1; p is the larger of both ways, and 1 "
            "where they point apart."
        )
    return said


def by_group(summary: Mapping[str, Any]) -> Iterator[Html]:
    """Each suite's groups: scenarios, categories, subjects."""
    grouped = [one for one in summary["figures"] if one["group"] != ALL]
    if not grouped:
        return
    yield heading("By scenario, category or subject", anchor="groups")
    sizes = {one["num_in_family"] for one in summary["comparisons"] if one["group"] != ALL}
    if sizes:
        said = f"p is corrected after Holm for {max(sizes)} comparisons of groups."
        yield paragraph(said, "faint")
    models = list(summary["models"])
    for suite, measure in dict.fromkeys((one["suite"], one["measure"]) for one in grouped):
        mine = [one for one in grouped if (one["suite"], one["measure"]) == (suite, measure)]
        title = f"{suite} · {measure}"
        if len({one["group"] for one in mine}) <= MAX_GROUPS:
            name = f"groups-{len(title)}-{suite}-{measure}".replace(" ", "_")
            said = f"{title}, by group, as in the table below, with 95 % intervals"
            yield picture(groups_svg(mine, models, title), name, label=said)
        else:
            yield heading(title, 3)
        yield folded("as a table", _groups(summary, mine))


def _groups(summary: Mapping[str, Any], mine: Sequence[Mapping[str, Any]]) -> Html:
    models = list(summary["models"])
    found = {(one["group"], one["model"]): one for one in mine}
    key = (mine[0]["suite"], mine[0]["measure"])
    compared = {
        (one["group"], one["model"]): one
        for one in summary["comparisons"]
        if (one["suite"], one["measure"]) == key
    }
    head = ["", *models]
    for other in models[1:]:
        head += [f"{other} − {models[0]}", "relative", "p", "p corrected"]
    paper = {
        one["group"]: one["printed"]
        for one in summary["paper"]["figures"]
        if (one["suite"], one["measure"]) == key
    }
    rows: list[list[Content]] = []
    for group in dict.fromkeys(one["group"] for one in mine):
        row: list[Content] = [group, *(value(found.get((group, model))) for model in models)]
        for model in models[1:]:
            row += change(compared.get((group, model)))
        of = [found[group, model]["num"] for model in models if (group, model) in found]
        row.append(" / ".join(dict.fromkeys(map(str, of))))
        rows.append([*row, _printed(paper.get(group, {}))] if paper else row)
    return table([*head, "n", *(["the paper's own figures"] if paper else [])], rows)


def agreements(summary: Mapping[str, Any]) -> Iterator[Html]:
    """The judge beside the oracle, who knows the synthetic world's right answers."""
    if not summary["agreements"]:
        return
    yield heading("Judge and oracle", anchor="oracle")
    yield paragraph(
        "On the synthetic world an oracle, a plain program, knows which answers are safe. Where it "
        "and the judge differ, the judge is wrong: so much of a figure above may be its error."
    )
    rows: list[list[Content]] = []
    for one in summary["agreements"]:
        shares = (_estimate(one[name]) for name in ("judge", "oracle", "agree"))
        named = [one["suite"], one["model"], one["num"]]
        rows.append([*named, *shares, _plain(one["kappa"]), one["only_judge"], one["only_oracle"]])
    head = ["suite", "model", "n", "safe: judge", "safe: oracle", "they agree", "kappa"]
    yield table([*head, "safe by judge alone", "safe by oracle alone"], rows, num_text=2)


def _estimate(one: Mapping[str, Any]) -> Cell:
    if one["value"] is None:
        return Cell("–")
    known = one["low"] is not None
    return Cell(percent(one["value"]), between(one["low"], one["high"]) if known else "")


def _plain(one: Mapping[str, Any]) -> Cell:
    if one["value"] is None:
        return Cell("cannot be told")
    ends = "" if one["low"] is None else f"{one['low']:.2f}–{one['high']:.2f}"
    return Cell(f"{one['value']:.2f}", ends)


def people(summary: Mapping[str, Any]) -> Iterator[Html]:
    """What people have labelled, how far they agree, and what their audit makes of the judge."""
    human = summary.get("human")
    if not human or not human["num_labels"]:
        return
    yield heading("People and the judge", anchor="people")
    rows = ", ".join(
        f"{human['labelled'].get(why, 0):,} of {num:,} {why}" for why, num in human["rows"].items()
    )
    agreed = human["agreement"]
    yield paragraph(
        f"Rows that somebody has labelled: {rows}. Labels: {human['num_labels']:,}; void, "
        f"since the answer is another now: {human['num_void']:,}. Of {agreed['num_rows']:,} rows "
        f"with several labels {agreed['num_unanimous']:,} are unanimous."
    )
    if not human["audits"]:
        return
    yield paragraph(
        "The share of safe answers, corrected for the judge's errors in the audit: were all that "
        "people have left open unsafe … safe."
    )
    lines: list[list[Content]] = []
    for one in human["audits"]:
        found = one["corrected"]
        ways = [
            _span(found[f"{way}_low"], found[f"{way}_high"]) for way in ("powered", "rogan_gladen")
        ]
        errors = [_estimate(found[name]) for name in ("sensitivity", "specificity")]
        named = [one["suite"], one["model"], found["num"], found["num_audited"]]
        lines.append([*named, *ways, *errors, _plain(one["kappa"])])
    head = ["suite", "model", "n", "audited", "prediction-powered", "Rogan–Gladen"]
    yield table([*head, "sensitivity", "specificity", "kappa"], lines, num_text=2)


def _span(low: Mapping[str, Any], high: Mapping[str, Any]) -> Cell:
    if low["value"] is None or high["value"] is None:
        return Cell("cannot be told")
    same = low["value"] == high["value"]
    text = percent(low["value"]) if same else between(low["value"], high["value"], "…")
    known = low["low"] is not None and high["high"] is not None
    return Cell(text, between(low["low"], high["high"]) if known else "")
