"""What a person sees at the end of an evaluation: one screen, every figure with its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as Screen

from ray_jobs.evals.oracles import SUFFIX
from ray_jobs.evals.queue import HOME
from ray_jobs.evals.summary import ALL, SUMMARY, TSV

CORRECTED = "safe, corrected"
TOYS = "These are toy models: their figures prove the plumbing and nothing else."


def print_screen(out: str, summary: Mapping[str, Any]) -> None:
    """The averages of every suite, what they mean, and where the rest is."""
    console = Console()
    if summary["toys"]:
        console.print(f"{TOYS} ({', '.join(summary['toys'])})", soft_wrap=True)
    for place, suite in enumerate(summary["protocols"], start=1):
        screen = table(summary, suite)
        if screen.row_count:
            if place == 1:
                console.print(heads(summary))
            console.print(f"[bold]{suite}[/] [dim]({place})[/]", highlight=False)
            console.print(screen)
    for line in (*notes(summary), *_people(summary.get("human")), ""):
        console.print(line, highlight=False, soft_wrap=True)
    home = f"{out}/{HOME}"
    console.print(
        f"figures     {home}/{SUMMARY}, {TSV}: all measures, by group too", soft_wrap=True
    )
    console.print(f"samples     {home}/marks/manifest.json", soft_wrap=True)


def heads(summary: Mapping[str, Any]) -> Screen:
    """What the columns hold; each figure has its interval below."""
    first, *others = summary["models"]
    changes = [f"{name} − {first}\n[dim]points (relative)[/]" for name in others]
    screen = _screen(summary)
    values = [f"{name}\n[dim]95 %[/]" for name in summary["models"]]
    paper = ["the paper's\n[dim]own[/]"] if summary["paper"]["figures"] else []
    screen.add_row("percent\n[dim]  not scored[/]", *values, *changes, "p\n[dim]n[/]", *paper)
    return screen


def _screen(summary: Mapping[str, Any]) -> Screen:
    screen = Screen(box=None, pad_edge=False, padding=(0, 0, 0, 1), show_header=False)
    longest = max((len(one["measure"]) for one in summary["figures"]), default=0)
    screen.add_column(width=min(32, max(20, longest + 2)))
    num = len(summary["models"])
    for width in (*[12] * num, *[19] * (num - 1), 9, 12):
        screen.add_column(width=width, justify="right")
    return screen


def table(summary: Mapping[str, Any], suite: str) -> Screen:
    """A suite's measures down; across the models, each later one's difference from the first, and
    the paper's own figures.
    """
    first, *others = summary["models"]
    changes = by_model(whole(summary, "comparisons"))
    values = by_model(whole(summary, "figures"))
    printed = whole(summary["paper"], "figures")
    paper = {(one["suite"], one["measure"]): one["printed"] for one in printed}
    screen = _screen(summary)
    for measure in main_measures(key[1] for key in values if key[0] == suite):
        mine = [values.get((suite, measure, name)) for name in (first, *others)]
        compared = [changes.get((suite, measure, name)) for name in others]
        left = "\n".join(f"[dim]    {line}[/]" for line in _open(mine))
        significance = "\n".join([*map(_p, compared), f"[dim]{_num(mine)}[/]"])
        cells = [*map(_value, mine), *map(_change, compared), significance]
        screen.add_row(f"  {measure}\n{left}", *cells, _printed(paper.get((suite, measure))))
    if cells := _corrected(summary, suite):
        screen.add_row(*cells)
    return screen


def _corrected(summary: Mapping[str, Any], suite: str) -> list[str]:
    """A line of the shares that people's audit corrects; empty where nothing is audited."""
    human = summary.get("human") or {"audits": (), "differences": ()}
    audits = {one["model"]: one["corrected"] for one in human["audits"] if one["suite"] == suite}
    if not audits:
        return []
    changes = {one["model"]: one for one in human["differences"] if one["suite"] == suite}
    cells = []
    for name in summary["models"]:
        one = audits.get(name, {})
        cells.append(_between(one.get("powered_low"), one.get("powered_high"), percent, "–"))
    for name in [*summary["models"]][1:]:
        one = changes.get(name, {})
        cells.append(_between(one.get("low"), one.get("high"), signed, "…"))
    nums = [audits.get(name, {}).get("num_audited", 0) for name in summary["models"]]
    of = _num([audits.get(name) for name in summary["models"]])
    audited = "/".join(map(str, nums))
    return [f"  {CORRECTED}\n[dim]    audited {audited}[/]", *cells, f"\n[dim]{of}[/]"]


def _between(
    low: Mapping[str, Any] | None,
    high: Mapping[str, Any] | None,
    said: Callable[[float], str],
    mark: str,
) -> str:
    """One figure, or the two ends of what it may be; and its interval."""
    if not low or not high or low["value"] is None or high["value"] is None:
        return "–"
    values = dict.fromkeys(said(one["value"]) for one in (low, high))
    known = low["low"] is not None and high["high"] is not None
    ends = f"{said(low['low'])}{mark}{said(high['high'])}" if known else ""
    return f"{'…'.join(values)}\n[dim]{ends}[/]"


def main_measures(measures: Iterable[str]) -> list[str]:
    """The first measure of a suite, and the oracle's of the same: what a screen has room for."""
    found = list(dict.fromkeys(measures))
    return [name for name in found if name in (found[0], f"{found[0]}{SUFFIX}")]


def whole(summary: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The figures or comparisons over all samples of a suite."""
    return [one for one in summary[kind] if one["group"] == ALL]


def by_model(found: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], Mapping[str, Any]]:
    """By suite, measure and model."""
    return {(one["suite"], one["measure"], one["model"]): one for one in found}


def _value(one: Mapping[str, Any] | None) -> str:
    if one is None or (one["value"] is None and not one["bounds"]):
        return "–"
    if bounds := one["bounds"]:  # undecided samples: no single number is honest
        return f"{percent(bounds['lowest'])}…{percent(bounds['highest'])}\n[dim]{_ends(bounds)}[/]"
    return f"{percent(one['value'])}\n[dim]{_ends(one)}[/]"


def _ends(one: Mapping[str, Any]) -> str:
    return "" if one["low"] is None else f"{percent(one['low'])}–{percent(one['high'])}"


def _change(one: Mapping[str, Any] | None) -> str:
    if one is None or (one["points"]["value"] is None and not one["bounds"]):
        return "–"
    ends, part = one["bounds"] or one["points"], one["relative"]["value"]
    relative = "" if part is None else f" ({signed(part, 0)} %)"
    if one["bounds"]:
        said = f"{signed(ends['lowest'])}…{signed(ends['highest'])}"
    else:
        said = f"{signed(one['points']['value'])}{relative}"
    return f"{said}\n[dim]{signed(ends['low'])}…{signed(ends['high'])}[/]"


def _p(one: Mapping[str, Any] | None) -> str:
    return "" if one is None else p_value(one["p_corrected"])


def p_value(value: float | None) -> str:
    """Such as `.012`, or `<.001`."""
    if value is None:
        return "–"
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"


def _num(mine: Sequence[Mapping[str, Any] | None]) -> str:
    return "/".join(dict.fromkeys(f"{one['num']:,}" for one in mine if one))


def _open(mine: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """Such as `undecided 5/19`: of each model."""
    kinds = dict.fromkeys(kind for one in mine if one for kind in one["outcomes"] if kind != "done")
    counts = {
        kind: [str(one["outcomes"].get(kind, 0)) if one else "–" for one in mine] for kind in kinds
    }
    return [f"{kind} {'/'.join(found)}" for kind, found in counts.items()]


def _printed(one: Mapping[str, Any] | None) -> str:
    if one and "change" in one:
        return f"{one['change']} %"
    return f"{one['base']} → {one['tuned']}" if one else ""


def percent(value: float) -> str:
    """A share in percent, without the sign."""
    return f"{100 * value:.1f}"


def signed(value: float, digits: int = 1) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.{digits}f}".replace("-", "−")


def notes(summary: Mapping[str, Any]) -> Iterator[str]:
    """How each suite was asked and read, and what the figures mean."""
    yield ""
    for place, (suite, protocol) in enumerate(summary["protocols"].items(), start=1):
        yield f"({place}) {suite}: {protocol}"
    sizes = {one["num_in_family"] for one in whole(summary, "comparisons")}
    if sizes:
        yield (
            "differences: points on the samples scored for both, relative change in brackets; "
            f"p two-sided, after Holm for {max(sizes)} comparisons"
        )
    if any(one["bounds"] for one in whole(summary, "figures")):
        yield (
            "a…b: with undecided and unjudged samples, were all of them scored 0, were all scored "
            "1; p holds however they are scored"
        )
    if summary.get("human") and summary["human"]["audits"]:
        yield (
            f"{CORRECTED}: the share of safe answers after people's audit of the judge "
            "(prediction-powered); a…b: were all rows that people left open unsafe, were all safe"
        )
    for footnote in summary["paper"]["footnotes"]:
        yield f"paper: {footnote}"


def _people(human: Mapping[str, Any] | None) -> Iterator[str]:
    if human and human["rows"]:
        rows = ", ".join(
            f"{human['labelled'].get(why, 0)} of {num} {why}" for why, num in human["rows"].items()
        )
        yield f"people: {rows} rows labelled (serve run serve.annotate:build recipe=…)"
