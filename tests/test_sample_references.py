"""`sample.py preprocess=...`: photographs in, what the model saw and what was done to them in the output."""

import json

import numpy as np
import pytest
from PIL import Image

from likeness.inputs import read_picture
from likeness.toy.clips import draw_clip
from likeness.toy.people import make_person

from .commands import call
from .conftest import run_command, write_picture
from .models.test_segformer import save_segformer


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A wide picture with a drawn person in one half of it."""
    people = [make_person(np.random.default_rng([991_000, 4]))]
    clip = draw_clip(people, np.random.default_rng(0), num_frames=1, height=96, width=96, fps=8)
    picture = np.concatenate([clip.frames[0], np.full((96, 60, 3), clip.frames[0][0, 0], np.uint8)], axis=1)
    path = tmp_path_factory.mktemp("pictures") / "photograph.png"
    Image.fromarray(picture).save(path)
    return path


def sample(capfd, run, output, *arguments):
    return call(capfd, "sample", f"ckpt={run}", "prompt=x", "num_frames=5", f"output={output}", *arguments)


def records(output) -> list[dict]:
    return [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]


def test_the_face_is_cut_out_and_what_was_done_is_recorded(tiny_run, photograph, tmp_path, capfd):
    outcome = sample(capfd, tiny_run, tmp_path, f"references=[{photograph}]", "preprocess=toy")
    assert outcome.code == 0, outcome.error
    (record,) = records(tmp_path)
    assert record["preprocess"]["analyzer"] == "toy"
    assert record["preprocess"]["parser"] is None
    assert record["prepared_references"] == [{"face_found": True, "foreground_share": None, "is_masked": False}]
    assert record["unmasked_references"] == ["references/00000_0_0_unmasked.png"]
    crop = read_picture(tmp_path / record["unmasked_references"][0])
    assert crop.shape == (64, 64, 3)
    # The model saw the crop: 64 x 64 as well, so that nothing was scaled or padded.
    np.testing.assert_allclose(read_picture(tmp_path / record["references"][0]), crop, atol=1)  # written truncated


def test_the_same_command_goes_on_and_another_preprocessing_starts_again(tiny_run, photograph, tmp_path, capfd):
    arguments = [f"references=[{photograph}]"]
    assert sample(capfd, tiny_run, tmp_path, *arguments, "preprocess=toy").code == 0
    assert "1 clips are in" in sample(capfd, tiny_run, tmp_path, *arguments, "preprocess=toy").log
    assert sample(capfd, tiny_run, tmp_path, *arguments).code == 0
    (record,) = records(tmp_path)
    assert record["preprocess"] is None
    assert "prepared_references" not in record


def test_a_picture_without_a_face_is_used_whole_with_a_warning(tiny_run, tmp_path, capfd):
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "wall.png")
    outcome = sample(capfd, tiny_run, tmp_path / "s", f"references=[{tmp_path / 'wall.png'}]", "preprocess=toy")
    assert outcome.code == 0, outcome.error
    assert "no face was found in" in outcome.log and "wall.png" in outcome.log
    assert records(tmp_path / "s")[0]["prepared_references"][0]["face_found"] is False


def test_the_parser_blacks_the_background_of_what_the_model_sees(tiny_run, photograph, tmp_path, capfd):
    folder = save_segformer(tmp_path / "face-parsing")
    arguments = [f"references=[{photograph}]", "preprocess=toy", "parser=segformer", f"parser.folder={folder}"]
    outcome = sample(capfd, tiny_run, tmp_path / "s", *arguments, "+preprocess.min_foreground=0")
    assert outcome.code == 0, outcome.error
    (record,) = records(tmp_path / "s")
    (done,) = record["prepared_references"]
    assert done["is_masked"] and 0 < done["foreground_share"] < 1
    seen = read_picture(tmp_path / "s" / record["references"][0]).astype(int)
    unmasked = read_picture(tmp_path / "s" / record["unmasked_references"][0]).astype(int)
    blacked = (seen == 0).all(-1) & (unmasked > 1).any(-1)
    assert 0 < blacked.mean() <= 1 - done["foreground_share"] + 1e-9
    np.testing.assert_allclose(seen[~blacked], unmasked[~blacked], atol=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preprocess=concat_id"], r"needs the model pack antelopev2 as"),
        (["preprocess=concat_id", "analyzer=toy"], "hf download jonathandinu/face-parsing --local-dir"),
        (["preprocess=concat"], "did you mean concat_id?"),
    ],
)
def test_missing_models_end_in_one_message(tmp_path, capfd, arguments, message):
    picture = write_picture(tmp_path / "me.png")
    paths = f"paths.weights_dir={tmp_path / 'weights'}"
    outcome = sample(capfd, tmp_path, tmp_path / "s", f"references=[{picture}]", paths, *arguments)
    assert outcome.code == 1
    assert message in outcome.error
    assert "Traceback" not in outcome.error


def test_missing_models_are_told_before_anything_heavy_is_imported(tmp_path):
    picture = write_picture(tmp_path / "me.png")
    done = run_command(
        "sample",
        "ckpt=x",
        "prompt=x",
        f"references=[{picture}]",
        "preprocess=concat_id",
        f"paths.weights_dir={tmp_path}",
        f"output={tmp_path / 's'}",
        PYTHONPROFILEIMPORTTIME="1",
    )
    assert "hf download" in done.stderr or "antelopev2" in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported
    assert not imported & {"torch", "transformers", "onnxruntime", "insightface"}


def test_a_model_without_preprocess_is_said_to_have_no_effect(tiny_run, photograph, tmp_path, capfd):
    outcome = sample(capfd, tiny_run, tmp_path, f"references=[{photograph}]", "analyzer=toy")
    assert outcome.code == 0, outcome.error
    assert "analyzer has no effect without preprocess" in outcome.log
