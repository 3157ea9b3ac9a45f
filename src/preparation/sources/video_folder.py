"""A plain folder of videos, each with a `.txt` caption of the same name beside it."""

from collections.abc import Iterator

from ...datamodules.samples import VIDEO_EXTENSIONS
from . import PICTURES, Picture, SourceClip, caption_beside
from .lists import check_folder


class VideoFolder:
    """All videos below `folder`.

    `references`: a folder with NAME.png (or NAME.0.png, NAME.1.png... for several people) for NAME.mp4.
    """

    def __init__(self, *, folder: str, references: str | None = None):
        self.folder = check_folder(folder)
        self.references = None if references is None else check_folder(references, "source.references")

    def __iter__(self) -> Iterator[SourceClip]:
        videos = sorted(path for path in self.folder.rglob("*") if path.suffix[1:].lower() in VIDEO_EXTENSIONS)
        if not videos:
            raise ValueError(f"source.folder={self.folder} holds no video ({', '.join(VIDEO_EXTENSIONS)})")
        references = self._references()
        for video in videos:
            identities = tuple((picture,) for picture in references.get(video.stem, []))
            yield SourceClip(video, caption_beside(video), identities, str(video))

    def _references(self) -> dict[str, list[Picture]]:
        """Return the pictures by the name of the video that they belong to."""
        found: dict[str, list[Picture]] = {}
        for path in sorted(self.references.iterdir()) if self.references else []:
            if path.suffix.lower() not in PICTURES:
                continue
            stem, _, number = path.stem.rpartition(".")
            for name in {path.stem, stem if number.isdigit() else path.stem}:
                found.setdefault(name, []).append(Picture(path))
        return found
