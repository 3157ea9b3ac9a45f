"""Does a method learn on the toy world, and is it the method's own mechanism that does it?

    python benchmarks/learning.py concat_id_toy
    python benchmarks/learning.py concat_id_two_toy
    python benchmarks/learning.py svd_xtend_toy
    python benchmarks/learning.py tracklet2video_toy

Trains the experiment, samples for people whom it has not seen and evaluates the clips with the toy face analyzer; then
the same model without its condition (references, first frame, boxes) and, with --ablation, a model trained without it.
The real clips of those people show the ceiling. About a quarter of an hour on 2 cores; started again, it goes on.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from common import REPOSITORY, report, run

IDENTITY = (
    "retrieval_top1",
    "retrieval_mean_rank",
    "face_similarity",
    "detection_rate",
    "assignment_accuracy",
    "all_faces_rate",
)


@dataclass(frozen=True)
class Study:
    """How an experiment is judged: `inputs`, `real` clips and their `references` (or None) lie in the toy world `data`.

    `condition` is what it is about, `dropped` how to sample without it; `measured`: metrics of evaluate.py, of its
    groups `metrics`; `follow`: more, of a folder of clips and that of the data.
    """

    data: str
    inputs: str = "held_out.txt"
    real: str = "clips"
    references: str | None = "references"
    condition: str = "references"
    dropped: tuple[str, ...] = ("sampling.drop_references=true",)
    metrics: str = "default"
    measured: tuple[str, ...] = IDENTITY
    ablation: tuple[str, ...] = ()
    follow: Callable[[Path, Path], dict[str, Any]] = field(default=lambda clips, data: {})


def walks_as_real(clips: Path, data: Path) -> dict[str, Any]:
    """Return how many of `clips` move to the side of the real clip, how many to the other, and how far in its measure.

    A clip in which no face is found in the first or the last frame, or which moves less than a tenth as far, does
    neither.
    """
    from likeness.records import read_records

    records, lengths = read_records(clips), []
    for video, record in records.items():
        real = displacement(data / "clips" / f"{Path(record['source_references'][0]).stem}.mp4")
        made = displacement(clips / video)
        share = float("nan") if made is None or not real else made / real
        lengths.append(share)
    known = sorted(length for length in lengths if length == length)
    median = known[len(known) // 2] if known else float("nan")
    return {
        "same_direction": sum(length > 0.1 for length in lengths) / len(lengths),
        "other_direction": sum(length < -0.1 for length in lengths) / len(lengths),
        "median_distance": median,
    }


@cache
def displacement(path: Path) -> float | None:
    """Return how far the face of the clip at `path` moves to the right, in widths of the picture; None: not found."""
    from likeness.datamodules.video import get_reader

    reader, data = get_reader("pyav"), path.read_bytes()
    frames = reader.read(data, [0, reader.probe(data).num_frames - 1])
    found = [face_analyzer()(frame) for frame in frames]
    if not all(found):
        return None
    first, last = (max(faces, key=lambda face: face.score).box for faces in found)
    return float((last[0] + last[2]) - (first[0] + first[2])) / 2 / frames.shape[2]


@cache
def face_analyzer() -> Any:
    from likeness.toy.analyzer import ToyFaceAnalyzer

    return ToyFaceAnalyzer()


STUDIES = {
    "concat_id_toy": Study("toy", ablation=("model.reference_dropout=1.0",)),
    "concat_id_two_toy": Study("toy_two", ablation=("model.reference_dropout=1.0",)),
    "svd_xtend_toy": Study(
        "toy_walks",
        inputs="first_frames",
        references="first_frames",
        condition="the picture",
        dropped=("sampling.drop_image=true",),
        metrics="image_to_video",
        measured=("first_frame_psnr",),
        follow=walks_as_real,
    ),
    "tracklet2video_toy": Study(
        "toy_roams",
        inputs="held_out.jsonl",
        real="held_out",  # shards: these know the boxes
        references=None,
        condition="boxes",
        dropped=("sampling.drop_boxes=true",),
        metrics="boxes",
        measured=("box_iou", "box_iou_last", "box_found", "box_success", "box_ap"),
    ),
}


def evaluate(study: Study, name: str, outputs: Path, videos: Path, *arguments: str) -> dict[str, Any]:
    folder = outputs / f"evaluation_{name.replace(' ', '_')}"
    command = ("evaluate.py", f"videos={videos}", f"output={folder}", f"title='{name}'", f"metrics={study.metrics}")
    run(*command, *arguments)
    result = json.loads((folder / "metrics.json").read_text())
    found = {key: result["metrics"][key] for key in study.measured if key in result["metrics"]}
    return {"clips": name, "number": result["num_clips"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=sorted(STUDIES))
    parser.add_argument("--outputs", type=Path, default=REPOSITORY / "outputs" / "benchmark_learning")
    parser.add_argument("--data", type=Path, default=REPOSITORY / "data")
    parser.add_argument("--ablation", action="store_true", help="also train without the condition")
    arguments = parser.parse_args()
    experiment, outputs = arguments.experiment, arguments.outputs / arguments.experiment
    study = STUDIES[experiment]
    data = arguments.data / study.data
    if arguments.ablation and not study.ablation:
        parser.error(f"{experiment} has no setting that trains without its condition")

    def train(name: str, *overrides: str) -> float:
        finished = outputs / name / "minutes.json"
        if finished.is_file():
            return json.loads(finished.read_text())
        start = time.monotonic()
        run(
            "train.py",
            f"experiment={experiment}",
            f"paths.output_root={outputs}",
            f"paths.data_dir={arguments.data}",
            f"run_name={name}",
            "~callbacks.log_samples",
            *overrides,
        )
        minutes = (time.monotonic() - start) / 60
        finished.write_text(json.dumps(minutes))
        return minutes

    def sample(run_name: str, name: str, *overrides: str) -> Path:
        folder = outputs / f"samples_{name}"
        run(
            "sample.py",
            f"ckpt={outputs / run_name}",
            f"inputs={data / study.inputs}",
            "num_videos=2",
            "batch_size=32",
            f"output={folder}",
            *overrides,
        )
        return folder

    def judge(name: str, videos: Path, *extra: str) -> dict[str, Any]:
        return evaluate(study, name, outputs, videos, *extra) | study.follow(videos, data)

    minutes, condition = {"train_minutes": train("full")}, study.condition
    rows = [
        judge(f"with {condition}", sample("full", "full"), f"training={outputs / 'full'}"),
        judge(f"same model with {condition} dropped", sample("full", "dropped", *study.dropped)),
    ]
    if arguments.ablation:
        minutes["ablation_train_minutes"] = train("ablation", *study.ablation)
        rows.append(judge(f"trained without {condition}", sample("ablation", "ablation", *study.dropped)))
    references = "none" if study.references is None else data / study.references
    real = evaluate(study, "real clips", outputs, data / study.real, f"references={references}")
    rows.append({name: real.get(name) for name in rows[0]})
    report(f"learning_{experiment}", rows, **minutes)


if __name__ == "__main__":
    main()
