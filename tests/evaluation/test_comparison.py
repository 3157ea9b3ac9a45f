import json
from pathlib import Path

import numpy as np
import pytest
import torch

from likeness.evaluation.comparison import compare
from likeness.evaluation.pairs import distinct_parts, read_run
from likeness.evaluation.store import Store
from likeness.evaluation.table import show, show_change
from likeness.metrics.distances import frechet_from_rows
from likeness.metrics.frechet import FeatureDistance
from likeness.metrics.increments import add_increment, increment


def write_run(folder, scores: dict[str, float | None], protocol: str = "a", **changes):
    known = [score for score in scores.values() if score is not None]
    result = {
        "metrics": {"score": sum(known) / len(known), "fvd": 3.0},
        "intervals": {"score": {"low": 0, "high": 1, "num_clips": len(known), "column": "score"}},
        "of_metric": {"score": "m", "fvd": "f"},
        "features": {"m": "toy", "f": "own"},
        "protocols": {"f": protocol},
        "models": {"m": {f"{folder}/weights": "123"}},
        "settings": {"m": {"num_frames": 16, "root": str(folder)}},
        "clips": [
            {"name": name, "score": score, "video": name, "references": [], "prompt": ""}
            for name, score in scores.items()
        ],
    } | changes
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(result))
    return read_run(folder)


def test_differences_are_taken_in_pairs_of_clips_with_the_same_name(tmp_path):
    first = write_run(tmp_path / "a", {f"{n}.mp4": n / 10 for n in range(10)})
    second = write_run(tmp_path / "b", {f"{n}.mkv": n / 10 + 0.01 * (n % 3) for n in range(1, 11)})
    result = compare([first, second])
    (difference,) = result["metrics"]["score"]["differences"]
    assert difference["num_clips"] == 9
    assert difference["value"] == pytest.approx(0.01)
    assert difference["differs"]
    assert difference["low"] > 0
    assert {entry["name"] for entry in result["metrics"]["score"]["changed"][0][:3]} == {"2", "5", "8"}
    assert any("have 9 of 10 and 10 clips in common" in note for note in result["notes"])
    json.dumps(result, allow_nan=False)


def test_equal_runs_do_not_differ(tmp_path):
    runs = [write_run(tmp_path / name, {f"{n}.mp4": n / 10 for n in range(5)}) for name in "ab"]
    (difference,) = compare(runs)["metrics"]["score"]["differences"]
    assert (difference["value"], difference["differs"]) == (0, False)
    assert compare(runs)["metrics"]["score"]["changed"] == [[]]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"features": {"m": "insightface", "f": "own"}}, "features differ"),
        ({"models": {"m": {"elsewhere": "456"}}}, "models differ"),
        ({"settings": {"m": {"num_frames": 32}}}, "settings differ"),
        ({"settings": {"m": {"num_frames": 16, "weights": [0.5, 0.5, 0]}}}, "settings differ"),
    ],
)
def test_values_from_other_features_models_or_settings_are_not_compared(tmp_path, changes, what):
    runs = [write_run(tmp_path / "a", {"x.mp4": 0.1, "y.mp4": 0.2}), write_run(tmp_path / "b", {"x.mp4": 1}, **changes)]
    result = compare(runs)
    assert result["metrics"]["score"]["differences"] == [None]
    assert any(what in note for note in result["notes"])


def test_distances_under_another_protocol_are_not_compared(tmp_path):
    runs = [write_run(tmp_path / name, {"x.mp4": 0.1}, protocol=name) for name in "ab"]
    assert any("fvd of" in note and "protocols differ" in note for note in compare(runs)["notes"])


def test_a_rate_over_frames_is_compared_as_it_is_pooled(tmp_path):
    """A clip of 16 frames that loses half of its faces outweighs one of a single frame that gains one."""
    runs = [write_run(tmp_path / "a", {"x": 1.0, "y": 0.0}), write_run(tmp_path / "b", {"x": 0.5, "y": 1.0})]
    for run in runs:
        run.result["clips"][0]["weights"] = {"score": 16.0}
    (difference,) = compare(runs)["metrics"]["score"]["differences"]
    assert difference["value"] == pytest.approx(9 / 17 - 16 / 17)


def test_clips_of_one_name_are_pairs_by_their_number_and_those_of_one_stem_by_their_extension(tmp_path):
    names = ["x.mp4", "x.mp4#2", "x.mp4#3", "take.v2", "take.v3", "a.mp4", "a.webm", "b.MP4"]
    first = write_run(tmp_path / "a", dict.fromkeys(names, 0.0))
    second = write_run(tmp_path / "b", {name.replace("b.MP4", "b.mkv"): n for n, name in enumerate(names)})
    result = compare([first, second])["metrics"]["score"]
    assert result["differences"][0]["num_clips"] == 8
    changed = {entry["name"]: entry["change"] for entry in result["changed"][0]}
    assert changed == {"x#2": 1, "x#3": 2, "take.v2": 3, "take.v3": 4, "a.mp4": 5, "a.webm": 6, "b": 7}
    assert any("the first is a, are of several clips" in note for note in compare([first, second])["notes"])


def measure_set(folder, clips: dict[str, torch.Tensor], real: dict[str, torch.Tensor], earlier=()):
    """Write what an evaluation of feature rows leaves."""
    metric = FeatureDistance(name="d", features="given", comparison="test", dim=3, ddof=1, num_resamples=3)
    store = Store(folder / "measured.jsonl")
    for rows, prefix in ((real, "real:"), (clips, "")):
        for name, row in rows.items():
            added = increment(metric, lambda probe, row=row, is_real=bool(prefix): probe.update(row[None], is_real))
            store.put(prefix + name, "m", "key", added, refused=None)
            for other in earlier:
                store.put(f"real:{other}", "m", "key", added, refused=None)
            add_increment(metric, added)
    store.close()
    values = {name: value.item() for name, value in metric.compute().items()}
    result = {
        "metrics": {name: None if np.isnan(value) else value for name, value in values.items()},
        "intervals": {},
        "of_metric": dict.fromkeys(values, "m"),
        "distances": {"m": {"value": "d", "ddof": 1, "real": None}},
        "real_clips": list(real),
        **{part: {} for part in ("features", "protocols", "models", "settings")},
        "clips": [{"name": name, "video": name, "references": [], "prompt": ""} for name in clips],
    }
    (folder / "metrics.json").write_text(json.dumps(result))
    return read_run(folder)


def rows_of(count: int, seed: int, shift: float = 0.0, suffix: str = ".mp4") -> dict[str, torch.Tensor]:
    rows = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) + shift
    return {f"{number}{suffix}": row for number, row in enumerate(rows)}


def test_distances_to_real_clips_are_compared_over_common_clips_in_pairs(tmp_path):
    real, first = rows_of(20, 0), rows_of(14, 1, 1.0)
    second = {name.replace("mp4", "mkv"): row + 0.3 for name, row in list(first.items())[2:]}
    runs = [measure_set(tmp_path / "a", first, real), measure_set(tmp_path / "b", second, real)]
    result = compare(runs)
    (difference,) = result["metrics"]["d"]["differences"]
    common = torch.stack(list(first.values())[2:]).double()
    compared = torch.stack(list(real.values())).double()
    expected = frechet_from_rows(compared, common + 0.3) - frechet_from_rows(compared, common)
    assert difference["value"] == pytest.approx(expected.item(), rel=1e-4)
    assert (difference["num_clips"], difference["differs"]) == (12, True)
    assert result["metrics"]["d_mmd"]["differences"][0]["differs"]
    assert any("d_extrapolated: it is extrapolated" in note for note in result["notes"])
    assert [v["value"] for v in result["metrics"]["d"]["values"]] == [run.result["metrics"]["d"] for run in runs]


def test_real_clips_of_an_earlier_evaluation_do_not_stand_in_the_way(tmp_path):
    real, clips = rows_of(10, 0), rows_of(10, 1, 1.0)
    first = measure_set(tmp_path / "a", clips, real)
    second = measure_set(tmp_path / "b", rows_of(10, 1, 1.5), real, earlier=("old.mp4", "older.mp4"))
    assert compare([first, second])["metrics"]["d"]["differences"][0]["differs"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run: run.path.with_name("measured.jsonl").unlink(), "has kept no features: there is no measured.jsonl"),
        (lambda run: run.path.with_name("measured.jsonl").write_text("{"), "has kept no features of real"),
        (lambda run: run.result["metrics"].update(d=17.0), "are not those of its metrics.json: evaluate it again"),
        (lambda run: run.result.pop("distances"), "it is a value of the whole set"),
    ],
)
def test_a_distance_without_its_features_says_why_it_has_no_paired_interval(tmp_path, damage, reason):
    runs = [measure_set(tmp_path / name, rows_of(10, 1, 1.0), rows_of(10, 0)) for name in "ab"]
    damage(runs[1])
    result = compare(runs)
    assert result["metrics"]["d"]["differences"] == [None]
    assert any(note.startswith("no paired interval for d") and reason in note for note in result["notes"])


def test_distances_to_other_real_clips_or_of_few_pairs_are_not_compared(tmp_path):
    clips = rows_of(10, 1, 1.0)
    first = measure_set(tmp_path / "a", clips, rows_of(10, 0))
    other = measure_set(tmp_path / "b", clips, rows_of(10, 2))
    few = measure_set(tmp_path / "c", dict(list(clips.items())[:5]), rows_of(10, 0))
    notes = compare([first, other])["notes"] + compare([first, few])["notes"]
    assert any("the runs compare with other real clips" in note for note in notes)
    assert any("there are 5 pairs and 10 real clips, and 8 are needed" in note for note in notes)


def test_what_cannot_be_compared_is_an_error(tmp_path):
    first = write_run(tmp_path / "a", {"x.mp4": 0.1})
    with pytest.raises(ValueError, match="at least two runs"):
        compare([first])
    with pytest.raises(ValueError, match="no clip of the same name"):
        compare([first, write_run(tmp_path / "b", {"z.mp4": 0.1})])
    with pytest.raises(ValueError, match="no metrics.json"):
        read_run(tmp_path / "gone")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a metrics.json of evaluate.py"):
        read_run(tmp_path / "old")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/o/a/held_out/evaluation", "/o/b/held_out/evaluation"], ["a", "b"]),
        (["/o/one", "/o/two"], ["one", "two"]),
        (["/o/a/x/evaluation", "/o/b/evaluation"], ["a/x", "b"]),
        (["/o/a", "/o/a/b"], ["/o/a", "b"]),
        (["/o/a", "/o/a"], ["/o/a", "/o/a"]),
    ],
)
def test_runs_are_named_by_what_tells_them_apart(paths, names):
    assert distinct_parts([Path(path) for path in paths]) == names


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.1235"),
        (-0.0000312, "-3.1e-05"),
        (-1e-17, "0.0000"),
        (0.0, "0.0000"),
        (12345.6, "12345.6"),
        (3, "3"),
    ],
)
def test_small_numbers_are_shown_and_rounding_errors_are_not(value, text):
    assert show(value) == text
    assert show_change(value).removeprefix("+") == text
