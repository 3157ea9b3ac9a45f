"""A data set of 500 clips, 5 % of them damaged in ten ways: does training end, is each counted, is no other lost?

    python benchmarks/damaged.py

The clips are the toy world's. A run of `train.py experiment=concat_id_toy` reads them for two epochs; then one epoch of
its loader tells which clips it gives out.
"""

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import REPOSITORY, report, run
from PIL import Image

from likeness.datamodules.clips import ClipDataModule
from likeness.datamodules.conditions import ReferenceImages
from likeness.datamodules.frames import StridedFrames
from likeness.datamodules.shard_set import ShardSet
from likeness.datamodules.shards import ShardWriter
from likeness.toy.world import ToyShards

COUNT, SHARE = 500, 0.05
FOLDER = REPOSITORY / "data" / "damaged"
Members = dict[str, bytes]


def without(name: str) -> Callable[[Members], Members]:
    return lambda members: {suffix: data for suffix, data in members.items() if suffix != name}


def with_json(**changes: object) -> Callable[[Members], Members]:
    return lambda members: {**members, "json": json.dumps({**json.loads(members["json"]), **changes}).encode()}


def bomb() -> bytes:
    """Return a PNG of a few kilobytes that declares more pixels than are read."""
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, format="PNG")
    return stream.getvalue()


# By the reason that skipped.jsonl must give. Two kinds are made in the tar itself, behind the writer's back.
KINDS: dict[str, tuple[str, Callable[[Members], Members]]] = {
    "video cut in half": ("truncated video", lambda m: {**m, "mp4": m["mp4"][: len(m["mp4"]) // 2]}),
    "noise for a video": ("unreadable video", lambda m: {**m, "mp4": np.random.default_rng(0).bytes(5000)}),
    "no video": ("no video member", without("mp4")),
    "json cut short": ("broken json member", lambda m: {**m, "json": m["json"][:20]}),
    "no caption": ("no caption", with_json(caption=None)),
    "picture named, not there": ("missing member", without("face.0.png")),
    "noise for a picture": ("unreadable image", lambda m: {**m, "face.0.png": b"no picture"}),
    "picture of 400 megapixels": ("too large", lambda m: {**m, "face.0.png": bomb()}),
    "header overwritten": ("damaged shard", lambda m: m),
    "tar cut short": ("damaged shard", lambda m: m),
}


def write_damaged() -> dict[str, str]:
    """Write the data set; return the kind of each damaged sample."""
    world = ToyShards(folder=str(REPOSITORY / "data" / "toy"))
    world.prepare()
    samples = ShardSet(world.train)
    shutil.rmtree(FOLDER, ignore_errors=True)
    # The last of all is cut off with the end of its tar; the others are spread evenly.
    places = np.linspace(3, COUNT - 20, int(COUNT * SHARE) - 1).astype(int).tolist()
    kinds = [kind for kind in KINDS if kind != "tar cut short"]
    damaged, writer = {}, ShardWriter(FOLDER, max_samples=100)
    for number in range(COUNT):
        sample = samples[number]
        members = sample.members
        if number in places:
            kind = kinds[places.index(number) % len(kinds)]
            damaged[sample.key], members = kind, KINDS[kind][1](members)
        writer.write(sample.key, members)
    writer.close()
    damaged[sample.key] = "tar cut short"
    _damage_tars({key for key, kind in damaged.items() if kind == "header overwritten"}, sample.key)
    return damaged


def _damage_tars(overwritten: set[str], cut: str) -> None:
    written = ShardSet(str(FOLDER))
    for number, key in enumerate(written.keys):
        start, path = int(written.table["start"][number]), Path(written.place(number)[1])
        if key in overwritten:
            with open(path, "r+b") as stream:
                stream.seek(start)
                stream.write(b"x" * 600)
        elif key == cut:
            with open(path, "r+b") as stream:
                stream.truncate(start + 2000)


def given_out() -> set[str]:
    data = ClipDataModule(
        num_frames=3,
        height=32,
        width=32,
        frames=StridedFrames(stride=4),
        train=str(FOLDER),
        batch_size=16,
        conditions={"references": ReferenceImages(height=32, width=32)},
    )
    return {key for batch in data.train_dataloader() for key in batch["key"]}


def main() -> None:
    damaged = write_damaged()
    output = REPOSITORY / "outputs" / "damaged"
    shutil.rmtree(output, ignore_errors=True)
    steps = 2 * COUNT // 16
    settings = ["datamodule=shards", f"datamodule.train={FOLDER}", "datamodule.num_frames=3", "datamodule.height=32"]
    settings += ["datamodule.width=32", "datamodule.batch_size=16", "datamodule.num_workers=2", "trainer=cpu"]
    settings += ["datamodule.frames._target_=likeness.datamodules.frames.StridedFrames", "+datamodule.frames.stride=4"]
    run("train.py", "experiment=concat_id_toy", *settings, f"trainer.max_steps={steps}", "run_name=damaged")
    entries = [json.loads(line) for line in (output / "skipped.jsonl").read_text().splitlines()]
    found = {entry["key"]: entry["reason"] for entry in entries}
    kept = given_out()
    rows = [
        {
            "damage": kind,
            "samples": count,
            "counted as": KINDS[kind][0],
            "counted": sum(found.get(key) == KINDS[kind][0] for key, one in damaged.items() if one == kind),
        }
        for kind, count in Counter(damaged.values()).items()
    ]
    lost = COUNT - len(damaged) - len(kept - damaged.keys())
    report("damaged", rows, clips=COUNT, damaged=len(damaged), skipped=len(found), others_lost=lost, steps=steps)


if __name__ == "__main__":
    main()
