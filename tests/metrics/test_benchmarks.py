import pytest

from likeness.metrics.answers import object_consistency, overall_consistency, scene_consistency
from likeness.metrics.benchmarks import BENCHMARKS

# Rows of the published human-domain leaderboard, percent.
COLUMNS = ("aesthetics", "motion_smoothness", "motion_amplitude", "face_similarity", "gme", "natural")
LEADERBOARD = {
    "Concat-ID (CogVideoX)": (55.89, 44.13, 81.90, 31.07, 43.87, 73.67, 58.75),
    "Concat-ID (Wan AdaLN)": (59.85, 43.13, 85.86, 17.19, 50.05, 71.90, 68.47),
    "ConsisID": (54.19, 41.77, 79.83, 37.99, 43.19, 72.03, 55.83),
    "VACE-14B": (65.78, 52.78, 94.96, 11.76, 64.65, 69.53, 69.31),
    "Stand-In": (62.08, 51.25, 97.90, 5.03, 47.99, 69.91, 71.39),
}


# MAGI-1's row of VBench-I2V, percent (arXiv 2505.13211).
MAGI = {
    "camera_motion": 50.85,
    "i2v_subject": 98.39,
    "i2v_background": 99.00,
    "subject_consistency": 93.96,
    "background_consistency": 96.74,
    "motion_smoothness": 98.68,
    "dynamic_degree": 68.21,
    "aesthetic_quality": 64.74,
    "imaging_quality": 69.71,
}


@pytest.mark.parametrize("name", LEADERBOARD)
def test_totals_of_the_leaderboard_are_reproduced(name):
    expected, *columns = LEADERBOARD[name]
    sums = BENCHMARKS["opens2v_human"].sums(dict(zip(COLUMNS, columns, strict=True)))
    assert sums["total"] == pytest.approx(expected, abs=0.011)


def test_vbench_totals_of_a_published_row_are_reproduced():
    benchmark = BENCHMARKS["vbench_i2v"]
    sums = benchmark.sums(benchmark.shares({name: value / 100 for name, value in MAGI.items()}))
    expected = {"i2v_score": 0.9612, "quality_score": 0.8244, "total_score": 0.8928}
    assert sums == pytest.approx(expected, abs=6e-5)


def test_columns_are_normalised_and_cut():
    raw = {"aesthetics": 5.5, "motion_amplitude": 1.7, "face_similarity": -0.1, "gme": 0.4, "nexus": 0.01, "natural": 4}
    expected = {
        "aesthetics": 0.5,
        "motion_amplitude": 1,
        "face_similarity": 0,
        "gme": 0.4,
        "nexus": 0.2,
        "natural": 0.75,
    }
    assert BENCHMARKS["opens2v_open"].shares(raw) == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name, benchmark in BENCHMARKS.items() if benchmark.totals])
def test_the_best_columns_total_one_and_the_least_nothing(name):
    benchmark = BENCHMARKS[name]
    for share in (0.0, 1.0):
        raw = {key: column.low + share * (column.high - column.low) for key, column in benchmark.columns.items()}
        assert benchmark.sums(benchmark.shares(raw)) == pytest.approx(dict.fromkeys(benchmark.totals, share))


def test_vbench_weighs_camera_and_dynamics_less():
    benchmark = BENCHMARKS["vbench_i2v"]
    nothing = dict.fromkeys(benchmark.columns, 0.0)
    expected = {"i2v_score": 0.1 / 2.1, "quality_score": 0.5 / 5.5}
    moved = benchmark.sums(nothing | {"camera_motion": 1.0, "dynamic_degree": 1.0})
    assert moved == pytest.approx(expected | {"total_score": sum(expected.values()) / 2})


def test_a_total_without_all_its_columns_is_undefined_and_says_which():
    benchmark = BENCHMARKS["opens2v_open"]
    shares = {name: 0.5 for name in benchmark.columns if name not in ("natural", "nexus")}
    assert benchmark.sums(shares) == {"total": None, "reproducible_total": pytest.approx(0.5)}
    assert benchmark.missing(shares, "total") == ["nexus", "natural"]
    vbench = BENCHMARKS["vbench_i2v"]
    shares = dict.fromkeys(vbench.columns, 0.5) | {}
    del shares["camera_motion"]
    assert vbench.sums(shares)["i2v_score"] is vbench.sums(shares)["total_score"] is None
    assert vbench.missing(shares, "total_score") == ["camera_motion"]


def test_corrected_total_falls_with_faces_that_were_not_found_and_ignores_closed_judges():
    benchmark = BENCHMARKS["opens2v_human"]
    shares = dict.fromkeys(benchmark.columns, 0.5)
    lost = benchmark.sums(shares | {"face_similarity_all_frames": 0.1})
    assert lost["reproducible_total"] < benchmark.sums(shares)["reproducible_total"] == pytest.approx(0.5)
    assert lost["total"] == pytest.approx(0.5)
    assert benchmark.sums(shares | {"natural": 0.9})["reproducible_total"] == pytest.approx(0.5)


def test_wrong_names_and_impossible_values_are_refused():
    with pytest.raises(ValueError, match="face is not a column of OpenS2V-Eval, human domain"):
        BENCHMARKS["opens2v_human"].shares({"face": 1.0})
    with pytest.raises(ValueError, match=r"44.1 of gme is not within -1 and 1.*not in percent"):
        BENCHMARKS["opens2v_human"].shares({"gme": 44.1})


def test_i2v_bench_counts_answers_of_other_models():
    assert object_consistency([["dog", "tree"], ["tree"], ["dog"]], "dog") == pytest.approx(2 / 3)
    assert scene_consistency(["a sea at dusk with a boat", "a boat"], "sea dusk") == 0.5
    assert overall_consistency([1.0, 0], [1.0, 1]) == pytest.approx(0.5**0.5)
