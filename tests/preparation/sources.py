"""What the tests of the sources share: the samples of a source, written to shards and read back."""

import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from likeness.datamodules.samples import BadSample
from likeness.preparation.clips import clip_sample
from likeness.preparation.sources import SourceClip

from ..conftest import write_shards


class Read:
    """A sample as it lies in a tar: `info` is its json member, `members` the others."""

    def __init__(self, members: dict[str, bytes]):
        self.info = json.loads(members["json"])
        self.members = {suffix: data for suffix, data in members.items() if suffix != "json"}


def written(source: Iterable[SourceClip], folder: Path) -> tuple[list[Read], list[BadSample]]:
    """Return the samples of `source`, in order, through shards in `folder`, and why the others were dropped."""
    samples, dropped = [], []
    for number, clip in enumerate(source):
        try:
            sample = clip_sample(clip, f"{number:05d}", "pyav")
            samples.append((sample.key, {**sample.members, "json": json.dumps(sample.info).encode()}))
        except BadSample as problem:
            dropped.append(problem)
    return read_folder(write_shards(folder, samples)) if samples else [], dropped


def read_folder(folder: Path) -> list[Read]:
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found[key][suffix] = tar.extractfile(member).read()
    return [Read(found[key]) for key in sorted(found)]


def reasons(dropped: list[BadSample]) -> list[str]:
    return [problem.reason for problem in dropped]
