"""Does a method learn on the toy world, and is it the method's own mechanism that does it?

    python benchmarks/learning.py concat_id_toy

Trains the experiment, samples two clips for each held-out person and evaluates them with the toy face analyzer; then
the same without the mechanism, in two ways: the same model sampled with its references dropped, and a model trained
without ever seeing one. The real clips of those people show the ceiling. About half an hour on 2 cores.
"""

import argparse
import json
import time
from pathlib import Path

from common import REPOSITORY, report, run

ABLATION = {"concat_id_toy": ["model.reference_dropout=1.0"]}
DROPPED = {"concat_id_toy": ["sampling.drop_references=true"]}


def evaluate(name: str, outputs: Path, videos: Path, *arguments: str) -> dict:
    folder = outputs / f"evaluation_{name.replace(' ', '_')}"
    run("evaluate.py", f"videos={videos}", f"output={folder}", f"title='{name}'", *arguments)
    metrics = json.loads((folder / "metrics.json").read_text())
    keys = ("retrieval_top1", "retrieval_mean_rank", "face_similarity", "detection_rate")
    return {"clips": name, "number": metrics["num_clips"], **{key: metrics["metrics"][key] for key in keys}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=sorted(ABLATION))
    parser.add_argument("--outputs", type=Path, default=REPOSITORY / "outputs" / "benchmark_learning")
    parser.add_argument("--data", type=Path, default=REPOSITORY / "data" / "toy")
    arguments = parser.parse_args()
    experiment, outputs = arguments.experiment, arguments.outputs / arguments.experiment
    inputs = arguments.data / "held_out.txt"

    def train(name: str, *overrides: str) -> float:
        start = time.monotonic()
        run(
            "train.py",
            f"experiment={experiment}",
            f"paths.output_root={outputs}",
            f"run_name={name}",
            "~callbacks.log_samples",
            *overrides,
        )
        return (time.monotonic() - start) / 60

    def sample(run_name: str, name: str, *overrides: str) -> Path:
        folder = outputs / f"samples_{name}"
        run(
            "sample.py",
            f"ckpt={outputs / run_name}",
            f"inputs={inputs}",
            "num_videos=2",
            "batch_size=32",
            f"output={folder}",
            *overrides,
        )
        return folder

    minutes = train("full")
    rows = [
        evaluate("with references", outputs, sample("full", "full"), f"training={outputs / 'full'}"),
        evaluate("same model with references dropped", outputs, sample("full", "dropped", *DROPPED[experiment])),
    ]
    ablation_minutes = train("ablation", *ABLATION[experiment])
    rows += [
        evaluate("trained without references", outputs, sample("ablation", "ablation", *DROPPED[experiment])),
        evaluate("real clips", outputs, arguments.data / "clips", f"references={arguments.data / 'references'}"),
    ]
    report(f"learning_{experiment}", rows, train_minutes=minutes, ablation_train_minutes=ablation_minutes)


if __name__ == "__main__":
    main()
