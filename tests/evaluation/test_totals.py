"""evaluate.py benchmark=NAME: totals from tables, from runs, and from what is measured beside them."""

import json

import pytest

from likeness.evaluation.totals import means_of_result
from likeness.metrics.benchmarks import BENCHMARKS

from ..commands import call
from ..conftest import write_mp4
from ..metrics.test_benchmarks import MAGI

# Concat-ID (CogVideoX) of the published human-domain leaderboard, as raw columns.
COLUMNS = {"aesthetics": 4 + 3 * 0.4413, "motion_smoothness": 0.8190, "motion_amplitude": 0.3107}
COLUMNS |= {"face_similarity": 0.4387, "gme": 0.7367, "natural": 1 + 4 * 0.5875}


def write_csv(path, *rows: dict) -> str:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def total(capfd, folder, benchmark: str, *columns: str):
    arguments = [f"benchmark={benchmark}", f"columns=[{','.join(columns)}]", f"output={folder / 'out'}"]
    outcome = call(capfd, "evaluate", *arguments)
    path = folder / "out" / "totals.json"
    return outcome, json.loads(path.read_text()) if path.is_file() else None


def test_opens2v_columns_become_the_published_total(tmp_path, capfd):
    outcome, result = total(capfd, tmp_path, "opens2v_human", write_csv(tmp_path / "a.csv", {"video": "a"} | COLUMNS))
    assert outcome.code == 0, outcome.error
    assert "55.89" in outcome.log
    assert result["totals"]["total"] == pytest.approx(0.5589, abs=5e-5)
    assert result["totals"]["reproducible_total"] is None
    assert result["missing"] == {"reproducible_total": ["face_similarity_all_frames"]}


def test_vbench_columns_of_several_tables_become_the_published_total(tmp_path, capfd):
    raw = {name: value / 100 for name, value in MAGI.items()}
    camera = {"camera_motion": raw.pop("camera_motion")}
    tables = [write_csv(tmp_path / "a.csv", raw), write_csv(tmp_path / "b.csv", camera)]
    outcome, result = total(capfd, tmp_path, "vbench_i2v", *tables)
    assert outcome.code == 0, outcome.error
    assert result["totals"]["total_score"] == pytest.approx(0.8928, abs=6e-5)
    assert "b.csv, 1 videos" in result["columns"]["camera_motion"]["source"]


def test_a_table_of_videos_is_averaged_and_empty_cells_do_not_count(tmp_path, capfd):
    rows = [COLUMNS | {"gme": 0.0}, COLUMNS | {"gme": 0.8, "natural": ""}]
    _, result = total(capfd, tmp_path, "opens2v_human", write_csv(tmp_path / "a.csv", *rows))
    assert result["columns"]["gme"]["value"] == pytest.approx(0.4)
    assert result["columns"]["natural"] == {"value": COLUMNS["natural"], "share": 0.5875, "source": "a.csv, 1 videos"}


def test_opens2v_cuts_each_video_before_it_averages_and_leaves_out_nexus_of_zero(tmp_path, capfd):
    open_columns = COLUMNS | {"nexus": 0.02}
    rows = [
        open_columns | {"aesthetics": 3.0, "motion_amplitude": -0.1, "face_similarity": -0.2, "nexus": 0.0},
        open_columns | {"aesthetics": 6.0, "motion_amplitude": 3.0, "face_similarity": 0.4, "nexus": 0.09},
        open_columns | {"aesthetics": 6.5},
    ]
    outcome, result = total(capfd, tmp_path, "opens2v_open", write_csv(tmp_path / "a.csv", *rows))
    assert outcome.code == 0, outcome.error
    means = {"aesthetics": (4 + 6 + 6.5) / 3, "motion_amplitude": (0.1 + 1 + 0.3107) / 3}
    means |= {"face_similarity": (0 + 0.4 + 0.4387) / 3, "nexus": (0.05 + 0.02) / 2}
    assert {name: result["columns"][name]["value"] for name in means} == pytest.approx(means)
    assert result["columns"]["nexus"]["share"] == pytest.approx(0.7)


def test_measured_clips_are_cut_one_by_one_as_rows_of_a_table_are():
    name = "motion_amplitude_opens2v"
    result = {"metrics": {name: 1.5}, "intervals": {name: {"column": name}}, "clips": [{name: 0.0}, {name: 3.0}, {}]}
    result |= {"of_metric": {}, "protocols": {}, "features": {}}
    assert means_of_result(result, BENCHMARKS["opens2v_human"], "run")["motion_amplitude"][0] == 0.5


def test_answers_of_other_models_are_counted_for_i2v_bench(tmp_path, capfd):
    rows = [
        {"video": "a", "object": "dog", "detected_objects": [["dog"], ["tree"]], "overall_consistency": 0.2},
        {"video": "b", "scene": "sea dusk", "frame_captions": ["a sea at dusk"], "clip_embedding": [1, 0]},
    ]
    rows[1] |= {"caption_embedding": [3, 4]}
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    outcome, result = total(capfd, tmp_path, "i2v_bench", str(tmp_path / "answers.jsonl"))
    assert outcome.code == 0, outcome.error
    values = {name: column["value"] for name, column in result["columns"].items()}
    assert values == pytest.approx({"object_consistency": 0.5, "scene_consistency": 1, "overall_consistency": 0.4})


def test_what_evaluate_measures_joins_the_table_while_measuring_and_later(tmp_path, capfd):
    clips = tmp_path / "clips"
    write_mp4(clips / "a.mp4")
    rest = write_csv(tmp_path / "rest.csv", {name: 0.5 for name in ("i2v_background", "camera_motion")})
    arguments = [f"videos={clips}", "references=none", "metrics=[motion]", f"output={tmp_path / 'run'}"]
    outcome = call(capfd, "evaluate", *arguments, "benchmark=vbench_i2v", f"columns=[{rest}]")
    assert outcome.code == 0, outcome.error
    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())
    found = measured["benchmark"]
    assert found["columns"].keys() == {"camera_motion", "i2v_background", "dynamic_degree"}
    assert found["columns"]["dynamic_degree"]["value"] == measured["metrics"]["dynamic_degree"]
    assert "Farneback" in found["columns"]["dynamic_degree"]["source"]
    assert found["missing"]["i2v_score"] == ["i2v_subject"]
    assert "missing: i2v_subject" in (tmp_path / "run" / "report.html").read_text()
    others = {"i2v_subject": 0.9} | {name: 0.9 for name in ("subject_consistency", "background_consistency")}
    others |= {name: 0.9 for name in ("motion_smoothness", "aesthetic_quality", "imaging_quality")}
    table = write_csv(tmp_path / "others.csv", others)
    _, result = total(capfd, tmp_path, "vbench_i2v", str(tmp_path / "run"), rest, table)
    assert all(value is not None for value in result["totals"].values())
    assert result["missing"] == {}


@pytest.mark.parametrize(
    ("benchmark", "content", "message"),
    [
        ("opens2v", "gme\n1\n", "benchmark=opens2v is not one of opens2v_human, opens2v_open, vbench_i2v, i2v_bench"),
        ("opens2v_human", "gme\n0.5\n", "missing: aesthetics, motion_smoothness"),
        ("i2v_bench", "video\na.mp4\n", "missing: temporal_flickering"),
        ("opens2v_human", "gme\nhigh\n", "row 1: 'high' in the column gme is no number"),
        ("opens2v_human", "gme\n73.67\n", "73.67 of gme is not within"),
        ("opens2v_human", "gme\nnan\n", "row 1: 'nan' in the column gme is no number; leave the cell empty"),
    ],
)
def test_what_gives_no_total_is_an_error(tmp_path, capfd, benchmark, content, message):
    (tmp_path / "a.csv").write_text(content)
    outcome, _ = total(capfd, tmp_path, benchmark, str(tmp_path / "a.csv"))
    assert outcome.code == 1
    assert message in outcome.error
    assert "Traceback" not in outcome.error


def test_a_column_of_two_sources_is_an_error(tmp_path, capfd):
    tables = [write_csv(tmp_path / name, COLUMNS) for name in ("a.csv", "b.csv")]
    outcome, _ = total(capfd, tmp_path, "opens2v_human", *tables)
    assert "aesthetics is in a.csv, 1 videos and in b.csv, 1 videos: leave one out" in outcome.error
