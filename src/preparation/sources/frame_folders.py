"""SVD Xtend's layout: a folder of frames for each video."""

from collections.abc import Iterator

from . import FrameFiles, SourceClip, caption_beside
from .lists import check_folder, check_frame_settings


class FrameFolders:
    """Every folder in `folder` is a video of `fps` frames a second: its pictures, in natural order.

    Those with fewer than `min_frames` are dropped. NAME.txt beside the folder NAME, where there is one, is the caption.
    `crf`: see `FrameFiles`. Source: SVD Xtend code, `train_svd.py`; there, frames are sorted as texts.
    """

    def __init__(self, *, folder: str, fps: float, min_frames: int = 14, crf: int = 12):
        check_frame_settings(folder, fps, crf)
        self.folder, self.fps = check_folder(folder), float(fps)
        self.min_frames, self.crf = min_frames, crf

    def __iter__(self) -> Iterator[SourceClip]:
        videos = sorted(path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not videos:
            raise ValueError(f"source.folder={self.folder} holds no folder of frames")
        for video in videos:
            frames = FrameFiles(video, self.fps, min_frames=self.min_frames, crf=self.crf)
            yield SourceClip(video, caption_beside(video) or "", place=str(video), frames=frames)
