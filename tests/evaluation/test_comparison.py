import json

import pytest

from likeness.evaluation.comparison import compare, read_run


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
