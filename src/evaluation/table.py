"""What an evaluation found, as a table on the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

NOISE = 1e-9  # what is left of a sum of numbers that cancel
BOUNDS = ("_low", "_high", "_num_real", "_num_generated")


def shown_values(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the values that stand for themselves: not the bounds and counts of another one, which stand beside it."""
    values = result["metrics"]
    bounds = {f"{name}{end}" for name in values for end in BOUNDS if f"{name}{end}" in values}
    return {name: value for name, value in values.items() if name not in bounds}


def show(value: float | None) -> str:
    if value is None:
        return "undefined"
    if isinstance(value, int):
        return f"{value:d}"
    if NOISE < abs(value) < 0.001:
        return f"{value:.2g}"
    return f"{value:z.4f}" if abs(value) < 1000 else f"{value:.1f}"


def show_change(value: float) -> str:
    """Return a difference with its sign."""
    return f"{'+' if value >= 0 else ''}{show(value)}"


def show_interval(interval: Mapping[str, Any] | None) -> str:
    """Return an interval in brackets; nothing where there is none."""
    if interval is None or interval.get("low") is None or interval.get("high") is None:
        return ""
    return f"[{show(interval['low'])}, {show(interval['high'])}]"


def by_reason(disabled: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of `disabled` metrics by what disables them."""
    found: dict[str, list[str]] = {}
    for name, reason in disabled.items():
        found.setdefault(reason, []).append(name)
    return found


def source_of(result: Mapping[str, Any], value: str) -> str:
    """Return the protocol, if any, and the features of a value."""
    metric = result["of_metric"].get(value, "")
    parts = [result["protocols"].get(metric), result["features"].get(metric)]
    return ", ".join(part for part in parts if part)


def _print(table: Any, notes: Sequence[str] = ()) -> None:
    from rich.console import Console

    console = Console()
    console.width = max(console.width, 150)  # without a terminal, rich takes 80 columns and cuts names
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def print_result(result: Mapping[str, Any]) -> None:
    """Print values with intervals, what was not measured, notes, and how fast it was."""
    from rich.table import Table

    title = f"{result['num_clips']} clips"
    if result["failed"]:
        title += f", {len(result['failed'])} more could not be read"
    table = Table("metric", "value", "95 % interval", "from", "meaning", title=title)
    for name, value in shown_values(result).items():
        meaning = result["undefined"].get(name) or result["descriptions"].get(name, "")
        interval = show_interval(result["intervals"].get(name))
        table.add_row(name, show(value), interval, source_of(result, name), meaning)
    for reason, names in by_reason(result["disabled"]).items():
        table.add_row("\n".join(names), "disabled", "", "", reason.partition(" Get them with")[0], style="dim")
    speeds = {name: timing["clips_per_s"] for name, timing in result["timing"].items()}
    parts = [
        f"{name} {speed:.0f}" if speed >= 10 else f"{name} {speed:.2g}"
        for name, speed in speeds.items()
        if speed is not None
    ]
    _print(table, [*(f"note: {note}" for note in result["notes"]), f"videos/s: {', '.join(parts)}"])


def print_comparison(result: Mapping[str, Any]) -> None:
    """Print the values of every run and the differences to the first."""
    from rich.table import Table

    names = result["runs"]
    table = Table("metric", *names, *(f"{name} less {names[0]}" for name in names[1:]), title="Comparison of runs")
    for metric, row in result["metrics"].items():
        cells = [show(value["value"]) if value else "not measured" for value in row["values"]]
        table.add_row(metric, *cells, *(show_difference(difference) for difference in row["differences"]))
    _print(table, [f"note: {note}" for note in result["notes"]])


def show_difference(difference: Mapping[str, Any] | None) -> str:
    """Return a difference with its interval; a star where that leaves 0 out."""
    if difference is None or difference["value"] is None:
        return ""
    star = " *" if difference["differs"] else ""
    return f"{show_change(difference['value'])} {show_interval(difference)}{star}"


def print_totals(result: Mapping[str, Any]) -> None:
    """Print a benchmark's columns and totals, in percent, and what is missing."""
    from rich.table import Table

    table = Table("column", "measured", "percent", "from", title=result["title"])
    for name, column in result["columns"].items():
        table.add_row(name, show(float(column["value"])), f"{100 * column['share']:.2f}", column["source"])
    for name, value in result["totals"].items():
        missing = ", ".join(result["missing"].get(name, []))
        shown = "undefined" if value is None else f"{100 * value:.2f}"
        table.add_row(name, "", shown, f"missing: {missing}" if missing else "", style="bold")
    _print(table, [f"note: {result['caution']}"] if result["caution"] else [])
