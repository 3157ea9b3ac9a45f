"""Stages that choose and cut clips and add what is known: filter, shots, captions, embeddings, masks, tracks."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from likeness.datamodules.images import decode_image
from likeness.datamodules.samples import BadSample, Sample
from likeness.datamodules.video import get_reader
from likeness.media import encode_mp4, encode_png
from likeness.preparation.pipeline import Pipeline
from likeness.preparation.sources.shards import ShardFolder
from likeness.preparation.sources.video_folder import VideoFolder
from likeness.preparation.stages.captions import Captions
from likeness.preparation.stages.cuts import Transition, changes, find_cuts, find_dissolves, find_shots, shrink
from likeness.preparation.stages.embed_faces import EmbedFaces, read_embeddings
from likeness.preparation.stages.faces import Faces, interpolate
from likeness.preparation.stages.filter import Filter
from likeness.preparation.stages.masks import Masks
from likeness.preparation.stages.pairs import Pairs
from likeness.preparation.stages.shots import Shots
from likeness.toy.analyzer import TEMPLATE, ToyFaceAnalyzer
from likeness.toy.world import ToyWorld, draw_group

from ..conftest import REPOSITORY, clip_sample, drawn_video, write_mp4, write_shards

CLIPS = REPOSITORY.parent / "shared" / "data" / "clips"
READER = get_reader("pyav")


def sample_of(key: str = "a", **settings) -> Sample:
    name, members = clip_sample(key, **settings)
    return Sample.parse({"__key__": name, "__url__": "here", **members})


def film(*shots: np.ndarray, **info) -> Sample:
    frames = np.concatenate(shots)
    described = {"caption": "x", "fps": 8.0, "num_frames": len(frames), "height": 48, "width": 64, **info}
    return Sample("film", "here", {"mp4": encode_mp4(frames, 8), "json": b"{}"}, described)


def textured(num_frames: int, seed: int) -> np.ndarray:
    """Frames of a pattern of its own that moves a little."""
    rng = np.random.default_rng(seed)
    pattern = rng.integers(0, 255, (8, 10, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    return np.stack([np.roll(pattern, index // 2, 1)[:48, :64] for index in range(num_frames)])


# Filter


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"frames": [13, None]}, "too short"),
        ({"frames": [None, 11]}, "too long"),
        ({"seconds": [2, None]}, "too short"),
        ({"side": [49, None]}, "too small"),
        ({"side": [None, 47]}, "too large"),
        ({"fps": [9, None]}, "frame rate too low"),
        ({"fps": [None, 7.9]}, "frame rate too high"),
        ({"aspect": [1.4, None]}, "too narrow"),
        ({"aspect": [None, 1.3]}, "too wide"),
    ],
)
def test_clips_beyond_a_bound_are_dropped_with_the_setting_named(settings, reason):
    with pytest.raises(BadSample, match=rf"{reason}: .*stages\.filter\.{next(iter(settings))}"):
        Filter(**settings)(sample_of())


def test_bounds_themselves_are_allowed():
    stage = Filter(frames=[12, 12], seconds=[1.5, 1.5], side=[48, 48], fps=[8, 8], aspect=[64 / 48, 64 / 48], full=True)
    sample = sample_of()
    assert stage(sample) == [sample]


@pytest.mark.parametrize("full", [False, True])
def test_a_wrong_frame_count_and_a_cut_file_are_found_by_decoding(full):
    with pytest.raises(BadSample, match="unreadable video"):
        Filter(full=full)(film(drawn_video(12), num_frames=14))


def test_impossible_bounds_are_refused():
    with pytest.raises(ValueError, match=r"fps=\[30, 10\] must be \[lowest, highest\] or null: stages\.filter\.fps"):
        Filter(fps=[30, 10])


# Shots


def shots_of(*frames: np.ndarray, **settings) -> list[tuple[int, int]]:
    return list(find_shots(frames, **settings))


def test_hard_cuts_are_found_to_the_frame():
    assert shots_of(textured(20, 0), textured(15, 1), textured(9, 2)) == [(0, 20), (20, 35), (35, 44)]


def test_a_flash_and_motion_are_no_cut():
    frames = textured(40, 0)
    frames[20] = 255
    assert shots_of(frames) == [(0, 40)]
    fast = np.stack([np.roll(frames[0], 3 * index, 1) for index in range(40)])
    assert shots_of(fast) == [(0, 40)]


@pytest.mark.parametrize("length", [9, 17, 33])
def test_frames_of_a_dissolve_belong_to_no_shot(length):
    first, second = textured(30, 0), textured(30, 1)
    share = np.linspace(0, 1, length + 2)[1:-1, None, None, None]
    mixed = ((1 - share) * first[-1] + share * second[0]).round().astype(np.uint8)
    (_, before), (after, end) = shots_of(first, mixed, second)
    assert 20 <= before <= 30 + length // 4
    assert 30 + length - length // 4 <= after <= 40 + length
    assert end == 60 + length


def test_a_shot_is_written_as_a_clip_of_its_own_with_what_is_known_of_its_frames():
    masks = io.BytesIO()
    np.savez(masks, face=np.arange(30, dtype=np.uint8)[:, None, None].repeat(48, 1).repeat(64, 2))
    boxes = [[index, 0.1, 0.1, 0.5, 0.5, 0.9] for index in range(0, 30, 5)]
    valid = {"face": [0, 19, 20, 29]}
    sample = film(textured(20, 0), textured(10, 1), identities=[{"id": "p", "boxes": boxes, "valid_frames": valid}])
    sample.members.update({"face.0.png": b"picture", "mask.npz": masks.getvalue(), "latents.safetensors": b"old"})
    first, second = Shots(min_frames=8)(sample)
    assert (first.key, second.key) == ("film_s000", "film_s001")
    assert first.members.keys() == {"mp4", "face.0.png", "mask.npz"}
    assert second.info["shot"] == [20, 30] and second.info["num_frames"] == 10
    assert READER.probe(second.video).num_frames == 10
    difference = READER.read(second.video, range(10)).astype(int) - textured(10, 1)
    assert np.abs(difference).mean() < 12  # colour has half the resolution
    (identity,) = second.info["identities"]
    assert [row[0] for row in identity["boxes"]] == [0, 5] and identity["valid_frames"] == {"face": [0, 9]}
    assert np.load(io.BytesIO(second.members["mask.npz"]))["face"][:, 0, 0].tolist() == list(range(20, 30))
    assert sample.info["identities"][0]["boxes"] == boxes


def test_a_clip_of_one_shot_stays_as_it_is_and_short_shots_are_left_out():
    sample = film(textured(20, 0))
    assert Shots()(sample) == [sample]
    picture = Sample("film", "here", {"png": b"a picture"}, {"caption": "x", "num_frames": 1})
    assert Shots()(picture) == [picture]
    (only,) = Shots(min_frames=15)(film(textured(20, 0), textured(10, 1)))
    assert only.info["shot"] == [0, 20]
    with pytest.raises(BadSample, match="too short: the longest of 2 shots has 12 of 20 frames"):
        Shots(min_frames=15)(film(textured(12, 0), textured(8, 1)))


@pytest.mark.parametrize(
    ("name", "cuts", "dissolves"),
    [
        ("short_hamilton_clip.mp4", [20, 82, 211], []),
        ("nasa_13013.mp4", [240], [Transition(148, 180)]),
        ("carphone_pristine.mp4", [], []),
        ("basketball.mp4", [], []),
    ],
)
def test_the_cuts_of_real_clips_are_found_and_no_others(name, cuts, dissolves):
    if not CLIPS.is_dir():
        pytest.skip(f"{CLIPS} is not there")
    data = (CLIPS / name).read_bytes()
    count = READER.probe(data).num_frames
    small = np.concatenate([shrink(READER.read(data, range(s, min(s + 64, count)))) for s in range(0, count, 64)])
    assert find_cuts(changes(small), ratio=3, min_change=12, window=2) == cuts
    found = find_dissolves(small, min_difference=25, max_residual=0.4)
    assert len(found) == len(dissolves)
    for one, expected in zip(found, dissolves, strict=True):
        assert abs(one.first - expected.first) <= 8 and abs(one.last - expected.last) <= 8


# Captions


@pytest.mark.parametrize("kind", ["folder", "jsonl", "names.jsonl", "csv"])
def test_captions_come_from_files_by_key_or_by_the_name_of_the_video(tmp_path, kind):
    captions = {"a": "of the key", "b.mp4": "of the file", "c": "of the stem"}
    source = tmp_path / kind
    if kind == "folder":
        source.mkdir()
        for name, text in captions.items():
            (source / f"{name}.txt").write_text(f"{text}\n")
    elif kind == "csv":
        source = tmp_path / "c.csv"
        source.write_text("path,caption\n" + "".join(f'{name},"{text}"\n' for name, text in captions.items()))
    elif kind == "jsonl":
        source = tmp_path / "c.jsonl"
        source.write_text("".join(json.dumps({"video": n, "text": t}) + "\n" for n, t in captions.items()))
    else:
        source.write_text("".join(json.dumps({name: text}) + "\n" for name, text in captions.items()))
    stage = Captions(source=str(source))
    found = [
        stage(sample_of(key, source=f"videos/{name}"))[0].info["caption"]
        for key, name in (("a_s001", "x.mp4"), ("k", "b.mp4"), ("k", "c.mkv"), ("k", "d.mp4"))
    ]
    assert found == ["of the key", "of the file", "of the stem", "clip 0"]


def test_captions_are_read_as_widely_as_lists(tmp_path):
    (tmp_path / "c.csv").write_bytes("\ufeffpath,caption\na/x.mp4,of a path\n".encode())
    (tmp_path / "c.jsonl").write_bytes("\ufeff".encode() + b'{"path": "a/x", "caption": "caf\xe9"}\n')
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "x.txt").write_bytes("\ufeffx, ".encode() + b"caf\xe9")
    sample = sample_of("k", source="/data/videos/a/x.mp4")
    found = [Captions(source=str(tmp_path / name))(sample)[0].info["caption"] for name in ("c.csv", "c.jsonl", "texts")]
    assert found == ["of a path", "caf\ufffd", "x, caf\ufffd"]


def test_captions_fill_gaps_and_missing_ones_are_reported(tmp_path):
    for name in ("a", "b", "c"):
        write_mp4(tmp_path / "videos" / f"{name}.mp4", drawn_video(4))
    (tmp_path / "videos" / "a.txt").write_text("own")
    source = tmp_path / "captions.jsonl"
    source.write_text('{"a": "other"}\n{"b": "found"}\n')
    for replace, expected in ((False, ["own", "found"]), (True, ["other", "found"])):
        stage = {"_target_": "likeness.preparation.stages.captions.Captions", "source": str(source), "replace": replace}
        output = tmp_path / f"out{replace}"
        pipeline = Pipeline({"captions": stage}, output, reader="pyav", samples_per_shard=9, num_workers=0)
        _, dropped = pipeline.run(list(VideoFolder(folder=str(tmp_path / "videos"))))
        assert [one.load().info["caption"] for one in ShardFolder(folder=str(output))] == expected
        assert [(line["reason"], Path(line["video"]).name) for line in dropped] == [("no caption", "c.mp4")]


def test_a_new_caption_changes_only_its_own_sample(tmp_path):
    for name in ("a", "b"):
        write_mp4(tmp_path / "videos" / f"{name}.mp4", drawn_video(4))
    source = tmp_path / "captions"
    source.mkdir()
    (source / "a.txt").write_text("first")
    stages = {"captions": {"_target_": "likeness.preparation.stages.captions.Captions", "source": str(source)}}
    log = tmp_path / "log"
    stages["note"] = {"_target_": "tests.preparation.test_resume.Note", "log": str(log), "word": "x"}

    def run():
        log.unlink(missing_ok=True)
        pipeline = Pipeline(stages, tmp_path / "out", reader="pyav", samples_per_shard=9, num_workers=0)
        pipeline.run(list(VideoFolder(folder=str(tmp_path / "videos"))))
        return [line.split()[1][0] for line in log.read_text().splitlines()]

    assert run() == ["a"]
    (source / "b.txt").write_text("second")
    assert run() == ["b"]
    (source / "a.txt").write_text("another one")
    assert run() == ["a"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.jsonl", None, "does not exist"),
        ("c.jsonl", '{"a": 1\n', r"c\.jsonl, line 1: not valid JSON"),
        (
            "c.jsonl",
            '{"path": "a", "words": "x", "n": 1}\n{"length": 3, "caption": "x"}',
            r"line 2: expected one of key",
        ),
        ("c.csv", "length,caption\n3,x\n", r"c\.csv, line 2: expected one of key"),
        ("c.csv", "path,caption\nx," + "y" * 2**25 + "\n", r"c\.csv, after line 1: field larger than"),
        ("c.xml", "x", "allowed are a folder of .txt"),
        ("c.jsonl", "", "holds no caption"),
    ],
)
def test_wrong_caption_files_are_errors_with_their_place(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        Captions(source=str(tmp_path / name))


# Faces


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    world = ToyWorld(clips_per_person=2, num_frames=7, seed=5)
    samples = [sample for person in range(3) for sample in draw_group(world, (person,))]
    return write_shards(tmp_path_factory.mktemp("drawn"), samples)


def faces_stage(**settings) -> Faces:
    from likeness.models.identity.references import ReferencePreprocessor

    preprocess = ReferencePreprocessor(analyzer=ToyFaceAnalyzer(), size=64, template=TEMPLATE.tolist())
    return Faces(preprocess=preprocess, **{"min_size": 16, "replace": True, **settings})


def test_tracks_cover_every_nth_frame_or_with_interpolation_all(drawn):
    sample = next(iter(ShardFolder(folder=str(drawn)))).load()
    truth = sample.info["identities"][0]["boxes"]
    for settings, expected in (
        ({"every_n_frames": 3}, [0, 3, 6]),
        ({"every_n_frames": 1}, list(range(7))),
        ({"every_n_frames": 3, "interpolate": True}, list(range(7))),
        ({"num_frames": 2, "interpolate": True}, list(range(7))),
    ):
        (made,) = faces_stage(**settings)(sample)
        (identity,) = made.info["identities"]
        assert [row[0] for row in identity["boxes"]] == [row[0] for row in identity["keypoints"]] == expected
        for row in identity["boxes"]:
            np.testing.assert_allclose(row[1:5], truth[row[0]][1:5], atol=0.15)


def test_nothing_is_interpolated_over_a_frame_in_which_nobody_was_seen():
    rows = [[0, 0.0, 0.0, 1.0, 1.0, 0.9], [4, 0.4, 0.0, 1.0, 0.6, 0.5], [12, 0.5, 0.0, 1.0, 1.0, 0.8]]
    filled = interpolate(rows, [0, 4, 8, 12])
    assert [row[0] for row in filled] == [0, 1, 2, 3, 4, 12]
    assert filled[1] == [1, 0.1, 0.0, 1.0, 0.9, 0.5]


def test_stored_embeddings_spare_pairs_the_search_for_faces(drawn, monkeypatch):
    analyzer = ToyFaceAnalyzer()
    made = [
        EmbedFaces(analyzer=analyzer)(one)[0]
        for entry in ShardFolder(folder=str(drawn))
        for one in faces_stage()(entry.load())
    ]
    vectors = read_embeddings(made[0]).vectors
    assert vectors.keys() == set(made[0].info["identities"][0]["face"])
    assert all(np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) for vector in vectors.values())
    samples = [(one.key, {**one.members, "json": json.dumps(one.info).encode()}) for one in made]
    folder = write_shards(drawn.parent / "embedded", samples)
    stored = list(ShardFolder(folder=str(folder)))
    stage = Pairs(kind="cross", analyzer=analyzer, cross=(0.5, 1.0))
    expected = [stage._embed(one, one.info["identities"][0]["face"]) for one in (entry.load() for entry in stored)]
    monkeypatch.setattr(ToyFaceAnalyzer, "__call__", lambda self, image: pytest.fail("it looked for faces"))
    known = [stage.inspect(entry) for entry in stored]
    for (pictures,), wanted in zip(known, expected, strict=True):
        np.testing.assert_array_equal(pictures.embeddings, wanted.embeddings)
    paired = [entry.load() for entry in stage.plan(stored, known)]
    for one in paired:
        (source,) = one.info["identities"][0]["face_sources"]
        origin = next(sample for sample in made if sample.key == source["key"])
        np.testing.assert_array_equal(
            read_embeddings(one).vectors["face.0.png"], read_embeddings(origin).vectors[source["member"]]
        )


def test_pictures_that_are_replaced_take_their_embeddings_along(drawn):
    sample = next(iter(ShardFolder(folder=str(drawn)))).load()
    (embedded,) = EmbedFaces(analyzer=ToyFaceAnalyzer())(sample)
    (made,) = faces_stage()(embedded)
    assert "face_embeds.npz" in embedded.members and "face_embeds.npz" not in made.members


def test_embeddings_and_masks_need_pictures_and_models():
    bare = sample_of(identities=[])
    for stage in (EmbedFaces(analyzer=ToyFaceAnalyzer()), Masks(parser=lambda image: image[..., 0])):
        with pytest.raises(BadSample, match="no picture"):
            stage(bare)
    with pytest.raises(ValueError, match="stages=embed_faces needs analyzer="):
        EmbedFaces(analyzer=None)
    with pytest.raises(ValueError, match="stages=masks needs a parser"):
        Masks(parser=None)


class Parser:
    name = "bright is person"

    def __call__(self, image):
        return (image[..., 0] > 127).astype(np.uint8)


def test_masks_are_written_where_the_person_fills_enough_of_the_picture():
    sample = sample_of(identities=[{"id": "0", "face": ["face.0.png", "face.1.png", "face.2.png"]}])
    half = np.zeros((20, 20, 3), np.uint8)
    half[:10] = 255
    old = encode_png(np.full((20, 20), 9, np.uint8))
    sample.members.update(
        {"face.0.png": encode_png(half), "face.1.png": encode_png(half // 9), "face.2.png": encode_png(half)}
    )
    sample.members["face.2.mask.png"] = old
    (made,) = Masks(parser=Parser())(sample)
    mask = decode_image(made.members["face.0.mask.png"], "mask", mode="L")
    assert (mask[:10] == 255).all() and (mask[10:] == 0).all()
    assert "face.1.mask.png" not in made.members
    assert made.members["face.2.mask.png"] == old
    (made,) = Masks(parser=Parser(), replace=True)(sample)
    assert made.members["face.2.mask.png"] != old
