"""The pictures that `references=` of an evaluation gives to its clips, in place of those that their source names."""

import itertools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
NONE = "none"


class GivenReferences:
    """`setting`: a folder with NAME.png for each NAME.mp4, one picture for all, `none`, or None for what sources name.

    Raises ValueError where that does not exist.
    """

    def __init__(self, setting: str | None):
        self.setting = setting
        self.place = None if setting in (None, NONE) else Path(str(setting))
        self._folders: dict[Path, dict[str, Path]] = {}
        if self.place is not None and not self.place.exists():
            raise ValueError(
                f"references={setting} does not exist: give a folder with NAME.png for each NAME.mp4, or one picture"
            )

    def of(self, name: str) -> list[Path] | None:
        """Return the pictures of the clip `name`, or None for those that its source names.

        In a folder these are NAME.png for NAME.mp4, or NAME.0.png, NAME.1.png... (also NAME_0, NAME_reference_0) for
        several people; below the same subfolder, or in the folder itself.
        """
        if self.setting is None:
            return None
        if self.place is None:
            return []
        if self.place.is_file():
            return [self.place]
        video = Path(name)
        subfolders = [] if video.is_absolute() or ".." in video.parts else [self.place / video.parent]
        for folder in dict.fromkeys((*subfolders, self.place)):
            known = self._pictures_in(folder)
            for separator in ("", ".", "_", "_reference_"):
                numbers: Iterable[Any] = itertools.count() if separator else [""]
                names = (f"{video.stem}{separator}{number}" for number in numbers)
                if found := list(itertools.takewhile(bool, (known.get(name) for name in names))):
                    return [picture for picture in found if picture is not None]
        return []

    def check(self, used: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Raise ValueError where a clip of (name, pictures) has none in the folder; warn of pictures of no clip."""
        if self.place is None:
            return
        if without := [name for name, pictures in used if not pictures]:
            raise ValueError(
                f"there is no reference picture for {without[0]} in {self.place}: expected {Path(without[0]).stem}.png "
                f"({len(without)} of {len(used)} videos have none)"
            )
        known = set(map(str, self._pictures_in(self.place).values())) if self.place.is_dir() else set()
        if unused := sorted(known - {picture for _, pictures in used for picture in pictures}):
            log.warning(
                "%d pictures in %s belong to no video, the first is %s", len(unused), self.place, Path(unused[0]).name
            )

    def _pictures_in(self, folder: Path) -> dict[str, Path]:
        """Return the pictures of a folder by their names without the suffix, of several of a name the first kind."""
        if folder not in self._folders:
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            kinds = {kind: place for place, kind in enumerate(reversed(PICTURE_EXTENSIONS))}
            pictures = [path for path in paths if path.suffix.lower() in kinds and path.is_file()]
            pictures.sort(key=lambda path: kinds[path.suffix.lower()])
            self._folders[folder] = {path.stem: path for path in pictures}
        return self._folders[folder]
