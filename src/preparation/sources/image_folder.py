"""A plain folder of pictures, each with a `.txt` caption of the same name beside it: clips of one frame."""

from collections.abc import Iterator

from . import PICTURES, SourceClip, caption_beside
from .lists import check_folder


class ImageFolder:
    """All pictures below `folder`. `needs_captions=false`: those without a `.txt` file get an empty caption."""

    def __init__(self, *, folder: str, needs_captions: bool = True):
        self.folder, self.needs_captions = check_folder(folder), needs_captions

    def __iter__(self) -> Iterator[SourceClip]:
        pictures = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in PICTURES)
        if not pictures:
            raise ValueError(f"source.folder={self.folder} holds no picture ({', '.join(PICTURES)})")
        for picture in pictures:
            caption = caption_beside(picture)
            yield SourceClip(picture, caption if self.needs_captions else caption or "", place=str(picture))
