import pytest

from likeness.metrics.opens2v import WEIGHTS, normalise, read_table, reproducible_total, total, totals
from likeness.metrics.vbench import i2v_totals, object_consistency, overall_consistency, scene_consistency

# Rows of the published human-domain leaderboard, percent.
COLUMNS = ("aesthetics", "motion_smoothness", "motion_amplitude", "face_similarity", "gme", "natural")
LEADERBOARD = {
    "Concat-ID (CogVideoX)": (55.89, 44.13, 81.90, 31.07, 43.87, 73.67, 58.75),
    "Concat-ID (Wan AdaLN)": (59.85, 43.13, 85.86, 17.19, 50.05, 71.90, 68.47),
    "ConsisID": (54.19, 41.77, 79.83, 37.99, 43.19, 72.03, 55.83),
    "VACE-14B": (65.78, 52.78, 94.96, 11.76, 64.65, 69.53, 69.31),
    "Stand-In": (62.08, 51.25, 97.90, 5.03, 47.99, 69.91, 71.39),
}


@pytest.mark.parametrize("name", LEADERBOARD)
def test_totals_of_the_leaderboard_are_reproduced(name):
    expected, *columns = LEADERBOARD[name]
    assert total(dict(zip(COLUMNS, columns, strict=True))) == pytest.approx(expected, abs=0.011)


def test_columns_are_normalised_and_cut():
    raw = {"aesthetics": 5.5, "motion_amplitude": 1.7, "face_similarity": -0.1, "gme": 0.4, "nexus": 0.01, "natural": 4}
    shares = normalise(raw)
    expected = {
        "aesthetics": 0.5,
        "motion_amplitude": 1,
        "face_similarity": 0,
        "gme": 0.4,
        "nexus": 0.2,
        "natural": 0.75,
    }
    assert shares == pytest.approx(expected)


def test_perfect_columns_total_one_in_each_domain():
    for domain, weights in WEIGHTS.items():
        assert total(dict.fromkeys(weights, 1.0), domain) == pytest.approx(1)
        assert reproducible_total(dict.fromkeys(weights, 1.0), 1.0, domain) == pytest.approx(1)


def test_corrected_total_falls_with_faces_that_were_not_found_and_ignores_closed_judges():
    shares = dict.fromkeys(WEIGHTS["human"], 0.5)
    assert reproducible_total(shares, 0.1) < reproducible_total(shares, 1.0) == pytest.approx(0.5)
    assert reproducible_total(shares | {"natural": 0.9}, 1.0) == pytest.approx(0.5)


def test_table_of_videos_is_averaged_and_normalised(tmp_path):
    path = tmp_path / "scores.csv"
    header = ",".join(("video", *COLUMNS))
    path.write_text(f"{header}\na.mp4,5,0.8,0.3,0.4,0.7,3\nb.mp4,6,0.9,0.1,,0.8,4\n")
    result = totals(read_table(path))
    assert result["aesthetics"] == pytest.approx(0.5)
    assert result["face_similarity"] == pytest.approx(0.4)  # an empty cell does not count
    assert result["total"] == pytest.approx(total(result))
    with pytest.raises(ValueError, match="no value in the column nexus"):
        totals(read_table(path), "open")


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="face is not a column"):
        normalise({"face": 1.0})
    with pytest.raises(ValueError, match="domain=humans is not one of human, open"):
        total({}, "humans")
    with pytest.raises(ValueError, match="needs the columns gme, natural"):
        total(dict.fromkeys(COLUMNS[:4], 1.0))


def test_vbench_totals_weigh_camera_and_dynamics_less():
    least = {"i2v_subject": 0.1462, "i2v_background": 0.2615, "subject_consistency": 0.1462}
    least |= {"background_consistency": 0.2615, "motion_smoothness": 0.706}
    nothing = least | dict.fromkeys(("camera_motion", "dynamic_degree", "aesthetic_quality", "imaging_quality"), 0.0)
    assert i2v_totals(nothing) == pytest.approx({"i2v_score": 0, "quality_score": 0, "total_score": 0})
    moved = i2v_totals(nothing | {"camera_motion": 1.0, "dynamic_degree": 1.0})
    expected = {"i2v_score": 0.1 / 2.1, "quality_score": 0.5 / 5.5}
    assert moved == pytest.approx(expected | {"total_score": sum(expected.values()) / 2})
    with pytest.raises(ValueError, match="missing: camera_motion"):
        i2v_totals({name: value for name, value in nothing.items() if name != "camera_motion"})


def test_i2v_bench_counts_answers_of_other_models():
    import torch

    assert object_consistency([["dog", "tree"], ["tree"], ["dog"]], "dog") == pytest.approx(2 / 3)
    assert scene_consistency(["a sea at dusk with a boat", "a boat"], "sea dusk") == 0.5
    assert overall_consistency(torch.tensor([1.0, 0]), torch.tensor([1.0, 1])) == pytest.approx(0.5**0.5)
