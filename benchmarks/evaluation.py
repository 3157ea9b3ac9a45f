"""How fast evaluate.py is on drawn clips of 49 x 64 x 64, and whether its memory stays where it is.

    python benchmarks/evaluation.py                  # 200 clips, then memory at 50, 200 and 500

Each size is a process of its own: the command as a user calls it, all metrics without weights, real clips included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import REPOSITORY, report

METRICS = "metrics=[default,frechet,motion]"


def write_clips(folder: Path, num_clips: int) -> None:
    """Write `clips` and `references` of so many drawn people, and `train`, shards of others to compare with."""
    from likeness.toy.world import ToyWorld, write_world

    write_world(ToyWorld(num_people=16, num_held_out=num_clips, num_frames=49), folder)


def evaluate(folder: Path, output: Path) -> tuple[float, int, dict]:
    """Return seconds, the greatest resident size in MB, and what `metrics.json` holds."""
    arguments = [f"videos={folder / 'clips'}", f"references={folder / 'references'}", f"real={folder / 'train'}"]
    command = [sys.executable, "evaluate.py", *arguments, METRICS, f"output={output}"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {process.returncode}")
    seconds = time.perf_counter() - start
    return seconds, usage.ru_maxrss // 1024, json.loads((output / "metrics.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 200, 500])
    sizes = parser.parse_args().sizes
    rows, speeds = [], {}
    with tempfile.TemporaryDirectory() as place:
        for size in sizes:
            write_clips(Path(place) / str(size), size)
            seconds, peak, result = evaluate(Path(place) / str(size), Path(place) / f"out_{size}")
            rows.append({"videos": size, "seconds": seconds, "videos_per_s": size / seconds, "peak_mb": peak})
            speeds = {name: timing["clips_per_s"] for name, timing in result["timing"].items()}
    growth = rows[-1]["peak_mb"] - rows[0]["peak_mb"]
    report("evaluation", rows, metrics=METRICS, growth_mb=growth, videos_per_s=speeds, frames="49 x 64 x 64")


if __name__ == "__main__":
    main()
