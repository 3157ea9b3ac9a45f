"""What the README shows can be typed."""

import json
import re
import shlex

import pytest

from .commands import call
from .conftest import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text()
PAGES = [TEXT, *(path.read_text() for path in sorted((REPOSITORY / "docs").glob("*.md")))]
BLOCKS = [block for text in PAGES for block in re.findall(r"```bash\n(.*?)```", text, re.S)]
LINES = [line for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("python ") and ".py" in line and "benchmarks" not in line]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_composes(line, capfd):
    _, script, *arguments = shlex.split(line, comments=True)
    arguments = [argument for argument in arguments if argument != "-m"]
    arguments = [argument for argument in arguments if not re.fullmatch(r"[\w.]+=[^\[,]*,.*", argument)]  # sweeps
    outcome = call(capfd, script.removesuffix(".py"), *arguments, "--cfg", "job")
    assert outcome.code == 0, outcome.error


def test_there_are_commands_of_every_kind():
    assert {line.split()[1] for line in COMMANDS} == {
        "train.py",
        "sample.py",
        "evaluate.py",
        "prepare.py",
        "export.py",
    }


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.M))
    assert {name for line in LINES for name in re.findall(r"^make (\w+)", line)} | {"test"} <= targets


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:src|conf|benchmarks|tests)/[\w./]+)`", TEXT))))
def test_named_files_exist(path):
    if path not in (
        "src/models/mine.py",
        "conf/model/mine.yaml",
        "conf/experiment/mine.yaml",
        "tests/models/test_mine.py",
    ):
        assert (REPOSITORY / path).exists()


def test_learning_figures_are_those_of_the_benchmark():
    rows = json.loads((REPOSITORY / "benchmarks" / "results" / "learning_concat_id_toy.json").read_text())["rows"]
    for row in rows:
        cells = (
            rf"\| {re.escape(row['clips'])} \| {100 * row['retrieval_top1']:.0f} % \| {row['face_similarity']:.2f} \|"
        )
        assert re.search(cells, TEXT), row


def test_assignment_figures_are_those_of_the_benchmark():
    rows = json.loads((REPOSITORY / "benchmarks" / "results" / "learning_concat_id_two_toy.json").read_text())["rows"]
    for row in rows:
        assert f"| {row['clips']} | {100 * row['assignment_accuracy']:.0f} % | {row['face_similarity']:.2f} |" in TEXT


def test_image_to_video_figures_are_those_of_the_benchmark():
    rows = json.loads((REPOSITORY / "benchmarks" / "results" / "learning_svd_xtend_toy.json").read_text())["rows"]
    for row in rows[:2]:
        sides = f"{100 * row['same_direction']:.0f} % | {100 * row['other_direction']:.0f} %"
        assert f"| {row['clips']} | {row['first_frame_psnr']:.1f} dB | {sides} |" in TEXT


def test_box_figures_are_those_of_the_benchmark():
    rows = json.loads((REPOSITORY / "benchmarks" / "results" / "learning_tracklet2video_toy.json").read_text())["rows"]
    for row in rows:
        overlaps = f"{row['box_iou']:.2f} | {row['box_iou_last']:.2f} | {100 * row['box_found']:.0f} %"
        assert f"| {row['clips']} | {overlaps} |" in TEXT


def test_step_ratio_is_that_of_the_benchmark():
    rows = json.loads((REPOSITORY / "benchmarks" / "results" / "train_step.json").read_text())["rows"]
    assert f"costs {rows[-1]['ratio']:.2f} times" in TEXT
