"""A plain folder of videos, each with a `.txt` caption of the same name beside it."""

from collections.abc import Iterator
from pathlib import Path

from ...datamodules.samples import VIDEO_EXTENSIONS
from . import Picture, SourceClip

PICTURES = (".png", ".jpg", ".jpeg")


class VideoFolder:
    """All videos below `folder`.

    `references`: a folder with NAME.png (or NAME.0.png, NAME.1.png... for several people) for NAME.mp4.
    """

    def __init__(self, *, folder: str, references: str | None = None):
        self.folder, self.references = Path(folder), None if references is None else Path(references)
        for name, path in (("folder", self.folder), ("references", self.references)):
            if path is not None and not path.is_dir():
                raise ValueError(f"source.{name}={path} is not a folder")

    def __iter__(self) -> Iterator[SourceClip]:
        videos = sorted(path for path in self.folder.rglob("*") if path.suffix[1:].lower() in VIDEO_EXTENSIONS)
        if not videos:
            raise ValueError(f"source.folder={self.folder} holds no video ({', '.join(VIDEO_EXTENSIONS)})")
        for video in videos:
            text = video.with_suffix(".txt")
            caption = text.read_text().strip() if text.is_file() else None
            yield SourceClip(video, caption, tuple((picture,) for picture in self._pictures(video.stem)), str(video))

    def _pictures(self, stem: str) -> list[Picture]:
        if self.references is None:
            return []
        found = (path for path in sorted(self.references.iterdir()) if path.suffix.lower() in PICTURES)
        return [
            Picture(path)
            for path in found
            if path.stem == stem or (path.stem[: len(stem) + 1] == f"{stem}." and path.stem[len(stem) + 1 :].isdigit())
        ]
