"""Preparing again: nothing is made twice, after a kill, a change of the list, of a file or of a setting."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from likeness.datamodules.samples import BadSample
from likeness.datamodules.shards import list_shards
from likeness.preparation.pipeline import Pipeline
from likeness.preparation.sources.shards import ShardFolder, StoredSample
from likeness.preparation.sources.video_folder import VideoFolder
from likeness.preparation.stages import BatchStage, Rejected, SampleStage, SetStage

from ..conftest import REPOSITORY, clip_sample, drawn_video, read_shard, write_mp4, write_shards

HERE = "tests.preparation.test_resume"


class Note(SampleStage):
    """Adds `word` to the caption, and a line to `log` for each sample that it sees."""

    def __init__(self, *, log: str, word: str, seconds: float = 0.0, refuse: str = "!"):
        self.log, self.word, self.seconds, self.refuse = log, word, seconds, refuse

    def __call__(self, sample):
        time.sleep(self.seconds)
        with open(self.log, "a") as stream:
            stream.write(f"{self.word} {sample.key}\n")
        if self.refuse in sample.key:
            raise BadSample("refused", sample.key)
        info = {**sample.info, "caption": f"{sample.info['caption']} {self.word}"}
        members = {**sample.members, f"{self.word}.txt": b"x", "note.txt": self.word.encode()}
        return [replace(sample, info=info, members=members)]


class Twice(SampleStage):
    """Gives two samples for one."""

    def __init__(self, *, log: str):
        self.log = log

    def __call__(self, sample):
        with open(self.log, "a") as stream:
            stream.write(f"twice {sample.key}\n")
        return [replace(sample, key=f"{sample.key}_{part}") for part in "ab"]


class Batches(BatchStage):
    """Fails for a whole batch where `bad` is among it; drops `ill` alone."""

    batch_size = 4

    def __init__(self, *, log: str, bad: str = "!", ill: str = "!"):
        self.log, self.bad, self.ill = log, bad, ill

    def run(self, samples):
        with open(self.log, "a") as stream:
            stream.write(f"{len(samples)}\n")
        if any(self.bad in sample.key for sample in samples):
            raise RuntimeError("out of something")
        return [BadSample("ill", sample.key) if self.ill in sample.key else sample for sample in samples]


@dataclass(frozen=True)
class WithPartner:
    """A clip with the caption of another one in its own."""

    base: StoredSample
    partner: StoredSample

    @property
    def place(self):
        return self.base.place

    @property
    def video(self):
        return self.base.video

    def fingerprint(self, digests):
        return digests[self.partner.key]

    def load(self):
        sample = self.base.load()
        partner = self.partner.read().info["caption"].split()[1]
        info = {**sample.info, "caption": f"{sample.info['caption']} +{partner}"}
        return replace(sample, info=info, members={**sample.members, "note.txt": b"pair"})


class Partners(SetStage):
    """Pairs each clip with the next one in the order of keys; those with `without` in their key are left out."""

    def __init__(self, *, log: str, without: str = "!", colour: str = ""):
        self.log, self.without = log, without

    def inspect(self, stored):
        with open(self.log, "a") as stream:
            stream.write(f"look {stored.key}\n")
        if "v0" in stored.key:
            raise BadSample("unwanted", stored.key)
        return stored.key

    def plan(self, stored, known):
        ordered = sorted(stored, key=lambda one: one.key)
        partners = dict(zip([one.key for one in ordered], [*ordered[1:], *ordered[:1]], strict=True))
        return [
            Rejected(one, "no partner", one.key) if self.without in one.key else WithPartner(one, partners[one.key])
            for one in stored
        ]


class Crash(SampleStage):
    """Ends the process, as a crash in a decoder does, at the sample `bad`."""

    def __init__(self, *, bad: str):
        self.bad = bad

    def __call__(self, sample):
        if self.bad in sample.key:
            os._exit(7)
        return [sample]


@pytest.fixture
def videos(tmp_path) -> Path:
    folder = tmp_path / "videos"
    for number in range(7):
        add_video(folder, f"v{number}", number)
    return folder


def add_video(folder: Path, name: str, seed: int) -> None:
    write_mp4(folder / f"{name}.mp4", drawn_video(4, seed=seed))
    (folder / f"{name}.txt").write_text(f"video {name}")


def note(log, word, **settings):
    return {"_target_": f"{HERE}.Note", "log": str(log), "word": word, **settings}


def prepare(videos, output, stages, num_workers=0, **settings):
    pipeline = Pipeline(
        stages, output, reader="pyav", samples_per_shard=3, num_workers=num_workers, source=str(videos), **settings
    )
    entries = VideoFolder(folder=str(videos)) if list(videos.glob("*.mp4")) else ShardFolder(folder=str(videos))
    return pipeline.prepare(list(entries))


def calls(log: Path) -> list[str]:
    """What was written to `log` since the last call, without the hashes of keys."""
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.rpartition("_")[0] or line for line in lines]


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix in (".tar", ".json", ".jsonl") and path.name != "prepared.jsonl"
    }


def samples(folder: Path) -> dict[str, dict]:
    return {raw["__key__"]: raw for shard in list_shards(folder) for _, raw in read_shard(shard)}


def test_a_second_run_does_nothing(videos, tmp_path):
    log, output = tmp_path / "log", tmp_path / "out"
    stages = {"a": note(log, "a")}
    first = prepare(videos, output, stages)
    assert first.is_new and first.num_kept == 7 and len(calls(log)) == 7
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    again = prepare(videos, output, stages)
    assert not again.is_new and (again.rows, again.dropped) == (first.rows, first.dropped)
    assert calls(log) == []
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_settings_without_effect_on_the_result_change_nothing(videos, tmp_path):
    stage = {"_target_": f"{HERE}.Batches", "log": str(tmp_path / "log")}
    prepare(videos, tmp_path / "out", {"a": stage})
    (tmp_path / "log").unlink()
    assert not prepare(videos, tmp_path / "out", {"a": {**stage, "device": "cpu"}}).is_new


def test_a_new_a_changed_and_a_removed_clip_touch_only_themselves(videos, tmp_path):
    log, output = tmp_path / "log", tmp_path / "out"
    stages = {"a": note(log, "a"), "b": note(log, "b", refuse="v5")}
    prepare(videos, output, stages)
    calls(log)
    add_video(videos, "u", 20)  # the first of the list now: everything moves on by one
    result = prepare(videos, output, stages)
    assert result.num_kept == 7 and sorted(calls(log)) == ["a u", "b u"]
    add_video(videos, "v3", 21)
    prepare(videos, output, stages)
    assert sorted(calls(log)) == ["a v3", "b v3"]
    (videos / "v1.txt").write_text("another caption")
    prepare(videos, output, stages)
    assert sorted(calls(log)) == ["a v1", "b v1"]
    (videos / "v0.mp4").unlink()
    result = prepare(videos, output, stages)
    assert calls(log) == [] and result.num_kept == 6
    assert [line["reason"] for line in result.dropped] == ["refused"]
    fresh = tmp_path / "fresh"
    prepare(videos, fresh, stages)
    assert samples(output) == {
        key: {**raw, "__url__": samples(output)[key]["__url__"]} for key, raw in samples(fresh).items()
    }
    assert len(list(output.glob("*.tar"))) == len(list_shards(output)) == 3
    assert len(list(output.glob("*.samples.json"))) == 3


def test_a_changed_setting_redoes_only_its_stage_and_those_after_it(videos, tmp_path):
    log, output = tmp_path / "log", tmp_path / "out"
    stages = {"a": note(log, "a", refuse="v2"), "b": note(log, "b"), "c": note(log, "c")}
    prepare(videos, output, stages)
    calls(log)
    changed = {**stages, "b": note(log, "d", refuse="v6")}
    result = prepare(videos, output, changed)
    assert Counter(line[0] for line in calls(log)) == {"d": 6, "c": 5}
    assert Counter(line["reason"] for line in result.dropped) == {"refused": 2}
    for raw in samples(output).values():
        assert json.loads(raw["json"])["caption"].endswith(" a d c")
        assert raw["note.txt"] == b"c" and {"a.txt", "d.txt", "c.txt"} <= raw.keys() and "b.txt" not in raw
    prepare(videos, output, {"a": stages["a"]})
    assert calls(log) == ["a v6"]  # it was dropped, so that nothing of it was left
    for raw in samples(output).values():
        assert json.loads(raw["json"])["caption"].endswith(" a") and raw["note.txt"] == b"a"
        assert not any(name.startswith("undo.") for name in raw)
    prepare(videos, output, stages)
    assert Counter(line[0] for line in calls(log)) == {"b": 6, "c": 6}


def test_a_stage_that_splits_clips_can_be_continued_from(videos, tmp_path):
    log, output = tmp_path / "log", tmp_path / "out"
    stages = {"twice": {"_target_": f"{HERE}.Twice", "log": str(log)}, "a": note(log, "a", refuse="v2")}
    result = prepare(videos, output, stages)
    assert result.num_kept == 12 and len(result.dropped) == 2
    calls(log)
    result = prepare(videos, output, {**stages, "b": note(log, "b")})
    assert result.num_kept == 12 and len(result.dropped) == 2
    assert Counter(line[0] for line in calls(log)) == {"b": 12}


def paired(log, **settings):
    partners = {"_target_": f"{HERE}.Partners", "log": str(log), **settings}
    return {"a": note(log, "a", refuse="v2"), "pairs": partners, "b": note(log, "b")}


def test_a_stage_of_the_whole_set_redoes_only_the_clips_that_it_changes(videos, tmp_path):
    log, output = tmp_path / "log", tmp_path / "out"
    result = prepare(videos, output, paired(log, without="v4"))
    reasons = Counter(line["reason"] for line in result.dropped)
    assert reasons == {"refused": 1, "unwanted": 1, "no partner": 1} and result.num_kept == 4
    assert result.counts["a"] == [7, 6] and result.counts["pairs"] == [5, 4]
    calls(log)
    assert not prepare(videos, output, paired(log, without="v4")).is_new and calls(log) == []
    assert not (output / ".stages").exists()
    result = prepare(videos, output, paired(log, without="v4", colour="x"))  # the same pairs come out
    counted = Counter(line.split()[0] for line in calls(log))
    assert counted == {"a": 2, "look": 6}  # v0 and v4 left nothing behind that could be used again
    add_video(videos, "v7", 7)  # becomes the partner of v6
    result = prepare(videos, output, paired(log, without="v4"), keep_stages=True)
    lines = calls(log)
    assert [line for line in lines if line[0] == "b"] == ["b v6", "b v7"]
    assert result.num_kept == len(samples(output)) == 5
    captions = [json.loads(raw["json"])["caption"] for raw in samples(output).values()]
    assert captions == [
        "video v1 a +v3 b",
        "video v3 a +v4 b",
        "video v5 a +v6 b",
        "video v6 a +v7 b",
        "video v7 a +v1 b",
    ]
    assert prepare(videos, output, paired(log, without="v3"), keep_stages=True).num_kept == 5
    assert [line for line in calls(log) if "look" not in line] == ["b v4"]  # with stages kept, nothing is lost


def test_another_sources_shards_and_foreign_ones_are_refused(videos, tmp_path):
    output = tmp_path / "out"
    prepare(videos, output, {})
    with pytest.raises(ValueError, match="holds shards already, made of"):
        Pipeline({}, output, reader="pyav", samples_per_shard=3, num_workers=0, source="else").prepare([])
    foreign = write_shards(tmp_path / "foreign", [clip_sample("a")])
    with pytest.raises(ValueError, match=r"holds shards already, and no prepared\.jsonl"):
        prepare(videos, foreign, {})


def listed(entries, output, stages):
    return Pipeline(stages, output, reader="pyav", samples_per_shard=3, num_workers=0).prepare(entries)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("num_there", [0, 3])
def test_a_set_whose_source_is_away_stays_as_it_is(videos, tmp_path, num_there, split):
    output, entries = tmp_path / "out", list(VideoFolder(folder=str(videos)))
    stages = {"a": {"_target_": f"{HERE}.Twice", "log": str(tmp_path / "log")}} if split else {}
    listed(entries, output, stages)
    before = samples(output)
    videos.rename(tmp_path / "away")
    videos.mkdir()
    for number in range(num_there):
        (tmp_path / "away" / f"v{number}.mp4").rename(videos / f"v{number}.mp4")
    with pytest.raises(ValueError, match=r"missing.*the set in .*out stays as it is"):
        listed(entries, output, stages)
    assert samples(output) == before
    for path in (tmp_path / "away").glob("*.mp4"):
        path.rename(videos / path.name)
    calls(tmp_path / "log")
    assert listed(entries, output, stages).num_kept == len(before)
    assert calls(tmp_path / "log") == [] and samples(output) == before


def test_a_few_missing_files_cost_only_their_samples(videos, tmp_path):
    output, entries = tmp_path / "out", list(VideoFolder(folder=str(videos)))
    listed(entries, output, {})
    (videos / "v0.mp4").unlink()
    assert listed(entries, output, {}).num_kept == 6


def test_what_lies_in_shards_is_recognised_after_they_were_written_anew(videos, tmp_path):
    log = tmp_path / "log"
    first = {"a": note(log, "a")}
    prepare(videos, tmp_path / "one", first)
    prepare(tmp_path / "one", tmp_path / "two", {"b": note(log, "b")})
    calls(log)
    add_video(videos, "u", 20)
    prepare(videos, tmp_path / "one", first)
    assert calls(log) == ["a u"]
    result = prepare(tmp_path / "one", tmp_path / "two", {"b": note(log, "b")})
    assert calls(log) == ["b u"] and result.num_kept == 8


def test_a_damaged_tar_is_made_anew_from_what_is_left(videos, tmp_path):
    log, output = tmp_path / "log", tmp_path / "out"
    prepare(videos, output, {"a": note(log, "a")})
    calls(log)
    tar = output / "000000.tar"
    tar.write_bytes(tar.read_bytes()[: int(tar.stat().st_size * 0.6)])
    result = prepare(videos, output, {"a": note(log, "a")})
    assert result.num_kept == len(samples(output)) == 7
    assert 1 <= len(calls(log)) <= 2


def test_a_failing_batch_loses_only_the_sample_that_is_to_blame(videos, tmp_path):
    stage = {"_target_": f"{HERE}.Batches", "log": str(tmp_path / "log"), "bad": "v1", "ill": "v5"}
    result = prepare(videos, tmp_path / "out", {"net": stage})
    assert {line["key"][:2]: line["reason"] for line in result.dropped} == {"v1": "net failed", "v5": "ill"}
    assert "RuntimeError: out of something" in result.dropped[0]["detail"]
    assert result.num_kept == 5
    assert (tmp_path / "log").read_text().split() == ["4", "2", "1", "1", "2", "3"]


def test_a_worker_that_dies_costs_only_its_clip(videos, tmp_path):
    stages = {"crash": {"_target_": f"{HERE}.Crash", "bad": "v3"}}
    result = prepare(videos, tmp_path / "out", stages, num_workers=2)
    assert [(line["reason"], line["key"][:2]) for line in result.dropped] == [("worker died", "v3")]
    assert "exit code 7" in result.dropped[0]["detail"]
    assert result.num_kept == len(samples(tmp_path / "out")) == 6
    assert not prepare(videos, tmp_path / "out", stages, num_workers=2).is_new


def test_two_preparations_of_one_folder_at_once_are_refused(videos, tmp_path):
    code = f"""
import fcntl, time
stream = open({str(tmp_path / "out" / ".unfinished" / "lock")!r}, "w")
fcntl.flock(stream, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""
    (tmp_path / "out" / ".unfinished").mkdir(parents=True)
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"locked\n"
    try:
        with pytest.raises(ValueError, match=r"another prepare\.py is writing to"):
            prepare(videos, tmp_path / "out", {})
    finally:
        other.kill()
        other.wait()


KILLED = """
import sys
from pathlib import Path
from tests.preparation.test_resume import note, prepare
videos, output, log, num_workers = sys.argv[1:]
prepare(Path(videos), Path(output), {"a": note(log, "a", seconds=0.05, refuse="v2")}, int(num_workers))
"""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_run_continues_where_it_stopped(videos, tmp_path, num_workers):
    for number in range(7, 16):
        add_video(videos, f"w{number}", number)
    log, output = tmp_path / "log", tmp_path / "out"
    whole = {"a": note(log, "a", seconds=0.05, refuse="v2")}
    prepare(videos, tmp_path / "whole", whole)
    calls(log)
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(videos), str(output), str(log), str(num_workers)], cwd=REPOSITORY
    )
    while not log.exists() or len(log.read_text().splitlines()) < 8:
        time.sleep(0.01)
        assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(1.5 if num_workers else 0)  # its workers end when they see that it is gone
    with pytest.raises(ValueError, match="is not finished|no shards at"):
        list_shards(output)
    done = calls(log)
    result = prepare(videos, output, whole)
    again = Counter([*done, *calls(log)])
    assert sum(again.values()) - len(again) <= (2 if num_workers == 0 else 10)  # those that were on their way
    assert len(again) == 16
    assert result.num_kept == 15 and [line["reason"] for line in result.dropped] == ["refused"]
    assert content(output) == content(tmp_path / "whole")
    assert not (output / ".unfinished").exists()
