"""`sample.py boxes=...`: what the model is given, what is recorded, and the clip with its boxes drawn in."""

import json

import numpy as np
import pytest

from likeness.datamodules.video import get_reader
from likeness.records import read_records, recorded_boxes

from .commands import call
from .conftest import write_picture

ROWS = [[0, 0.25, 0.25, 0.75, 0.75], [4, 0.5, 0.25, 1.0, 0.75]]
BOXES = {"coordinates": "unit", "objects": [{"id": "a", "colour": "red", "boxes": ROWS}]}


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy_settings):
    """A run of one step of a method that follows boxes, with room for two objects."""
    output = tmp_path_factory.mktemp("boxes") / "run"
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv",
            [
                "train.py",
                "experiment=tracklet2video_toy",
                "debug=tiny",
                *toy_settings,
                "datamodule.num_frames=5",
                "datamodule.height=32",
                "datamodule.width=32",
                "datamodule.batch_size=1",
                "datamodule.conditions.tracklets.num_slots=2",
                "sampling.num_inference_steps=1",
                "backbone.denoiser.config.block_out_channels=[32,64]",
                "callbacks.log_samples.num_clips=0",
                "trainer.max_steps=1",
                "trainer.val_check_interval=1",
                "trainer.limit_val_batches=1",
                "callbacks.checkpoint.every_n_train_steps=1",
                f"paths.output_root={output.parent}",
                "run_name=run",
            ],
        )
        from likeness.train import main

        main()
    return output


@pytest.fixture
def given(tmp_path, run):
    """Arguments of a sampling command, and its folder."""
    (tmp_path / "boxes.json").write_text(json.dumps(BOXES))
    picture = write_picture(tmp_path / "first.png")
    return [f"ckpt={run}", f"references=[{picture}]", f"boxes={tmp_path / 'boxes.json'}", f"output={tmp_path / 's'}"]


def read(path) -> np.ndarray:
    return get_reader("pyav").read_all(path.read_bytes())[0]


def test_boxes_are_recorded_and_shown(given, tmp_path, capfd):
    outcome = call(capfd, "sample", *given, "show_boxes=true", "height=64", "width=64")
    assert outcome.code == 0, outcome.error
    (record,) = read_records(tmp_path / "s").values()
    tracked = recorded_boxes(record)
    np.testing.assert_allclose(tracked.boxes[:, 0, 0], [0.25, 0.3125, 0.375, 0.4375, 0.5])
    assert tracked.soft[:, 0].tolist() == [False, True, True, True, False]
    clean, shown = (read(tmp_path / "s" / record[name]).astype(int) for name in ("video", "overlay"))
    reddest = (shown[..., 0] - shown[..., 1:].max(axis=-1)) > 60
    assert reddest[4, 16, 33:63].mean() > 0.9
    assert np.abs(shown - clean)[4, :12].mean() < 6


def test_clips_that_are_there_get_their_overlay_later_and_other_boxes_another_clip(given, tmp_path, capfd):
    assert call(capfd, "sample", *given).code == 0
    (before,) = read_records(tmp_path / "s").values()
    assert "overlay" not in before and not (tmp_path / "s" / "boxes").exists()
    outcome = call(capfd, "sample", *given, "show_boxes=true")
    assert "1 clips are in" in outcome.log
    (after,) = read_records(tmp_path / "s").values()
    assert {name: value for name, value in after.items() if name not in ("overlay", "made")} == {
        name: value for name, value in before.items() if name != "made"
    }
    assert (tmp_path / "s" / after["overlay"]).is_file()
    (tmp_path / "boxes.json").write_text(json.dumps(BOXES).replace("0.25", "0.2"))
    outcome = call(capfd, "sample", *given)
    assert outcome.code == 0 and "are in" not in outcome.log.partition("1 clips in")[0]
    (other,) = read_records(tmp_path / "s").values()
    assert "overlay" not in other and recorded_boxes(other).boxes[0, 0, 0] == 0.2


def test_lines_of_a_list_have_boxes_of_their_own(given, run, tmp_path, capfd):
    (tmp_path / "own.csv").write_text("frame,id,x1,y1,x2,y2\n0,b,0,0,1,1\n")
    inline = {**BOXES, "coordinates": "pixels", "objects": [{"id": "c", "boxes": [[0, 3, 8, 15, 16]]}]}
    lines = [{}, {"boxes": "own.csv"}, {"boxes": inline}]
    (tmp_path / "list.jsonl").write_text(
        "".join(json.dumps({"references": ["first.png"], **line}) + "\n" for line in lines)
    )
    arguments = [argument for argument in given if not argument.startswith("references")]
    outcome = call(capfd, "sample", *arguments, f"inputs={tmp_path / 'list.jsonl'}", "show_boxes=true")
    assert outcome.code == 0, outcome.error
    found = [recorded_boxes(record) for record in read_records(tmp_path / "s").values()]
    assert [one.ids for one in found] == [("a",), ("b",), ("c",)]
    np.testing.assert_allclose(found[2].boxes[0, 0], [0.1, 0.2, 0.5, 0.4])  # of a picture of 30 x 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", '"coordinates" must say'),
        (json.dumps(BOXES).replace("[4,", "[5,"), "frame 5 is none of the clip's 0 to 4"),
        (
            json.dumps({**BOXES, "objects": [{"boxes": [[0, 0, 0, 1, 1]]}] * 3}),
            "3 objects, and the model of ckpt has room for 2",
        ),
    ],
)
def test_boxes_that_do_not_fit_end_in_one_message(given, tmp_path, capfd, text, message):
    (tmp_path / "boxes.json").write_text(text)
    outcome = call(capfd, "sample", *given)
    assert outcome.code == 1
    assert "boxes.json" in outcome.error and message in outcome.error
    assert "Traceback" not in outcome.error


def test_boxes_for_a_model_that_follows_none_end_in_one_message(tiny_run, given, capfd):
    outcome = call(capfd, "sample", f"ckpt={tiny_run}", "prompt=x", *given[1:], "num_frames=5")
    assert outcome.code == 1
    assert "the model of ckpt follows no boxes" in outcome.error


def test_pixels_of_no_picture_are_refused(tiny_run, given, tmp_path, capfd):
    (tmp_path / "boxes.json").write_text(json.dumps({**BOXES, "coordinates": "pixels"}))
    outcome = call(capfd, "sample", f"ckpt={tiny_run}", "prompt=x", *given[2:])
    assert outcome.code == 1
    assert "no picture is given that these are of" in outcome.error
