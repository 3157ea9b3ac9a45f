"""`prepare.py` with stages, as a user calls it, up to training on the pairs."""

import json

import pytest

from likeness.datamodules.shards import list_shards
from likeness.toy.world import ToyWorld, draw_group

from ..commands import call
from ..conftest import drawn_video, read_shard, write_mp4, write_shards


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Shards of six drawn people with two clips each."""
    world = ToyWorld(num_frames=12, seed=5)
    samples = [sample for person in range(6) for sample in draw_group(world, (person,))]
    return write_shards(tmp_path_factory.mktemp("clips"), samples)


def prepare(capfd, clips, output, *arguments):
    return call(
        capfd, "prepare", "source=shards", f"source.folder={clips}", f"output={output}", "num_workers=0", *arguments
    )


def test_faces_and_pairs_in_one_command_make_shards_that_train(clips, tmp_path, capfd):
    outcome = prepare(
        capfd,
        clips,
        tmp_path / "pairs",
        "stages=[faces,pairs]",
        "preprocess=toy",
        "stages.faces.replace=true",
        "stages.faces.min_size=16",
        "stages.faces.num_frames=3",
        "stages.pairs.kind=cross",
        "stages.pairs.cross=[0.8,1.0]",
    )
    assert outcome.code == 0, outcome.error
    index = json.loads((tmp_path / "pairs" / "index.json").read_text())
    assert list(index["stages"]) == ["faces", "pairs"]
    assert index["stages"]["pairs"]["analyzer"]["_target_"] == "likeness.toy.analyzer.ToyFaceAnalyzer"
    infos = [json.loads(raw["json"]) for shard in list_shards(tmp_path / "pairs") for _, raw in read_shard(shard)]
    assert f"kept {len(infos)} of 12 clips" in outcome.log
    assert len(infos) >= 8
    assert {info["faces_from"] for info in infos} == {"cross"}
    trained = call(
        capfd,
        "train",
        "experiment=concat_id_stage2",
        "debug=tiny",
        "datamodule=shards",
        f"datamodule.train={tmp_path / 'pairs'}",
        f"paths.output_root={tmp_path}",
        "run_name=x",
        "trainer.max_steps=1",
        "~callbacks.log_samples",
    )
    assert trained.code == 0, trained.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stages=faces"], "stages=faces needs to know how to cut faces out: preprocess=concat_id, align or toy"),
        (["stages=pairs", "analyzer=toy"], "stages.pairs.kind must be given"),
        (["stages=pairs", "stages.pairs.kind=cross"], "stages.pairs.kind=cross needs a face analyzer"),
        (["stages=pears"], "did you mean pairs?"),
        (["stages=faces", "preprocess=concat_id", "paths.weights_dir=gone"], "needs the model pack antelopev2"),
        (["stages=faces", "preprocess=toy", "+stages.faces.num_frame=3"], "did you mean num_frames?"),
        (["stages=pairs", "stages.pairs.kind=trade_off", "analyzer=toy"], "none of the 12 clips could be used"),
        (["samples_per_shard=0"], "samples_per_shard=0 must be at least 1"),
        (["num_workers=-1"], "num_workers=-1 must be at least 0"),
        (["stages=filter", "stages.filter.seconds=2"], "seconds=2 must be [lowest, highest] or null"),
        (["source.folder=gone"], "no shards at gone"),
    ],
)
def test_wrong_commands_end_in_one_message(clips, tmp_path, capfd, arguments, message):
    outcome = prepare(capfd, clips, tmp_path / "out", *arguments)
    assert outcome.code == 1
    assert message in outcome.error
    assert "Traceback" not in outcome.error
    assert not (tmp_path / "out" / "index.json").exists()


def test_damaged_clips_are_all_listed_and_the_report_shows_what_is_there(tmp_path, capfd):
    videos = tmp_path / "videos"
    for number in range(20):
        write_mp4(videos / f"clip{number:02d}.mp4", drawn_video(12 + number % 5, seed=number))
        (videos / f"clip{number:02d}.txt").write_text(f"<script>alert({number})</script>")
    whole = (videos / "clip03.mp4").read_bytes()
    damage = {3: whole[: len(whole) // 2], 8: b"", 11: b"garbage" * 50}
    for number, data in damage.items():
        (videos / f"clip{number:02d}.mp4").write_bytes(data)
    (videos / "clip15.txt").unlink()
    command = ["source=video_folder", f"source.folder={videos}", f"output={tmp_path / 'out'}", "num_workers=0"]
    outcome = call(capfd, "prepare", *command, "stages=filter", "stages.filter.frames=[13,null]")
    assert outcome.code == 0, outcome.error
    lines = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    damaged = sorted(line["video"][-6:-4] for line in lines if line["reason"] != "too short")
    assert damaged == ["03", "08", "11", "15"]
    assert [line["video"][-6:-4] for line in lines if line["reason"] == "too short"] == ["00", "05", "10"]
    assert "kept 13 of 20 clips" in outcome.log
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(" in page
    assert "<b>13</b>clips kept" in page and "<b>7</b>dropped" in page
    assert page.count("<figure>") == 13 and page.count("data:image/jpeg;base64,") == 52
    assert "frames 12, at least 13 is asked for: stages.filter.frames" in page
    assert "src='http" not in page and "href=" not in page
