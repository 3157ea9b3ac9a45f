"""`prepare.py stages=cache` and `train.py` on what it wrote, as a user calls them."""

import json

import pytest

from likeness.datamodules.cache import MEMBER
from likeness.datamodules.shard_set import ShardSet
from likeness.toy.world import ToyWorld, draw_group

from ..commands import call
from ..conftest import write_shards

SMALL = ["datamodule.num_frames=5", "datamodule.height=32", "datamodule.width=32"]
SIZES = ["debug=tiny", "datamodule=shards", *SMALL]
SVD_SIZES = ["debug=tiny", "datamodule=svd_xtend", *SMALL, "datamodule.frames.start=first"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    samples = [sample for person in range(2) for sample in draw_group(ToyWorld(num_frames=12), (person,))]
    return write_shards(tmp_path_factory.mktemp("clips"), samples)


def prepare(capfd, clips, output, *arguments, sizes=SIZES):
    return call(
        capfd,
        "prepare",
        "source=shards",
        f"source.folder={clips}",
        "stages=cache",
        f"stages.cache.overrides={json.dumps(sizes).replace(' ', '')}",
        f"output={output}",
        "num_workers=0",
        *arguments,
    )


def test_what_prepare_stores_is_what_train_reads(clips, tmp_path, capfd):
    arguments = "stages.cache.experiment=concat_id", "stages.cache.keep_video=false"
    outcome = prepare(capfd, clips, tmp_path / "cached", *arguments)
    assert outcome.code == 0, outcome.error
    samples = ShardSet(str(tmp_path / "cached"))
    assert all(MEMBER in samples[i].members and "mp4" not in samples[i].members for i in range(len(samples)))
    assert "nothing to do" in prepare(capfd, clips, tmp_path / "cached", *arguments).log
    trained = call(capfd, "train", "experiment=concat_id", *SIZES, *train_on(tmp_path, "x"))
    assert trained.code == 0, trained.error
    assert "train: latents, prompt_embeds are read, not computed" in trained.log
    assert "val: latents, prompt_embeds are read, not computed" in trained.log
    assert len(list((tmp_path / "x" / "samples").rglob("*.mp4"))) == 2
    other = call(capfd, "train", "experiment=concat_id", *SIZES, *train_on(tmp_path, "y"), "datamodule.width=48")
    assert other.code == 1
    assert "clip.width is 32, not 48. Make them again with prepare.py" in other.error


def test_image_to_video_reads_what_prepare_stores_of_the_picture(clips, tmp_path, capfd):
    outcome = prepare(capfd, clips, tmp_path / "cached", "stages.cache.experiment=svd_xtend", sizes=SVD_SIZES)
    assert outcome.code == 0, outcome.error
    common = train_on(tmp_path, "x", sampling=False)
    trained = call(capfd, "train", "experiment=svd_xtend", *SVD_SIZES, *common, "datamodule.cache=required")
    assert trained.code == 0, trained.error
    assert "train: latents, image_embeds are read, not computed" in trained.log


@pytest.mark.parametrize(
    ("arguments", "sizes", "message"),
    [
        (["stages.cache.keep_video=false"], SVD_SIZES, "SVDXtend reads image_pixel_values of every clip in training"),
        ([], SVD_SIZES[:-1], "stages.cache.overrides=[datamodule.frames.start=first]"),
    ],
)
def test_image_to_video_says_what_cannot_be_stored(clips, tmp_path, capfd, arguments, sizes, message):
    everything = ["stages.cache.experiment=svd_xtend", *arguments]
    outcome = prepare(capfd, clips, tmp_path / "out", *everything, sizes=sizes)
    assert outcome.code == 1
    assert message in outcome.error + outcome.log
    assert "prompt_embeds" not in outcome.error + outcome.log


def train_on(folder, name, sampling=True):
    cached = folder / "cached"
    return (
        f"datamodule.train={cached}",
        f"datamodule.val={cached}",
        "datamodule.num_workers=0",
        "datamodule.batch_size=2",
        # asks the text encoder, which has nothing else to do
        *(["+sampling.negative_prompt=blurred"] if sampling else []),
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        f"paths.output_root={folder}",
        f"run_name={name}",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "stages.cache.experiment must be given"),
        (["stages.cache.experiment=concat_ID"], "did you mean concat_id?"),
        (["stages.cache.experiment=concat_id", "stages.cache.tensors=[latent]"], "did you mean latents?"),
        (["stages.cache.experiment=concat_id", "+stages.cache.batch_sise=3"], "did you mean batch_size?"),
        (["stages.cache.experiment=concat_id", "stages.cache.overrides=[]"], "hf download zai-org/CogVideoX-5b"),
    ],
)
def test_wrong_commands_end_in_one_message(clips, tmp_path, capfd, arguments, message):
    outcome = prepare(capfd, clips, tmp_path / "out", *arguments)
    assert outcome.code == 1
    assert message in outcome.error
    assert "Traceback" not in outcome.error
