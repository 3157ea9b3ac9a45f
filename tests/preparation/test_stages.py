"""The stages of prepare.py on drawn people: faces out of clips, and pairs of clips that show the same person."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from likeness.datamodules.images import decode_image
from likeness.datamodules.samples import BadSample
from likeness.datamodules.shards import list_shards
from likeness.media import encode_png
from likeness.preparation.pipeline import Pipeline
from likeness.preparation.sources.shards import ShardFolder
from likeness.preparation.stages.faces import Faces, SeenPerson
from likeness.preparation.stages.pairs import Pairs
from likeness.preparation.workers import map_in_workers
from likeness.toy.analyzer import TEMPLATE, ToyFaceAnalyzer
from likeness.toy.world import ToyWorld, draw_group

from ..conftest import clip_sample, read_shard, write_shards

ANALYZER = {"_target_": "likeness.toy.analyzer.ToyFaceAnalyzer"}
PREPROCESS = {
    "_target_": "likeness.models.identity.references.ReferencePreprocessor",
    "analyzer": ANALYZER,
    "size": 64,
    "template": TEMPLATE.tolist(),
}
FACES = {
    "_target_": "likeness.preparation.stages.faces.Faces",
    "preprocess": PREPROCESS,
    "num_frames": 3,
    "num_pictures": 2,
    "min_size": 16,
    "replace": True,
}


class UpperHalf:
    """A parser for which the upper half of a picture is the person."""

    name = "upper half"

    def __call__(self, image):
        return np.repeat([1, 0], len(image) // 2).astype(np.uint8)[:, None].repeat(image.shape[1], axis=1)


def pairs(kind, **settings):
    return {"_target_": "likeness.preparation.stages.pairs.Pairs", "kind": kind, "analyzer": ANALYZER, **settings}


def run(entries, folder: Path, **stages) -> tuple[dict[str, dict], list[dict[str, str]]]:
    """Run the stages on `entries`; return the written samples by key and the dropped ones."""
    pipeline = Pipeline(stages, folder, reader="pyav", samples_per_shard=40, num_workers=0)
    kept, dropped = pipeline.run(list(entries))
    samples = {raw["__key__"]: raw for shard in list_shards(folder) for _, raw in read_shard(shard)} if kept else {}
    assert len(samples) == kept
    return samples, dropped


def info_of(raw: dict) -> dict:
    return json.loads(raw["json"])


def stored(folder: Path) -> ShardFolder:
    return ShardFolder(folder=str(folder))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Shards of 20 people with three clips each, as the toy world draws them: with pictures of other clips."""
    world = ToyWorld(clips_per_person=3, num_frames=6, seed=5)
    samples = [sample for person in range(20) for sample in draw_group(world, (person,))]
    return write_shards(tmp_path_factory.mktemp("drawn"), samples, per_shard=25)


@pytest.fixture(scope="module")
def with_faces(drawn, tmp_path_factory) -> Path:
    """The same clips with pictures of their own."""
    folder = tmp_path_factory.mktemp("faces")
    samples, dropped = run(stored(drawn), folder, faces=FACES)
    assert len(samples) == 60
    assert not dropped
    return folder


def person_of(key: str) -> str:
    return key.partition("_c")[0]


def sources_of(samples: dict[str, dict]) -> dict[str, tuple[str, str, float]]:
    """Key, member and similarity of the one reference of each clip."""
    result = {}
    for key, raw in samples.items():
        ((source,),) = [identity["face_sources"] for identity in info_of(raw)["identities"]]
        result[key] = (source["key"], source["member"], source["similarity"])
    return result


# Faces


def test_faces_are_cut_out_of_the_clip_with_their_places(drawn, with_faces):
    before = {raw["__key__"]: info_of(raw) for shard in list_shards(drawn) for _, raw in read_shard(shard)}
    for shard in list_shards(with_faces):
        for _, raw in read_shard(shard):
            info, truth = info_of(raw), before[raw["__key__"]]["identities"][0]
            (identity,) = info["identities"]
            assert identity["face"] == ["face.0.png", "face.1.png"]
            assert {name for name in raw if name.startswith("face.")} == set(identity["face"])
            assert decode_image(raw["face.1.png"], "face").shape == (64, 64, 3)
            assert info["faces_from"] == "same"
            assert [row[0] for row in identity["boxes"]] == [row[0] for row in identity["keypoints"]] == [0, 2, 5]
            for row, points in zip(identity["boxes"], identity["keypoints"], strict=True):
                np.testing.assert_allclose(row[1:5], truth["boxes"][row[0]][1:5], atol=0.15)
                np.testing.assert_allclose(points[1:], truth["keypoints"][row[0]][1:], atol=0.1)
                assert min(points[1:]) >= 0 and max(points[1:]) <= 1


def test_two_people_of_a_clip_are_told_apart(tmp_path):
    world = ToyWorld(people_per_clip=2, width=128, num_frames=6, seed=5)
    folder = write_shards(
        tmp_path / "drawn", [sample for pair in ((1, 2), (3, 4)) for sample in draw_group(world, pair)]
    )
    truth = {raw["__key__"]: info_of(raw) for shard in list_shards(folder) for _, raw in read_shard(shard)}
    samples, dropped = run(stored(folder), tmp_path / "faces", faces=FACES)
    assert not dropped
    for key, raw in samples.items():
        identities = info_of(raw)["identities"]
        suffixes = [suffix for identity in identities for suffix in identity["face"]]
        assert len(identities) == 2 and all(identity["face"] for identity in identities)
        assert suffixes == [f"face.{number}.png" for number in range(len(suffixes))]
        lefts = sorted(np.mean([row[1] for row in identity["boxes"]]) for identity in identities)
        expected = sorted(np.mean([row[1] for row in one["boxes"]]) for one in truth[key]["identities"])
        np.testing.assert_allclose(lefts, expected, atol=0.1)


def stage_with(preprocess_settings=(), **settings) -> Faces:
    from likeness.models.identity.references import ReferencePreprocessor

    preprocess = ReferencePreprocessor(
        analyzer=ToyFaceAnalyzer(), size=64, template=TEMPLATE.tolist(), **dict(preprocess_settings)
    )
    return Faces(preprocess=preprocess, **{"min_size": 16, "num_frames": 3, **settings})


@pytest.mark.parametrize(("min_foreground", "has_mask"), [(0.4, True), (0.6, False)])
def test_a_mask_is_written_where_the_background_would_be_blacked(drawn, min_foreground, has_mask):
    stage = stage_with({"parser": UpperHalf(), "min_foreground": min_foreground}, replace=True)
    (made,) = stage(next(iter(stored(drawn))).load())
    assert ("face.0.mask.png" in made.members) == has_mask
    picture = decode_image(made.members["face.0.png"], "face")
    assert picture[32:].any()
    if has_mask:
        mask = decode_image(made.members["face.0.mask.png"], "mask", mode="L")
        assert (mask[:32] == 255).all() and (mask[32:] == 0).all()


def test_clips_with_pictures_stay_as_they_are_unless_they_are_to_be_replaced(drawn):
    sample = next(iter(stored(drawn))).load()
    assert stage_with()(sample) == [sample]
    assert stage_with(replace=True)(sample) != [sample]


@pytest.mark.parametrize("settings", [{"min_size": 200}, {"min_score": 1.0}])
def test_a_clip_in_which_nobody_is_seen_well_is_dropped(drawn, settings):
    with pytest.raises(BadSample, match="no face: nobody is seen well enough in 3 frames"):
        stage_with(replace=True, **settings)(next(iter(stored(drawn))).load())


def test_somebody_who_was_lost_for_a_while_is_one_person_but_two_in_one_frame_are_not(drawn):
    stage = stage_with()
    (face,) = stage.preprocess.analyzer(stage.reader.read(next(iter(stored(drawn))).load().video, [0])[0])
    lost, found = SeenPerson({0: face}), SeenPerson({4: face})
    assert [list(person.faces) for person in stage._merge([lost, found])] == [[0, 4]]
    assert len(stage._merge([lost, SeenPerson({0: face})])) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preprocess": None}, "preprocess=concat_id, align or toy"),
        ({"num_frames": 0}, "num_frames=0 must be at least 1: stages.faces.num_frames"),
        ({"min_presence": 2}, r"min_presence=2 must lie in \[0, 1\]: stages.faces.min_presence"),
    ],
)
def test_impossible_face_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Faces(**{"preprocess": object(), **settings})


# Pairs


@pytest.mark.parametrize(
    ("kind", "bounds"), [("cross", {"cross": [0.8, 0.98]}), ("trade_off", {"trade_off": [0.85, 0.99]})]
)
def test_references_come_from_other_clips_of_the_same_person(with_faces, tmp_path, kind, bounds):
    # In this world two people look alike: 0.75. Clips of one person have 0.91 or more in three of four cases.
    samples, dropped = run(stored(with_faces), tmp_path, pairs=pairs(kind, **bounds))
    assert len(samples) + len(dropped) == 60
    assert len(samples) >= 50
    low, high = bounds[kind]
    pictures = {entry.key: entry.load() for entry in stored(with_faces)}
    for key, (source, member, similarity) in sources_of(samples).items():
        assert source != key
        assert person_of(source) == person_of(key)
        assert low <= similarity < high
        assert samples[key]["face.0.png"] == pictures[source].members[member]
        assert samples[key]["mp4"] == pictures[key].members["mp4"]
        info = info_of(samples[key])
        assert info["faces_from"] == "cross"
        assert info["identities"][0]["boxes"] == pictures[key].info["identities"][0]["boxes"]
        assert "face.1.png" not in samples[key]


def similarity_table(folder: Path) -> dict[str, dict[tuple[str, str], float]]:
    """Mean cosine of each clip's pictures with every picture of another clip, computed one by one."""
    analyzer, found = ToyFaceAnalyzer(), {}
    for entry in stored(folder):
        sample = entry.load()
        for suffix in sample.info["identities"][0]["face"]:
            found[entry.key, suffix] = analyzer(decode_image(sample.members[suffix], suffix))[0].embedding
    keys = sorted({key for key, _ in found})
    own = {key: np.mean([vector for (one, _), vector in found.items() if one == key], axis=0) for key in keys}
    return {
        key: {place: float(own[key] @ vector) for place, vector in found.items() if place[0] != key} for key in keys
    }


def test_trade_off_takes_the_least_similar_picture_in_the_range_and_cross_any(with_faces, tmp_path, monkeypatch):
    # Blocks of one row, so that their borders are met.
    monkeypatch.setattr("likeness.preparation.stages.pairs.BLOCK_BYTES", 1000)
    table = similarity_table(with_faces)
    trade_off, dropped = run(stored(with_faces), tmp_path / "t", pairs=pairs("trade_off", trade_off=[0.9, 0.97]))
    allowed = {key: {place: value for place, value in row.items() if 0.9 <= value < 0.97} for key, row in table.items()}
    assert {one["video"] for one in dropped} == {key for key, row in allowed.items() if not row}
    for key, (source, member, similarity) in sources_of(trade_off).items():
        assert similarity == pytest.approx(min(allowed[key].values()), abs=1e-4)
        assert allowed[key][source, member] == pytest.approx(similarity, abs=1e-4)
    cross = sources_of(run(stored(with_faces), tmp_path / "c", pairs=pairs("cross", cross=[0.9, 0.97]))[0])
    ranks = [
        sorted(allowed[key].values()).index(allowed[key][source, member]) for key, (source, member, _) in cross.items()
    ]
    assert len(set(ranks)) > 2  # not always the same end of the list


def test_choices_follow_the_seed_and_not_the_order(with_faces, tmp_path):
    entries = list(stored(with_faces))[:24]
    wide = {"cross": [0.6, 1.0]}
    first = sources_of(run(entries, tmp_path / "a", pairs=pairs("cross", **wide))[0])
    shuffled = [entries[i] for i in np.random.default_rng(0).permutation(len(entries))]
    again, _ = run(shuffled, tmp_path / "b", pairs=pairs("cross", **wide))
    other = sources_of(run(entries, tmp_path / "c", pairs=pairs("cross", seed=1, **wide))[0])
    assert sources_of(again) == first
    assert list(again) == [entry.key for entry in shuffled]
    assert other != first


def test_clips_without_a_partner_are_dropped_and_counted(with_faces, tmp_path):
    samples, dropped = run(stored(with_faces), tmp_path, pairs=pairs("trade_off", trade_off=[0.97, 0.99]))
    assert samples and dropped
    assert {one["reason"] for one in dropped} == {"no partner"}
    assert "the best similarity to another clip is 0." in dropped[0]["detail"]
    assert json.loads((tmp_path / "index.json").read_text())["dropped"] == {"no partner": len(dropped)}
    assert len((tmp_path / "dropped.jsonl").read_text().splitlines()) == len(dropped)


def test_same_pairs_keep_the_clips_own_pictures(with_faces, tmp_path):
    samples, dropped = run(stored(with_faces), tmp_path, pairs={**pairs("same"), "analyzer": None})
    assert len(samples) == 60 and not dropped
    for key, raw in samples.items():
        (identity,) = info_of(raw)["identities"]
        assert identity["face_sources"] == [{"key": key, "member": "face.0.png"}, {"key": key, "member": "face.1.png"}]
        assert info_of(raw)["faces_from"] == "same"


@pytest.mark.parametrize("kind", ["same", "cross"])
def test_pictures_that_cannot_be_paired_are_dropped_with_the_reason(drawn, tmp_path, kind):
    without_face = ("c", {**clip_sample("c", 2)[1], "face.0.png": encode_png(np.full((40, 40, 3), 90, np.uint8))})
    folder = write_shards(
        tmp_path / "mixed",
        [
            clip_sample("a", 0, identities=[]),
            clip_sample("b", 1, identities=[{"id": "1", "face": ["face.0.png"]}, {"id": "2", "face": []}]),
            without_face,
            clip_sample("d", 3, faces_from="cross"),
        ],
    )
    _, dropped = run(stored(folder), tmp_path / "out", pairs=pairs(kind))
    reasons = {one["video"]: one["reason"] for one in dropped}
    noise = {} if kind == "same" else {"c": "no face in picture"}
    assert reasons == {"a": "no picture", "b": "no picture", "d": "pictures of another clip"} | noise


def test_every_person_of_a_clip_needs_a_partner(tmp_path):
    world = ToyWorld(people_per_clip=2, width=128, num_frames=6, seed=5)
    clips = [*draw_group(world, (1, 2)), draw_group(world, (1, 3))[0]]
    folder = write_shards(tmp_path / "drawn", clips)
    samples, dropped = run(stored(folder), tmp_path / "out", faces=FACES, pairs=pairs("cross", cross=[0.75, 1.0]))
    assert set(samples) == {"p00001_p00002_c0", "p00001_p00002_c1"}
    assert [(one["video"], one["reason"]) for one in dropped] == [("p00001_p00003_c0", "no partner")]
    raw = samples["p00001_p00002_c0"]
    identities = info_of(raw)["identities"]
    assert [identity["face"] for identity in identities] == [["face.0.png"], ["face.1.png"]]
    analyzer, original = ToyFaceAnalyzer(), {entry.key: entry for entry in stored(folder)}
    (clip_faces,) = [analyzer(stage_with().reader.read(original["p00001_p00002_c0"].load().video, [0])[0])]
    for identity in identities:
        x = identity["boxes"][0][1] * 128
        own = min(clip_faces, key=lambda face: abs(face.box[0] - x))
        (reference,) = analyzer(decode_image(raw[identity["face"][0]], "face"))
        assert float(own.embedding @ reference.embedding) > 0.7
    assert not (tmp_path / "out" / ".stages").exists()


def test_masks_go_with_their_pictures(with_faces, tmp_path):
    samples = []
    for entry in list(stored(with_faces))[:6]:
        sample = entry.load()
        mask = encode_png(np.full((64, 64), 255, np.uint8))
        samples.append((entry.key, {**sample.members, "face.0.mask.png": mask, "face.1.mask.png": mask}))
    folder = write_shards(tmp_path / "masked", samples)
    paired, _ = run(stored(folder), tmp_path / "out", pairs=pairs("cross", cross=[0.7, 1.0]))
    assert paired
    assert all(
        {name for name in raw if name.startswith("face.")} == {"face.0.png", "face.0.mask.png"}
        for raw in paired.values()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "crossed"}, "kind='crossed' is not one of same, cross, trade_off"),
        ({"kind": "cross"}, "stages.pairs.kind=cross needs a face analyzer: analyzer=insightface"),
        ({"kind": "cross", "cross": [0.9, 0.7]}, r"cross=\[0.9, 0.7\] must be two cosines, the lower one first"),
        ({"kind": "same", "trade_off": [0.9]}, "must be two cosines"),
    ],
)
def test_impossible_pair_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Pairs(**settings)


# Shards as a source, and workers


def test_samples_are_read_one_by_one_as_the_loader_reads_them(drawn):
    for entry, (_, raw) in zip(
        stored(drawn), (one for shard in list_shards(drawn) for one in read_shard(shard)), strict=True
    ):
        members = {name: data for name, data in raw.items() if not name.startswith("__")}
        assert (entry.key, entry.load().members) == (raw["__key__"], members)
        assert entry.read("face.0.png", "gone").members.keys() == {"json", "face.0.png"}


def test_samples_after_a_damage_are_dropped(drawn, tmp_path):
    folder = write_shards(tmp_path / "cut", [(entry.key, entry.load().members) for entry in list(stored(drawn))[:4]])
    tar = folder / "000000.tar"
    tar.write_bytes(tar.read_bytes()[: int(tar.stat().st_size * 0.6)])
    samples, dropped = run(stored(folder), tmp_path / "out")
    assert 1 <= len(samples) <= 2
    assert len(samples) + len(dropped) == 4
    assert {one["reason"] for one in dropped} == {"damaged shard"}


def test_shards_elsewhere_are_refused_as_a_source():
    with pytest.raises(ValueError, match=r"source\.folder=https://host/\{0\.\.9\}\.tar is not on this machine"):
        ShardFolder(folder="https://host/{0..9}.tar")


def test_a_key_in_two_shards_is_an_error(tmp_path):
    folder = write_shards(tmp_path / "data", [clip_sample("a"), clip_sample("a")], per_shard=1)
    with pytest.raises(ValueError, match=r"the key a is in .*000000\.tar and in .*000001\.tar"):
        list(stored(folder))


@pytest.mark.slow
def test_stages_run_in_worker_processes_with_the_same_result(with_faces, tmp_path):
    entries = list(stored(with_faces))[:9]
    stages = {"pairs": pairs("cross", cross=[0.7, 1.0])}
    here, _ = run(entries, tmp_path / "here", **stages)
    pipeline = Pipeline(stages, tmp_path / "there", reader="pyav", samples_per_shard=40, num_workers=2)
    pipeline.run(entries)
    assert (tmp_path / "there" / "000000.tar").read_bytes() == (tmp_path / "here" / "000000.tar").read_bytes()
    assert here


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_of_workers_come_in_order(num_workers):
    results = list(map_in_workers(partial(int, "100"), _slow_sum, range(30), num_workers=num_workers))
    assert results == list(range(100, 130))


def _slow_sum(first: int, second: int) -> int:
    import time

    time.sleep(0.01 if second % 3 == 0 else 0)
    return first + second
