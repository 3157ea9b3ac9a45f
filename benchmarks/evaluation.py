"""How fast evaluate.py is on drawn clips of 49 x 64 x 64, and whether its memory stays where it is.

    python benchmarks/evaluation.py                  # time, and the greatest resident memory, of 50, 200 and 500 clips

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


def evaluate(folder: Path, num_clips: int) -> dict:
    """Evaluate the first clips; return seconds, the greatest resident size in MB, and clips per second of each part."""
    clips, output = sorted((folder / "clips").iterdir())[:num_clips], folder / f"out_{num_clips}"
    entries = [{"video": str(clip), "references": f"references/{clip.stem}.0.png"} for clip in clips]
    (folder / f"{num_clips}.jsonl").write_text("\n".join(map(json.dumps, entries)))
    arguments = [f"videos={folder / f'{num_clips}.jsonl'}", f"real={folder / 'train'}", METRICS, "num_threads=1"]
    command = [sys.executable, "evaluate.py", *arguments, f"output={output}"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {process.returncode}")
    seconds = time.perf_counter() - start
    timing = json.loads((output / "metrics.json").read_text())["timing"]
    return {
        "videos": num_clips,
        "seconds": seconds,
        "videos_per_s": num_clips / seconds,
        "peak_mb": usage.ru_maxrss // 1024,
        **{name: part["clips_per_s"] for name, part in timing.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 200, 500])
    sizes = sorted(parser.parse_args().sizes)
    with tempfile.TemporaryDirectory() as place:
        write_clips(Path(place), sizes[-1])
        rows = [evaluate(Path(place), size) for size in sizes]
    growth = rows[-1]["peak_mb"] - rows[0]["peak_mb"]
    report("evaluation", rows, metrics=METRICS, growth_mb=growth, frames="49 x 64 x 64", load=os.getloadavg()[0])


if __name__ == "__main__":
    main()
