"""Does a method learn on the toy world, and is it the method's own mechanism that does it?

    python benchmarks/learning.py concat_id_toy
    python benchmarks/learning.py concat_id_two_toy

Trains the experiment, samples two clips for each held-out person (or pair) and evaluates them with the toy face
analyzer; then the same model with its references dropped and, with --ablation, a model trained without ever seeing one.
The real clips of those people show the ceiling. About a quarter of an hour on 2 cores; started again, it goes on.
"""

import argparse
import json
import time
from pathlib import Path

from common import REPOSITORY, report, run

DATA = {"concat_id_toy": "toy", "concat_id_two_toy": "toy_two"}
ABLATION = ["model.reference_dropout=1.0"]
DROPPED = ["sampling.drop_references=true"]
METRICS = (
    "retrieval_top1",
    "retrieval_mean_rank",
    "face_similarity",
    "detection_rate",
    "assignment_accuracy",
    "all_faces_rate",
)


def evaluate(name: str, outputs: Path, videos: Path, *arguments: str) -> dict:
    folder = outputs / f"evaluation_{name.replace(' ', '_')}"
    run("evaluate.py", f"videos={videos}", f"output={folder}", f"title='{name}'", *arguments)
    result = json.loads((folder / "metrics.json").read_text())
    found = {key: result["metrics"][key] for key in METRICS if key in result["metrics"]}
    return {"clips": name, "number": result["num_clips"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=sorted(DATA))
    parser.add_argument("--outputs", type=Path, default=REPOSITORY / "outputs" / "benchmark_learning")
    parser.add_argument("--data", type=Path, default=REPOSITORY / "data")
    parser.add_argument("--ablation", action="store_true", help="also train without references")
    arguments = parser.parse_args()
    experiment, outputs = arguments.experiment, arguments.outputs / arguments.experiment
    data = arguments.data / DATA[experiment]

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
            f"inputs={data / 'held_out.txt'}",
            "num_videos=2",
            "batch_size=32",
            f"output={folder}",
            *overrides,
        )
        return folder

    minutes = {"train_minutes": train("full")}
    rows = [
        evaluate("with references", outputs, sample("full", "full"), f"training={outputs / 'full'}"),
        evaluate("same model with references dropped", outputs, sample("full", "dropped", *DROPPED)),
    ]
    if arguments.ablation:
        minutes["ablation_train_minutes"] = train("ablation", *ABLATION)
        rows.append(evaluate("trained without references", outputs, sample("ablation", "ablation", *DROPPED)))
    rows.append(evaluate("real clips", outputs, data / "clips", f"references={data / 'references'}"))
    report(f"learning_{experiment}", rows, **minutes)


if __name__ == "__main__":
    main()
