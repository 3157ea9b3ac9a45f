import json

import numpy as np
import pytest
import torch

from likeness.datamodules.clips import ClipDataModule
from likeness.datamodules.conditions import ReferenceImages, SampleRequest, request_batch
from likeness.datamodules.frames import StridedFrames
from likeness.datamodules.samples import BadSample, Sample
from likeness.media import encode_png

from ..conftest import clip_sample, drawn_video, write_shards


def module_of(folder, **settings) -> ClipDataModule:
    references = ReferenceImages(height=32, width=48)
    return ClipDataModule(
        **{
            "train": str(folder),
            "val": str(folder),
            "num_frames": 4,
            "height": 32,
            "width": 48,
            "frames": StridedFrames(4, stride=2),
            "conditions": {"references": references},
            "batch_size": 2,
            "shuffle_buffer": 0,
            **settings,
        }
    )


def test_a_batch_holds_clips_captions_and_references(tmp_path):
    data = module_of(write_shards(tmp_path / "data", [clip_sample(f"k{i}", i) for i in range(4)]))
    batch = next(iter(data.train_dataloader()))
    assert batch["pixel_values"].shape == (2, 3, 4, 32, 48)
    assert batch["pixel_values"].dtype == torch.uint8
    assert batch["caption"] == ["clip 0", "clip 1"]
    assert batch["reference_pixel_values"].shape == (2, 3, 1, 32, 48)
    moved = data.on_after_batch_transfer(batch, 0)
    assert moved["pixel_values"].min() >= -1
    torch.testing.assert_close(moved["pixel_values"] * 127.5 + 127.5, batch["pixel_values"].float())
    assert moved["caption"] is batch["caption"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_samples_are_skipped_counted_and_listed(tmp_path, num_workers):
    good = [clip_sample(f"good{i}", i) for i in range(4)]
    bad = {
        "broken video": ({"mp4": b"garbage"}, "unreadable video"),
        "no caption": ({"json": json.dumps({"fps": 8, "num_frames": 12}).encode()}, "no caption"),
        "broken json": ({"json": b"{"}, "broken json member"),
        "no picture": ({"face.0.png": None}, "missing member"),
        "broken picture": ({"face.0.png": b"no picture"}, "unreadable image"),
        "no video": ({"mp4": None}, "no video member"),
    }
    samples = list(good)
    for name, (changes, _) in bad.items():
        key, members = clip_sample(name.replace(" ", "_"), 9)
        samples.append((key, {suffix: data for suffix, data in (members | changes).items() if data is not None}))
    log = tmp_path / "skipped.jsonl"
    data = module_of(write_shards(tmp_path / "data", samples), num_workers=num_workers, batch_size=1, skip_log=str(log))
    seen = [batch["key"][0] for batch in data.val_dataloader()]
    assert sorted(seen) == [f"good{i}" for i in range(4)]
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert {entry["key"]: entry["reason"] for entry in entries} == {
        name.replace(" ", "_"): reason for name, (_, reason) in bad.items()
    }
    assert "6 samples were skipped" in data.skip_report()
    list(data.val_dataloader())
    assert len(log.read_text().splitlines()) == 6


def test_a_clip_without_pictures_refers_to_its_own_first_frame():
    key, members = clip_sample("k", 1, identities=[])
    sample = Sample.parse({"__key__": key, "__url__": "x", **members})
    frames = torch.from_numpy(drawn_video(4)).permute(3, 0, 1, 2)
    references = ReferenceImages(height=48, width=64)
    (loaded,) = references.load(sample, frames, [0, 1, 2, 3])
    torch.testing.assert_close(loaded[0][0], frames[:, 0].float() / 127.5 - 1)
    with pytest.raises(BadSample, match="too few references"):
        ReferenceImages(height=48, width=64, without_face="skip").load(sample, frames, [0])


def test_several_pictures_of_a_person_are_all_used_and_identities_keep_their_order():
    key, members = clip_sample("k", 1, identities=[{"face": ["face.0.png", "face.1.png"]}, {"face": ["face.2.png"]}])
    for number, level in enumerate((50, 100, 200)):
        members[f"face.{number}.png"] = encode_png(np.full((8, 8, 3), level, np.uint8))
    references = ReferenceImages(height=8, width=8, min_references=2, max_references=2)
    loaded = references.load(Sample.parse({"__key__": key, "__url__": "x", **members}), torch.zeros(3, 1, 8, 8), [0])
    levels = set()
    for seed in range(20):
        tensor = references.finish(loaded, np.random.default_rng(seed))["reference_pixel_values"]
        assert tensor.shape == (3, 2, 8, 8)
        first, second = ((tensor.mean(dim=(0, 2, 3)) + 1) * 127.5).round().int().tolist()
        levels.add(first)
        assert second == 200
    assert levels == {50, 100}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_clips_with_one_to_three_references_share_a_run_and_a_batch_holds_equal_counts(tmp_path, num_workers):
    samples = []
    for number in range(12):
        key, members = clip_sample(f"k{number:02d}", number)
        info = json.loads(members["json"])
        info["identities"] = [{"face": ["face.0.png"]}] * (1 + number % 3)
        samples.append((key, members | {"json": json.dumps(info).encode()}))
    conditions = {"references": ReferenceImages(height=32, width=48, max_references=3)}
    data = module_of(write_shards(tmp_path / "data", samples), conditions=conditions, num_workers=num_workers)
    for batches in (list(data.val_dataloader()), list(data.train_dataloader())):
        counts = set()
        for batch in batches:
            num_references = batch["reference_pixel_values"].shape[2]
            assert {1 + int(key[1:]) % 3 for key in batch["key"]} == {num_references}
            counts.add(num_references)
        assert counts == {1, 2, 3}
        keys = sum((batch["key"] for batch in batches), [])
        assert len(keys) == len(set(keys)) == 12


def test_a_mask_blackens_the_background_most_of_the_time():
    key, members = clip_sample("k", 1)
    members["face.0.png"] = encode_png(np.full((8, 8, 3), 255, np.uint8))
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 1
    members["face.0.mask.png"] = encode_png(mask)
    references = ReferenceImages(height=8, width=8, mask_probability=0.9)
    loaded = references.load(Sample.parse({"__key__": key, "__url__": "x", **members}), torch.zeros(3, 1, 8, 8), [0])
    means = [
        references.finish(loaded, np.random.default_rng(seed))["reference_pixel_values"].mean() for seed in range(300)
    ]
    masked = sum(mean < 0.5 for mean in means)
    assert 250 < masked < 290


def test_requests_become_batches_of_the_same_tensors():
    conditions = {"references": ReferenceImages(height=16, width=24)}
    picture = np.zeros((10, 10, 3), np.uint8)
    batch = request_batch(
        conditions, [SampleRequest("one", [picture, picture]), SampleRequest("two", [picture, picture])]
    )
    assert batch["caption"] == ["one", "two"]
    assert batch["reference_pixel_values"].shape == (2, 3, 2, 16, 24)
    assert request_batch(conditions, [SampleRequest("none", [])])["reference_pixel_values"].shape == (1, 3, 0, 16, 24)
    with pytest.raises(ValueError, match="4 reference images were given for a clip: give at most 3"):
        request_batch(conditions, [SampleRequest("four", [picture] * 4)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_references": 4}, r"max_references=4 must lie between 1 and 3"),
        ({"min_references": 2}, r"min_references=2 and max_references=1 must lie between 1 and 3"),
        ({"without_face": "guess"}, r"first_frame, skip"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ReferenceImages(height=8, width=8, **settings)


def test_data_must_come_from_one_place(tmp_path):
    with pytest.raises(ValueError, match="not both"):
        module_of(tmp_path, train=None, val=None)
