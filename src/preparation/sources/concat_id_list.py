"""Concat-ID's list for sampling, `prompt@@image[@@image]` a line, with a folder of clips made of it."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ...datamodules.samples import VIDEO_EXTENSIONS
from . import Picture, SourceClip, bad_entry, natural_key, resolve
from .lists import check_file, check_folder, read_lines

MAX_IMAGES = 3


class ConcatIDList:
    """The clips of `videos` that belong to the lines of `file`: those in folders `INDEX_*`, as the authors' sampler
    writes them, or called `INDEX.mp4` or `INDEX_*.mp4`. INDEX counts lines from 0. Several clips of a line are several
    samples. Relative paths start at the working directory or at the file's folder.

    Source: Concat-ID code, `sample_video.py`.
    """

    def __init__(self, *, file: str, videos: str | None = None):
        self.file = check_file(file)
        if videos is None:
            raise ValueError(
                f"{file} lists prompts and references, not clips: source.videos=FOLDER names the clips made of it; to "
                f"make clips, run sample.py inputs={file}"
            )
        self.videos = check_folder(videos, "source.videos")

    def __iter__(self) -> Iterator[SourceClip]:
        clips = self._clips_by_line()
        for number, (place, line) in enumerate(read_lines(self.file)):
            prompt, *images = [part.strip() for part in line.split("@@")]
            if not prompt or not images or not all(images) or len(images) > MAX_IMAGES:
                yield bad_entry(self.file, place, f"expected prompt@@image[@@image[@@image]], got {line[:80]!r}")
                continue
            identities = tuple((Picture(resolve(image, self.file.parent)),) for image in images)
            if number not in clips:
                problem = ("missing file", f"{place}: {self.videos} holds no clip {number}.mp4 and no folder {number}_")
                yield SourceClip(self.videos / f"{number}.mp4", prompt, identities, place, problem=problem)
            for video in clips.get(number, []):
                yield SourceClip(video, prompt, identities, place)

    def _clips_by_line(self) -> dict[int, list[Path]]:
        found: dict[int, list[Path]] = defaultdict(list)
        for path in sorted(self.videos.rglob("*"), key=natural_key):
            name = path.relative_to(self.videos).parts[0]
            index = re.match(r"(\d+)(?:_|\.|$)", name)
            if index and path.suffix[1:].lower() in VIDEO_EXTENSIONS and path.is_file():
                found[int(index[1])].append(path)
        if not found:
            raise ValueError(f"source.videos={self.videos} holds no clip whose name begins with the number of a line")
        return {number: sorted(paths) for number, paths in found.items()}
