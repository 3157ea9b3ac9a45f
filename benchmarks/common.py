"""What the benchmarks share: the machine's description, a table on screen, a JSON file."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")


def machine() -> dict[str, Any]:
    import torch

    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def run(*command: str) -> None:
    """Run a command of the checkout and let it print; stop the benchmark where it fails."""
    print("$", " ".join(command), flush=True)
    subprocess.run([sys.executable, *command], cwd=REPOSITORY, check=True)


def report(name: str, rows: list[dict[str, Any]], **notes: Any) -> None:
    """Print `rows` as a table and write them, with the machine and `notes`, to `results/NAME.json`."""
    show(rows, name)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **notes, "rows": rows}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(f"written to benchmarks/results/{name}.json")


def show(rows: list[dict[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console = Console()
    console.width = max(console.width, 130)  # without a terminal, rich takes 80 columns and breaks every heading
    console.print(table)


def main() -> None:
    """Print a result that is stored: python benchmarks/common.py learning_concat_id_toy."""
    result = json.loads((RESULTS / f"{sys.argv[1]}.json").read_text())
    minutes = "".join(f", {name.replace('_', ' ')} {result[name]:.1f}" for name in result if name.endswith("minutes"))
    show(result["rows"], f"{sys.argv[1]} on {result['machine']['processor']}{minutes}")


if __name__ == "__main__":
    main()
