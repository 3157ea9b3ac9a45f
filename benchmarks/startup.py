"""How long until a command answers, beside `python -c "import torch"` in the same run.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

from common import REPOSITORY, report

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "import likeness": ["-c", "import likeness"],
    "train.py --help": ["train.py", "--help"],
    "train.py experiment=concat_id --cfg job": ["train.py", "experiment=concat_id", "--cfg", "job"],
    "train.py experiment=concat_id (weights missing)": ["train.py", "experiment=concat_id", "datamodule.train=."],
    "sample.py --help": ["sample.py", "--help"],
    "evaluate.py --help": ["evaluate.py", "--help"],
    "prepare.py --help": ["prepare.py", "--help"],
    "export.py --help": ["export.py", "--help"],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    # In turn, so that a busy moment of the machine meets all of them; the first round warms the caches.
    for _ in range(6):
        for name, command in COMMANDS.items():
            start = time.monotonic()
            subprocess.run([sys.executable, *command], cwd=REPOSITORY, capture_output=True)
            seconds[name].append(time.monotonic() - start)
    torch = statistics.median(seconds["import torch"][1:])
    rows = []
    for name, values in seconds.items():
        median = statistics.median(values[1:])
        rows.append({"command": name, "median_s": median, "ratio_to_import_torch": median / torch})
    report("startup", rows)


if __name__ == "__main__":
    main()
