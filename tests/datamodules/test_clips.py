import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from likeness.datamodules.buckets import Bucket, Buckets
from likeness.datamodules.clips import ClipDataModule
from likeness.datamodules.conditions import Clip, ReferenceImages, SampleRequest, request_batch
from likeness.datamodules.frames import ChosenFrames, StridedFrames
from likeness.datamodules.images import Geometry
from likeness.datamodules.samples import BadSample, Sample
from likeness.media import encode_mp4, encode_png

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
            "frames": StridedFrames(stride=2),
            "conditions": {"references": references},
            "batch_size": 2,
            "shuffle_buffer": 0,
            **settings,
        }
    )


def clip_of(frames: torch.Tensor) -> Clip:
    height, width = frames.shape[-2:]
    geometry = Geometry((height, width), (height, width), (height, width), 0, 0)
    return Clip(ChosenFrames(list(range(frames.shape[1]))), lambda: (frames, geometry))


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
    (loaded,) = references.load(sample, clip_of(frames))
    torch.testing.assert_close(loaded[0][0], frames[:, 0].float() / 127.5 - 1)
    with pytest.raises(BadSample, match="too few references"):
        ReferenceImages(height=48, width=64, without_face="skip").load(sample, clip_of(frames))


def test_several_pictures_of_a_person_are_all_used_and_identities_keep_their_order():
    key, members = clip_sample("k", 1, identities=[{"face": ["face.0.png", "face.1.png"]}, {"face": ["face.2.png"]}])
    for number, level in enumerate((50, 100, 200)):
        members[f"face.{number}.png"] = encode_png(np.full((8, 8, 3), level, np.uint8))
    references = ReferenceImages(height=8, width=8, min_references=2, max_references=2)
    loaded = references.load(
        Sample.parse({"__key__": key, "__url__": "x", **members}), clip_of(torch.zeros(3, 1, 8, 8))
    )
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
    loaded = references.load(
        Sample.parse({"__key__": key, "__url__": "x", **members}), clip_of(torch.zeros(3, 1, 8, 8))
    )
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


def sizes_of(table: list[dict]) -> list[tuple[str, dict[str, bytes]]]:
    """Return samples, one for each entry of `table`: num_frames, height, width, references."""
    samples = []
    for number, entry in enumerate(table):
        frames = drawn_video(entry["num_frames"], entry["height"], entry["width"], seed=number)
        info = {**entry, "caption": f"clip {number}", "fps": 8.0}
        info["identities"] = [{"face": ["face.0.png"]}] * info.pop("references")
        members = {"json": json.dumps(info).encode(), "face.0.png": encode_png(np.zeros((8, 8, 3), np.uint8))}
        samples.append((f"k{number:03d}", members | {"mp4": encode_mp4(frames, 8)}))
    return samples


BUCKETS = Buckets(
    sizes=[[32, 48], [48, 32], [32, 32]], lengths=[9, 5, 1], token_budget=100, strides=(4, 16, 16), text_tokens=4
)


def test_clips_of_several_sizes_lengths_and_references_share_a_run_and_a_batch_holds_equal_ones(tmp_path):
    rng = np.random.default_rng(0)
    table = [
        {
            "num_frames": int(rng.choice([5, 7, 12])),
            "height": height,
            "width": width,
            "references": int(rng.integers(1, 4)),
        }
        for height, width in [(48, 72), (72, 48), (64, 64)] * 8
    ]
    data = module_of(
        write_shards(tmp_path / "data", sizes_of(table)),
        buckets=BUCKETS,
        frames=StridedFrames(),
        conditions={"references": ReferenceImages(height=16, width=16, max_references=3)},
    )
    seen = []
    for batch in data.train_dataloader():
        frames, height, width = batch["pixel_values"].shape[2:]
        references = batch["reference_pixel_values"].shape[2]
        assert batch["reference_pixel_values"].shape[3:] == (height, width)
        bucket = Bucket(frames, height, width, references)
        assert len(batch["key"]) <= BUCKETS.batch_size(bucket)
        assert len(batch["key"]) * BUCKETS.tokens(bucket) <= 100
        for key in batch["key"]:
            entry = table[int(key[1:])]
            assert references == entry["references"]
            assert frames == (9 if entry["num_frames"] == 12 else 5)
            assert (height > width) == (entry["height"] > entry["width"])
        seen += batch["key"]
    assert sorted(seen) == [f"k{number:03d}" for number in range(24)]


def test_pictures_and_videos_share_a_run(tmp_path):
    samples = sizes_of([{"num_frames": 9, "height": 32, "width": 48, "references": 1}] * 3)
    picture = np.full((40, 60, 3), 200, np.uint8)
    for number, extension in enumerate(("png", "jpg", "webp")):
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, format={"jpg": "JPEG"}.get(extension, extension))
        info = {"caption": "a picture", "num_frames": 1, "height": 40, "width": 60}
        samples.append((f"p{number}", {extension: stream.getvalue(), "json": json.dumps(info).encode()}))
    data = module_of(write_shards(tmp_path / "data", samples), buckets=BUCKETS, frames=StridedFrames())
    batches = list(data.train_dataloader())
    shapes = {batch["key"][0][0]: tuple(batch["pixel_values"].shape[2:]) for batch in batches}
    assert shapes == {"k": (9, 32, 48), "p": (1, 32, 48)}
    pictures = torch.cat([batch["pixel_values"] for batch in batches if batch["key"][0][0] == "p"])
    assert len(pictures) == 3
    assert (pictures.float() - 200).abs().max() <= 3


def test_clips_that_fill_no_bucket_and_those_without_references_are_reported_before_training(tmp_path):
    table = [
        {"num_frames": 3, "height": 32, "width": 48, "references": 2},
        {"num_frames": 9, "height": 32, "width": 48, "references": 1},
        {"num_frames": 9, "height": 32, "width": 48, "references": 2},
    ]
    data = module_of(
        write_shards(tmp_path / "data", sizes_of(table)),
        buckets=Buckets(sizes=[[32, 48]], lengths=[9, 5], token_budget=100, too_short="skip"),
        frames=StridedFrames(),
        conditions={"references": ReferenceImages(height=16, width=16, min_references=2, max_references=2)},
    )
    data.train_dataloader()
    assert {key: skip.reason for (_, key), skip in data.skipped.items()} == {
        "k000": "too short",
        "k001": "too few references",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lengths": [8]}, r"lengths holds 8, which is not 4 \* n \+ 1"),
        ({"sizes": [[30, 48]]}, r"sizes holds \[30, 48\]: sides must be multiples of \[16, 16\]"),
        ({"sizes": []}, "needs sizes"),
        ({"token_budget": 0}, "token_budget and max_batch_size"),
        ({"too_short": "guess"}, "not one of repeat, skip"),
    ],
)
def test_impossible_buckets_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Buckets(**{"sizes": [[32, 48]], "lengths": [9], "token_budget": 100, **settings})


def test_a_clip_takes_the_size_of_the_nearest_aspect_and_the_longest_length_that_it_fills():
    table = {
        "num_frames": np.array([100, 6, 5, 3, 1, 0]),
        "fps": np.full(6, 8.0),
        "height": np.array([1080, 1920, 500, 48, 32, 0]),
        "width": np.array([1920, 1080, 500, 40, 48, 0]),
    }
    shapes = BUCKETS.shapes(table, StridedFrames()).tolist()
    assert shapes == [[9, 32, 48], [5, 48, 32], [5, 32, 32], [1, 32, 32], [1, 32, 48], [9, 32, 48]]


def test_a_run_that_changes_its_number_of_references_or_sizes_says_so_on_resume(tmp_path, caplog):
    folder = write_shards(tmp_path / "data", [clip_sample(f"k{i}", i) for i in range(6)])
    state = module_of(folder).train_dataloader().state_dict()
    module_of(folder, shuffle_buffer=5).train_dataloader().load_state_dict(state)
    assert "are not those of the checkpoint" in caplog.text
