"""`evaluate.py`: metrics over a folder of clips and their references, whoever made them."""

import itertools
import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .config import command
from .datamodules.samples import VIDEO_EXTENSIONS
from .inputs import read_picture
from .records import read_records

log = logging.getLogger(__name__)

PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass
class EvaluatedClip:
    """One clip: its file, reference pictures (one an identity) and prompt, and what was measured."""

    video: Path
    references: tuple[Path, ...]
    prompt: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@command("evaluate")
def main(config: DictConfig) -> None:
    if OmegaConf.is_missing(config, "videos"):
        raise ValueError("videos must name a folder of clips, e.g. one that sample.py wrote")
    clips = find_clips(Path(config.videos), config.references)

    from .config import check
    from .datamodules.shards import write_atomically
    from .metrics.sharing import SharedAnalyzers
    from .report import write_report
    from .run import quiet_libraries

    quiet_libraries()
    check(config)
    analyzers = SharedAnalyzers()
    metrics = {name: analyzers.build(node) for name, node in config.metrics.items()}
    measured, failed = _measure(clips, metrics)
    if not measured:
        raise ValueError(
            f"none of the {len(clips)} clips in {config.videos} could be read; the first: {failed[0]['error']}"
        )
    result = _collect(metrics, measured, failed)
    output = Path(config.output)
    write_atomically(output / "metrics.json", json.dumps(result, indent=1).encode())
    training = None if config.training is None else Path(config.training)
    write_report(
        output / "report.html",
        result,
        measured,
        title=config.title or f"Evaluation of {config.videos}",
        training=training,
    )
    _print_table(result)
    log.info("metrics.json and report.html in %s", output)


def find_clips(folder: Path, references: str | None) -> list[EvaluatedClip]:
    """Return the clips of `folder` with their references.

    Raises ValueError for an empty folder and for a clip without a reference.
    """
    if not folder.is_dir():
        raise ValueError(f"videos={folder} is not a folder")
    records = read_records(folder)
    if records and references is None:
        clips = [
            EvaluatedClip(
                folder / record["video"], tuple(folder / name for name in record["references"]), record["prompt"]
            )
            for record in records.values()
            if record["references"]
        ]
        if not clips:
            raise ValueError(f"{folder}/samples.jsonl lists no clip with a reference picture: give references=FOLDER")
        return clips
    files = sorted(path for path in folder.rglob("*") if path.suffix[1:].lower() in VIDEO_EXTENSIONS)
    if not files:
        raise ValueError(f"videos={folder} holds no video ({', '.join(VIDEO_EXTENSIONS)})")
    if references is None:
        raise ValueError(
            f"{folder} has no samples.jsonl, so references must be given: a folder with NAME.png for each NAME.mp4, "
            "or one picture"
        )
    return [EvaluatedClip(path, _find_references(path, Path(references)), _find_prompt(path)) for path in files]


def _find_references(video: Path, references: Path) -> tuple[Path, ...]:
    """Return NAME.png for NAME.mp4, or NAME.0.png, NAME.1.png... (also NAME_0, NAME_reference_0) for several people."""
    if references.is_file():
        return (references,)
    for separator in ("", ".", "_", "_reference_"):
        found: list[Path] = []
        for number in itertools.count():
            names = (f"{video.stem}{separator}{number if separator else ''}{kind}" for kind in PICTURE_EXTENSIONS)
            picture = next((references / name for name in names if (references / name).is_file()), None)
            if picture is None:
                break
            found.append(picture)
            if not separator:
                break
        if found:
            return tuple(found)
    raise ValueError(f"there is no reference picture for {video.name} in {references}: expected {video.stem}.png")


def _find_prompt(video: Path) -> str:
    text = video.with_suffix(".txt")
    return text.read_text().strip() if text.is_file() else ""


def _measure(clips: list[EvaluatedClip], metrics: dict[str, Any]) -> tuple[list[EvaluatedClip], list[dict[str, str]]]:
    """Update `metrics` with every clip that can be read; return those, and the others with what was wrong."""
    from rich.progress import Progress

    from .datamodules.samples import BadSample
    from .datamodules.video import get_reader

    reader, measured, failed = get_reader("pyav"), [], []
    with Progress(transient=True) as progress:
        for clip in progress.track(clips, description="evaluating"):
            try:
                data = clip.video.read_bytes()
                frames = reader.read(data, range(reader.probe(data).num_frames))
                references = [read_picture(path) for path in clip.references]
            except (BadSample, ValueError, OSError) as error:
                log.warning("left out %s: %s", clip.video, error)
                failed.append({"video": str(clip.video), "error": str(error)})
                continue
            for metric in metrics.values():
                metric.update(frames, references)
            measured.append(clip)
    return measured, failed


def _collect(metrics: dict[str, Any], measured: list[EvaluatedClip], failed: list[dict[str, str]]) -> dict[str, Any]:
    values: dict[str, float | bool | None] = {}
    notes: list[str] = []
    for metric in metrics.values():
        values |= {name: _number(value) for name, value in metric.compute().items()}
        notes += metric.notes()
        for name, column in metric.per_clip().items():
            for clip, value in zip(measured, column, strict=True):
                clip.values[name] = _number(value)
    if failed:
        notes.append(f"{len(failed)} clips could not be read and are left out")
    return {
        "num_clips": len(measured),
        "metrics": values,
        "notes": notes,
        "failed": failed,
        "descriptions": {name: text for metric in metrics.values() for name, text in metric.descriptions.items()},
        "features": {name: metric.features for name, metric in metrics.items()},
        "clips": [
            {
                "video": str(clip.video),
                "references": [str(path) for path in clip.references],
                "prompt": clip.prompt,
                **clip.values,
            }
            for clip in measured
        ],
    }


def _number(value: Any) -> float | bool | None:
    """Return a JSON number; None where the value is not defined (`notes` says why)."""
    number = value.item()
    return None if isinstance(number, float) and math.isnan(number) else number


def _print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", "meaning", title=f"{result['num_clips']} clips")
    for name, value in result["metrics"].items():
        table.add_row(name, "undefined" if value is None else f"{value:.4f}", result["descriptions"].get(name, ""))
    console = Console()
    console.print(table)
    for note in result["notes"]:
        console.print(f"note: {note}")


if __name__ == "__main__":
    main()
