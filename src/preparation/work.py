"""What a worker process does: makes samples of entries and takes them through the stages."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..datamodules.samples import PREPARED, BadSample, Sample
from ..datamodules.video import described, get_reader
from .clips import clip_sample
from .digests import digest
from .layers import Piece
from .sources import SourceClip
from .sources.shards import StoredSample
from .stages import BatchStage, Entry, SampleStage

log = logging.getLogger(__name__)

READ = "read"  # the name of what comes before the first stage, in counts
ROW = ("key", "num_frames", "fps", "height", "width", "identities", "face_size", "caption_length", "pictures")


@dataclass(frozen=True)
class Task:
    """An entry of the list. `start` stands for what it is made of, `planned` for what a SetStage made of it.

    `stored` and `dropped` are what an earlier run made of it: the samples need no more than the stages from `level` on.
    """

    entry: SourceClip | Entry
    key: str
    start: str
    planned: str | None = None
    stored: tuple[StoredSample, ...] = ()
    level: int = 0
    dropped: tuple[dict[str, Any], ...] = ()

    @property
    def is_reused(self) -> bool:
        return bool(self.stored or self.dropped)


@dataclass(frozen=True)
class Pass:
    """The stages of one pass over the data: `steps` are their names and digests, the first is number `level`.

    `set_number`: how many sets were written before this one; `gives_captions`: clips may come without;
    `inputs`: a digest of what the stages read beside the samples.
    """

    reader: str
    steps: tuple[tuple[str, str], ...] = ()
    level: int = 0
    set_number: int = 0
    set_stage: str | None = None
    gives_captions: bool = False
    inputs: str = ""


@dataclass
class Outcome:
    """What became of a task. `samples`: key, members and the row of the report of each."""

    samples: list[tuple[str, dict[str, bytes], list[Any]]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=dict)
    is_reused: bool = False


class Tools:
    """The stages of a worker process, built when the first sample needs them: copies need none."""

    def __init__(self, build: Callable[[], Sequence[SampleStage | BatchStage]]):
        self._build = build

    @cached_property
    def stages(self) -> Sequence[SampleStage | BatchStage]:
        return self._build()


@dataclass
class _Track:
    """A task and what there is of it."""

    task: Task
    pieces: list[Piece] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=dict)

    def count(self, name: str, taken: int, given: int) -> None:
        counts = self.counts.setdefault(name, [0, 0])
        counts[0] += taken
        counts[1] += given

    def drop(self, piece: Piece, problem: BadSample, layer: str | None = None) -> None:
        key, layers = piece.sample.key, [{"digest": one["digest"], "key": one["key"]} for one in piece.layers]
        if layer is not None:
            layers.append({"digest": layer, "key": key})
        self.dropped.append({**report(self.task, problem, key), PREPARED: {"layers": layers}})


def run_bunch(run: Pass, tools: Tools, bunch: Sequence[Task]) -> list[Outcome]:
    """Return what becomes of each task. Networks get the samples of the whole bunch together."""
    tracks = [_begin(run, task) for task in bunch]
    first = run.level + (run.set_stage is not None)
    for number, (name, step) in enumerate(run.steps):
        level = first + number
        due = [(track, piece) for track in tracks for piece in track.pieces if len(piece.layers) == level]
        if not due:
            continue
        stage = tools.stages[number]
        if isinstance(stage, BatchStage):
            made = _run_batches(stage, name, [piece.sample for _, piece in due])
        else:
            made = [_run_one(stage, name, piece.sample) for _, piece in due]
        for (track, piece), result in zip(due, made, strict=True):
            source = str(piece.sample.info.get("source", ""))
            _advance(track, piece, result, name, after(piece.digest, step, stage.depends_on(piece.sample.key, source)))
    return [_finish(run, track) for track in tracks]


def after(before: str, step: str, dependence: str) -> str:
    """Return the digest of a sample after a stage."""
    return digest(before, step, dependence)


def lost(run: Pass, bunch: Sequence[Task], cause: str) -> list[Outcome]:
    """Return the outcome of a bunch whose worker died of it, twice."""
    problem = BadSample("worker died", f"the process that worked on it ended ({cause}), twice")
    tracks = [_Track(replace(task, stored=(), dropped=())) for task in bunch]
    for track in tracks:
        piece, planned = _lost_piece(run, track.task), track.task.planned
        if planned is not None:
            piece = piece.then(piece.sample, planned, is_only=True)
        for _, step in run.steps:  # whatever changes, it is to be tried again
            piece = piece.then(piece.sample, after(piece.digest, step, ""), is_only=True)
        track.drop(piece, problem)
        track.count(run.set_stage or READ, 1, 0)
    return [_finish(run, track) for track in tracks]


def report(task: Task, problem: BadSample, key: str) -> dict[str, Any]:
    """Return the line of `dropped.jsonl` on a sample."""
    entry = task.entry
    return {
        "place": _printable(entry.place),
        "video": str(entry.video),
        "key": key,
        "reason": problem.reason,
        "detail": _printable(problem.detail),
    }


def _printable(text: str) -> str:
    """Return a text of a list that anybody wrote so that terminals and files take it."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _begin(run: Pass, task: Task) -> _Track:
    track = _Track(task, dropped=[dict(line) for line in task.dropped])
    if task.is_reused:
        track.pieces = [Piece.of(stored.load(), task.start).back_to(task.level) for stored in task.stored]
        return track
    try:
        track.pieces = [_load(run, task)]
    except BadSample as problem:
        track.drop(_lost_piece(run, task), problem, task.planned)
    except Exception as error:
        track.drop(_lost_piece(run, task), _failure(run.set_stage or READ, error), task.planned)
    track.count(run.set_stage or READ, 1, len(track.pieces))
    return track


def _load(run: Pass, task: Task) -> Piece:
    entry = task.entry
    if isinstance(entry, SourceClip):
        return Piece(_clip_sample(entry, task.key, run), task.start)
    if task.planned is None:
        return Piece(_foreign(entry.load(), run), task.start)
    base: StoredSample = entry.base  # type: ignore[attr-defined]
    before = Piece.of(base.load(), task.start) if run.level else Piece(_foreign(base.load(), run), task.start)
    planned = entry.load()
    return before.then(_foreign(planned, run), task.planned, is_only=True)


def _clip_sample(clip: SourceClip, key: str, run: Pass) -> Sample:
    lacks_caption = run.gives_captions and clip.caption is None
    return clip_sample(replace(clip, caption="") if lacks_caption else clip, key, run.reader)


def _foreign(sample: Sample, run: Pass) -> Sample:
    """Return a sample without what another preparation noted in it, and with what its json leaves out of its video."""
    info = {key: value for key, value in sample.info.items() if key != PREPARED}
    return described(replace(sample, info=info), get_reader(run.reader), "num_frames", "fps", "height", "width")


def _lost_piece(run: Pass, task: Task) -> Piece:
    """Return what stands for a sample that could not be made, for the report."""
    return Piece(Sample(task.key, "", {}), task.start, [{"digest": "", "key": task.key}] * run.level)


def _run_one(stage: SampleStage, name: str, sample: Sample) -> list[Sample] | BadSample:
    try:
        return stage(sample)
    except BadSample as problem:
        return problem
    except Exception as error:
        return _failure(name, error)


def _run_batches(stage: BatchStage, name: str, samples: Sequence[Sample]) -> list[list[Sample] | BadSample]:
    made: list[list[Sample] | BadSample] = []
    for start in range(0, len(samples), stage.batch_size):
        results = _run_batch(stage, name, samples[start : start + stage.batch_size])
        made += [result if isinstance(result, BadSample) else [result] for result in results]
    return made


def _run_batch(stage: BatchStage, name: str, samples: Sequence[Sample]) -> list[Sample | BadSample]:
    """Run a batch; where it fails as a whole, each half of it, down to the sample that is to blame."""
    try:
        results = stage.run(samples)
    except Exception as error:
        if len(samples) == 1:
            return [error if isinstance(error, BadSample) else _failure(name, error)]
        half = len(samples) // 2
        return _run_batch(stage, name, samples[:half]) + _run_batch(stage, name, samples[half:])
    if len(results) != len(samples):
        raise ValueError(f"stages.{name} returned {len(results)} results for a batch of {len(samples)} samples")
    return results


def _failure(name: str, error: Exception) -> BadSample:
    log.debug("%s failed", name, exc_info=error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return BadSample(f"{name} failed", f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})")


def _advance(track: _Track, piece: Piece, result: list[Sample] | BadSample, name: str, layer: str) -> None:
    place = next(index for index, one in enumerate(track.pieces) if one is piece)
    if isinstance(result, BadSample):
        track.drop(piece, result, layer)
        made = []
    else:
        made = [piece.then(sample, layer, is_only=len(result) == 1) for sample in result]
    track.pieces[place : place + 1] = made
    track.count(name, 1, len(made))


def _finish(run: Pass, track: _Track) -> Outcome:
    task, kept = track.task, len(track.pieces)
    name = digest(run.steps, [piece.digest for piece in track.pieces], [line["key"] for line in track.dropped])
    sets = [task.start, name, kept, len(track.dropped)]
    outcome = Outcome(counts=track.counts, is_reused=task.is_reused)
    for line in track.dropped:
        prepared = line[PREPARED]
        before = [None] * run.set_number
        outcome.dropped.append({**line, PREPARED: {"layers": prepared["layers"], "sets": [*before, sets]}})
    for piece in track.pieces:
        info = {**piece.sample.info, PREPARED: {"sets": [*piece.sets[: run.set_number], sets], "layers": piece.layers}}
        members = {**piece.sample.members, "json": json.dumps(info).encode()}
        outcome.samples.append((piece.sample.key, members, _row(piece.sample)))
    return outcome


def _row(sample: Sample) -> list[Any]:
    info = sample.info
    identities = info.get("identities") or []
    height, width = info.get("height") or 0, info.get("width") or 0
    sides = [
        max((box[3] - box[1]) * width, (box[4] - box[2]) * height)
        for identity in identities
        for box in identity.get("boxes") or []
    ]
    pictures = sum(len(identity.get("face") or []) for identity in identities)
    return [
        sample.key,
        info.get("num_frames"),
        info.get("fps"),
        height,
        width,
        len(identities),
        round(sum(sides) / len(sides), 1) if sides else None,
        len(info["caption"]),
        pictures,
    ]
