"""Concat-ID's folder layout: `videos/`, `labels/` and `images/` with the same names below them."""

from collections.abc import Iterator
from pathlib import Path

from . import SourceClip
from .concat_id_json import reference_pictures
from .lists import check_folder


class ConcatIDFolder:
    """Every `.mp4` below `folder`, one folder or several.

    Its caption is the first line of the file with `labels` for `videos` and `.txt` for `.mp4` in its path, empty where
    there is none; its references, of one person, lie in the folder with `images` for `videos` and without `.mp4`, and
    clips without one are dropped. `needs_references=false`: such clips refer to their own first frame.

    Source: Concat-ID code, `data_video.py`.
    """

    def __init__(self, *, folder: str | list[str], needs_references: bool = True):
        self.folders = [check_folder(one) for one in ([folder] if isinstance(folder, str) else folder)]
        self.needs_references = needs_references

    def __iter__(self) -> Iterator[SourceClip]:
        for folder in self.folders:
            # Only what lies in the data set is renamed: /data/videos/mine/videos/a.mp4 has its labels below mine.
            root = folder.parent if folder.name == "videos" else folder
            videos = sorted(folder.rglob("*.mp4"))
            if not videos:
                raise ValueError(f"source.folder={folder} holds no .mp4")
            for video in videos:
                yield self._clip(root, video)

    def _clip(self, root: Path, video: Path) -> SourceClip:
        name = str(video.relative_to(root))
        if "videos" not in name:
            raise ValueError(f"{video} does not lie in a folder `videos`, beside `labels` and `images`: source.folder")
        label = root / name.replace("videos", "labels").replace(".mp4", ".txt")
        images = root / name.replace("videos", "images").replace(".mp4", "")
        lines = label.read_text(errors="replace").splitlines() if label.is_file() else []
        caption = lines[0].strip() if lines else ""
        if not images.is_dir():
            detail = f"{images} is not a folder of pictures"
            problem = ("missing references", detail) if self.needs_references else None
            return SourceClip(video, caption, place=str(video), problem=problem)
        return SourceClip(video, caption, (reference_pictures(images),), str(video))
