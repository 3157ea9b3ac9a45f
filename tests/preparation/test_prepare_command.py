"""`prepare.py` with stages, as a user calls it, up to training on the pairs."""

import json

import pytest

from likeness.datamodules.shards import list_shards
from likeness.toy.world import ToyWorld, draw_group

from ..commands import call
from ..conftest import read_shard, write_shards


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
        (["source.folder=gone"], "no shards at gone"),
    ],
)
def test_wrong_commands_end_in_one_message(clips, tmp_path, capfd, arguments, message):
    outcome = prepare(capfd, clips, tmp_path / "out", *arguments)
    assert outcome.code == 1
    assert message in outcome.error
    assert "Traceback" not in outcome.error
    assert not (tmp_path / "out" / "index.json").exists()
