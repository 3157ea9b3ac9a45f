"""evaluate.py as a user calls it, on good and on bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness.evaluation import measuring
from likeness.media import write_png

from ..commands import call
from ..conftest import drawn_video, write_mp4


@pytest.fixture
def clips(toy_world, tmp_path) -> Path:
    """A folder of its own with `clips` of three drawn people and `references`."""
    for number in (12, 13, 14):
        name = f"p{number:05d}_c0"
        for source, suffix in (("clips", ".mp4"), ("references", ".0.png")):
            (tmp_path / source).mkdir(exist_ok=True)
            shutil.copy(toy_world / source / f"{name}{suffix}", tmp_path / source)
    return tmp_path


def evaluate(capfd, folder: Path, *arguments: str, output: str = "out"):
    """Return the outcome and what metrics.json holds, which must be strict JSON."""
    places = [f"videos={folder / 'clips'}", f"references={folder / 'references'}", f"output={folder / output}"]
    outcome = call(capfd, "evaluate", *places, *arguments)
    path = folder / output / "metrics.json"
    return outcome, json.loads(path.read_text(), parse_constant=pytest.fail) if path.is_file() else None


def decoded(monkeypatch) -> list[int]:
    """Return a list that grows by the number of frames whenever a clip is decoded."""
    counts: list[int] = []
    get_reader = measuring.get_reader

    class Counting:
        def read_all(self, data):
            frames, fps = get_reader("pyav").read_all(data)
            counts.append(len(frames))
            return frames, fps

    monkeypatch.setattr(measuring, "get_reader", lambda name: Counting())
    return counts


def test_every_value_has_an_interval_or_none_and_every_undefined_one_a_reason(clips, capfd):
    outcome, result = evaluate(capfd, clips, "metrics=[default,frechet]", f"real={clips / 'clips'}")
    assert outcome.code == 0, outcome.error
    interval = result["intervals"]["face_similarity"]
    assert interval["low"] <= result["metrics"]["face_similarity"] <= interval["high"]
    assert interval["num_clips"] == 3
    assert [clip["weights"]["detection_rate"] for clip in result["clips"]] == [12, 12, 12]  # analysed frames
    assert result["real_clips"] == [clip["name"] for clip in result["clips"]]
    assert result["metrics"]["fvd_own"] == pytest.approx(0, abs=1e-6)  # the same clips
    missing = {name for name, value in result["metrics"].items() if value is None}
    assert missing
    assert missing == result["undefined"].keys()
    assert all(result["undefined"].values())
    assert result["protocols"]["fvd"] == "own"
    assert "sha256" not in result["models"]["face_similarity"]
    assert all(len(digest) == 64 for digest in result["models"]["face_similarity"].values())
    assert result["timing"]["decoding"]["num_clips"] == 3


def test_each_clip_is_decoded_once_and_only_what_changed_is_measured_again(clips, capfd, monkeypatch):
    counts = decoded(monkeypatch)
    _, first = evaluate(capfd, clips, "metrics=[default,motion]")
    assert len(counts) == 3
    _, second = evaluate(capfd, clips, "metrics=[default,motion]")
    assert len(counts) == 3
    assert first == second
    write_mp4(clips / "clips" / "p00013_c0.mp4")
    _, third = evaluate(capfd, clips, "metrics=[default,motion]")
    assert len(counts) == 4
    assert [third["clips"][place] == first["clips"][place] for place in range(3)] == [True, False, True]
    evaluate(capfd, clips, "metrics=[default,motion]", "metrics.reference_copy.num_last_frames=2")
    assert len(counts) == 7


def test_a_killed_evaluation_goes_on_to_the_same_result(clips, capfd, monkeypatch):
    _, whole = evaluate(capfd, clips, "metrics=[default,frechet]", f"real={clips / 'clips'}")
    lines = (clips / "out" / "measured.jsonl").read_bytes().splitlines(keepends=True)
    (clips / "killed").mkdir()
    (clips / "killed" / "measured.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:100])
    counts = decoded(monkeypatch)
    _, resumed = evaluate(capfd, clips, "metrics=[default,frechet]", f"real={clips / 'clips'}", output="killed")
    assert 0 < len(counts) < 6
    for name in ("metrics", "intervals", "clips"):
        assert resumed[name] == whole[name]


def test_what_is_broken_faceless_or_lacks_a_face_is_said_and_the_rest_is_measured(clips, capfd):
    (clips / "clips" / "p00012_c0.mp4").write_bytes(b"broken")
    write_png(clips / "references" / "p00013_c0.0.png", np.zeros((64, 64, 3), np.uint8))
    write_mp4(clips / "clips" / "p00014_c0.mp4", np.zeros((12, 64, 64, 3), np.uint8))
    outcome, result = evaluate(capfd, clips)
    assert outcome.code == 0, outcome.error
    assert [entry["name"] for entry in result["failed"]] == ["p00012_c0.mp4"]
    assert result["metrics"]["face_similarity"] is None
    assert "face" in result["undefined"]["face_similarity"]
    assert (
        "retrieval" not in result["undefined"]["drift_slope"]
        and "retrieval" in result["undefined"]["retrieval_mean_rank"]
    )
    notes = " ".join(result["notes"])
    assert "1 references have no face in any analysed frame" in notes
    assert "1 reference pictures show no face" in notes
    page = (clips / "out" / "report.html").read_text()
    assert "Could not be read" in page
    assert ">nan" not in page.lower()


def test_references_without_a_drawn_face_name_the_analyzer_for_photographs(clips, capfd):
    outcome, _ = evaluate(capfd, clips)
    assert "analyzer=toy sees no face" not in outcome.log
    for path in list((clips / "references").iterdir())[:2]:
        write_png(path, np.full((64, 64, 3), 120, np.uint8))
    outcome, result = evaluate(capfd, clips)
    note = "analyzer=toy sees no face in the reference pictures of 2 of 3 clips: it knows drawn faces only"
    assert note in outcome.log
    assert note in result["notes"][0]


def test_one_clip_has_values_without_intervals(clips, capfd):
    for number in (13, 14):
        (clips / "clips" / f"p{number:05d}_c0.mp4").unlink()
    outcome, result = evaluate(capfd, clips, "metrics=[default,frechet]", f"real={clips / 'clips'}")
    assert outcome.code == 0, outcome.error
    assert result["metrics"]["face_similarity"] > 0.8
    assert result["intervals"]["face_similarity"]["low"] is None
    assert "one clip has no spread" in " ".join(result["notes"])


def test_nothing_that_can_be_read_is_an_error(clips, capfd):
    for path in (clips / "clips").iterdir():
        path.write_bytes(b"broken")
    outcome, result = evaluate(capfd, clips)
    assert (outcome.code, result) == (1, None)
    assert "none of the 3 clips" in outcome.error


def test_without_references_or_real_clips_the_rest_is_measured_and_the_absence_is_visible(clips, capfd):
    arguments = ["references=none", f"videos={clips / 'clips'}", f"output={clips / 'out'}"]
    outcome = call(capfd, "evaluate", *arguments, "metrics=all")
    assert outcome.code == 0, outcome.error
    result = json.loads((clips / "out" / "metrics.json").read_text())
    assert result["metrics"]["motion_amplitude"] > 0
    assert "references=none leaves out" in result["disabled"]["face_similarity"]
    assert "give real=FOLDER" in result["disabled"]["fvd"]
    assert "clip_vit_b32" in result["disabled"]["clip_score"]
    page = (clips / "out" / "report.html").read_text()
    assert "Disabled, not measured" in page
    assert "hf download openai/clip-vit-base-patch32" in page
    assert "disabled" in outcome.log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["metrics=frechet"], "metrics.fvd cannot run: it compares with real clips: give real=FOLDER"),
        (["metrics=opens2v"], "needs the model pack buffalo_l"),
        (["metrics=text"], "metrics.clip_score: the weights clip_vit_b32 are not at"),
        (["metrics=all", "metrics.aesthetic.num_frames=8"], "metrics.aesthetic: the weights clip_vit_l14 are not at"),
        (["references=none"], "no metric can run"),
        (["real=gone", "metrics=all"], "real=gone is not a folder"),
        (["prompts=gone"], "prompts=gone is neither a folder"),
        (["compare=[gone,away]"], "there is no metrics.json in gone"),
        (["benchmark=vbench_i2v", "columns=[gone.csv]"], "columns=gone.csv is neither a table"),
        (["metrics=[motion,boxes]"], "metrics.box_iou cannot run: no clip has boxes"),
        (["save_real=kept"], "save_real=kept keeps what is measured of real clips: give real=FOLDER"),
        (["num_resamples=0"], "num_resamples=0 must be at least 1"),
    ],
)
def test_what_was_asked_for_by_name_and_cannot_run_is_an_error(clips, capfd, arguments, message):
    outcome, _ = evaluate(capfd, clips, *arguments)
    assert outcome.code == 1
    assert message in outcome.error
    assert "Traceback" not in outcome.error


def test_real_clips_that_nothing_compares_with_are_not_read_and_said_to_have_no_effect(clips, capfd, monkeypatch):
    counts = decoded(monkeypatch)
    outcome, _ = evaluate(capfd, clips, "metrics=motion", f"real={clips / 'clips'}")
    assert outcome.code == 0, outcome.error
    assert len(counts) == 3
    assert "has no effect: none of motion, flicker" in outcome.log + outcome.error


def test_what_is_kept_of_real_clips_stands_for_them_in_a_later_run(clips, capfd):
    arguments = ["metrics=frechet", f"real={clips / 'clips'}", f"save_real={clips / 'kept'}"]
    outcome, first = evaluate(capfd, clips, *arguments)
    assert outcome.code == 0, outcome.error
    kept = [f"metrics.{name}.real={clips / 'kept' / name}.safetensors" for name in ("fvd", "fid")]
    outcome, second = evaluate(capfd, clips, "metrics=frechet", *kept, output="second")
    assert outcome.code == 0, outcome.error
    assert second["metrics"]["fid_own_num_real"] == 3
    for name in ("fvd_own", "fid_own"):
        assert second["metrics"][name] == pytest.approx(first["metrics"][name], abs=1e-3)


def test_shards_are_measured_as_they_are(toy_world, tmp_path, capfd):
    arguments = [f"videos={toy_world / 'held_out'}", f"output={tmp_path}"]
    outcome = call(capfd, "evaluate", *arguments, "metrics.face_similarity.num_frames=4")
    assert outcome.code == 0, outcome.error
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert result["num_clips"] == 12
    assert result["metrics"]["retrieval_chance"] == pytest.approx(1 / 6)  # two clips of each person
    assert all(clip["prompt"] for clip in result["clips"])


def test_an_animation_is_left_out_and_named_instead_of_measured_as_its_first_frame(clips, capfd):
    frames = [Image.fromarray(frame) for frame in drawn_video()]
    frames[0].save(clips / "a.gif", save_all=True, append_images=frames[1:])
    lines = [{"video": "a.gif"}, {"video": "clips/p00012_c0.mp4"}]
    (clips / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = [f"videos={clips / 'list.jsonl'}", "references=none", "metrics=motion", f"output={clips / 'out'}"]
    outcome = call(capfd, "evaluate", *arguments)
    assert outcome.code == 0, outcome.error
    (failed,) = json.loads((clips / "out" / "metrics.json").read_text())["failed"]
    assert "of an animated picture one frame would be read: make videos of them" in failed["error"]


def test_two_runs_are_compared_in_pairs(clips, capfd):
    shutil.copytree(clips / "clips", clips / "real")
    distances = ["metrics=[default,frechet]", f"real={clips / 'real'}"]
    _, first = evaluate(capfd, clips, *distances, output="a")
    frames = np.zeros((12, 64, 64, 3), np.uint8)
    write_mp4(clips / "clips" / "p00013_c0.mp4", frames)
    evaluate(capfd, clips, *distances, output="b")
    runs = f"compare=[{clips / 'a'},{clips / 'b'}]"
    outcome = call(capfd, "evaluate", runs, f"output={clips / 'c'}")
    assert outcome.code == 0, outcome.error
    result = json.loads((clips / "c" / "comparison.json").read_text(), parse_constant=pytest.fail)
    row = result["metrics"]["face_similarity_all_frames"]
    assert row["changed"][0][0]["name"] == "p00013_c0"
    assert row["differences"][0]["value"] == pytest.approx(-first["clips"][1]["similarity_all_frames"] / 3, abs=1e-4)
    assert any(
        "no paired interval for fvd_own, fvd_own_mmd" in note and "there are 3 pairs and 3 real clips" in note
        for note in result["notes"]
    )
    page = (clips / "c" / "comparison.html").read_text()
    assert page.count("<video") >= 2
    assert "What changed" in page
