"""A benchmark's totals from columns: of tables with a row a video, whoever measured them, and of evaluated runs."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics.answers import ANSWERS
from ..metrics.benchmarks import BENCHMARKS, Benchmark
from .pairs import read_run
from .table import source_of

# What a source gives: by column, its mean over videos and where it is from.
Means = dict[str, tuple[float, str]]


def get_benchmark(name: str | None) -> Benchmark:
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark={name} is not one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def read_columns(places: Sequence[str], benchmark: Benchmark) -> list[Means]:
    """Return what each of `places` has of the columns: a CSV or JSONL file, or a run that evaluate.py has measured."""
    sources: list[Means] = []
    for place in map(Path, places):
        if place.is_file() and place.suffix.lower() in (".csv", ".jsonl"):
            sources.append(means_of_rows(read_rows(place), benchmark, place.name))
        elif place.is_dir():
            sources.append(means_of_result(read_run(place).result, benchmark, str(place)))
        else:
            raise ValueError(
                f"columns={place} is neither a table (.csv, .jsonl) with a row a video and a column a measure, nor the "
                "folder of an evaluation"
            )
    return sources


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file with a header that names columns, or of one JSON object a line."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".csv":
        return list(csv.DictReader(io.StringIO(text)))
    try:
        return [dict(json.loads(line)) for line in text.split("\n") if line.strip()]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected an object a line ({error})") from error


def means_of_rows(rows: Iterable[Mapping[str, Any]], benchmark: Benchmark, source: str) -> Means:
    """Return the means of the benchmark's columns. A cell that is empty does not count, other columns neither."""
    table, means = list(rows), Means()
    for name in benchmark.columns:
        cells = [_cell(row, name, f"{source}, row {number}") for number, row in enumerate(table, 1)]
        if values := [cell for cell in cells if cell is not None]:
            means[name] = benchmark.mean(name, values), f"{source}, {len(values)} videos"
    return means


def means_of_result(result: Mapping[str, Any], benchmark: Benchmark, source: str) -> Means:
    """Return the columns among the values of a `metrics.json`; of its clips, where each is cut before the mean."""
    means = Means()
    for name, column in benchmark.columns.items():
        value = result["metrics"].get(column.measured_as)
        if value is None:
            continue
        value /= column.divisor
        of_clips = result["intervals"].get(column.measured_as, {}).get("column")
        if column.is_cut and of_clips is not None:
            cells = [clip[of_clips] for clip in result["clips"] if clip.get(of_clips) is not None]
            value = benchmark.mean(name, [cell / column.divisor for cell in cells])
        means[name] = value, f"{source}: {source_of(result, str(column.measured_as))}"
    return means


def aggregate(name: str, sources: Sequence[Means]) -> dict[str, Any]:
    """Return shares and totals of the benchmark `name`, for JSON; a total is None where `missing` names columns.

    Raises ValueError where two sources have one column.
    """
    benchmark, means = get_benchmark(name), Means()
    for source in sources:
        for column, (value, place) in source.items():
            if column in means:
                raise ValueError(f"{benchmark.title}: {column} is in {means[column][1]} and in {place}: leave one out")
            means[column] = value, place
    shares = benchmark.shares({column: value for column, (value, _) in means.items()})
    totals = benchmark.sums(shares)
    return {
        "benchmark": name,
        "title": benchmark.title,
        "columns": {
            column: {"value": means[column][0], "share": share, "source": means[column][1]}
            for column, share in shares.items()
        },
        "totals": totals,
        "missing": {total: benchmark.missing(shares, total) for total, value in totals.items() if value is None},
        "caution": benchmark.caution,
    }


def check_something_known(result: Mapping[str, Any]) -> None:
    """Raise ValueError where the columns give no total, or where there is no column at all."""
    known = result["totals"] if result["totals"] else result["columns"]
    if not any(value is not None for value in known.values()):
        columns = ", ".join(dict.fromkeys(column for columns in result["missing"].values() for column in columns))
        expected = columns or ", ".join(get_benchmark(result["benchmark"]).columns)
        raise ValueError(f"{result['title']}: the columns give no total; missing: {expected}")


def _cell(row: Mapping[str, Any], name: str, place: str) -> float | None:
    """Return a video's value of a column, or what follows from the answers of another model; None for an empty cell."""
    if row.get(name) not in (None, ""):
        try:
            value = float(row[name])
        except (ValueError, TypeError):
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(
                f"{place}: {row[name]!r} in the column {name} is no number; leave the cell empty where a video has none"
            )
        return value
    if name not in ANSWERS or not row.get(ANSWERS[name][0]):
        return None
    answer, label, count = ANSWERS[name]
    if not row.get(label):
        raise ValueError(f"{place}: {answer} needs {label} beside it")
    return count(row[answer], row[label])
