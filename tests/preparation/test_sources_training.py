"""From a layout through shards to a batch: what the sources write is what the loader reads."""

import json

import numpy as np
import pytest
import torch

from likeness.datamodules.clips import ClipDataModule
from likeness.datamodules.faces import FaceBoxes, FaceMask
from likeness.datamodules.frame_selection import ConsisIDFrames, ConsistI2VFrames
from likeness.datamodules.frames import StridedFrames
from likeness.datamodules.images import ResizeAndCrop, ShorterSideAndCrop, Stretch
from likeness.datamodules.tracklets import Tracklets
from likeness.preparation.sources.celeb_basis import CelebBasis
from likeness.preparation.sources.webvid import WebVid

from ..conftest import drawn_video, write_mp4
from .sources import written
from .test_sources_faces import consisid, named_faces, write_tree
from .test_sources_frames import write_coco


def batch_of(folder, **settings):
    """The first batch of shards in `folder`, as the training step gets it."""
    data = ClipDataModule(
        **{"num_frames": 4, "height": 32, "width": 48, "train": str(folder), "conditions": {}, **settings}
    )
    return data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)


def test_a_clip_of_consisid_comes_with_the_mask_of_its_person(tmp_path):
    written(consisid(write_tree(tmp_path)), tmp_path / "shards")
    batch = batch_of(
        tmp_path / "shards",
        frames=ConsisIDFrames(stride=1, skip_start=0, skip_end=0),
        transform=ResizeAndCrop(),
        conditions={"mask": FaceMask(), "boxes": FaceBoxes()},
    )
    assert batch["pixel_values"].shape == (1, 3, 4, 32, 48)
    assert batch["face_mask"].shape == (1, 1, 4, 32, 48)
    x0, y0, x1, y1 = (batch["face_boxes"][0, 0] * torch.tensor([48, 32, 48, 32])).round().int().tolist()
    inside = batch["face_mask"][0, 0, 0, y0:y1, x0:x1].float().mean()
    assert inside > 0.8
    assert batch["face_mask"][0, 0, 0].sum() < 1.3 * (x1 - x0) * (y1 - y0)
    assert batch["identity"].tolist() in ([0], [1])


def test_a_clip_of_webvid_comes_with_its_stride(tmp_path):
    write_mp4(tmp_path / "videos" / "a.mp4", drawn_video(12))
    (tmp_path / "list.jsonl").write_text(json.dumps({"text": "a square", "file": "a.mp4"}) + "\n")
    written(WebVid(file=str(tmp_path / "list.jsonl"), folder=str(tmp_path / "videos")), tmp_path / "shards")
    batch = batch_of(tmp_path / "shards", frames=ConsistI2VFrames(stride=[2, 2]), transform=ShorterSideAndCrop())
    assert batch["stride"].tolist() == [2]
    assert batch["caption"] == ["a square"]


@pytest.mark.parametrize("size", [(40, 60), (20, 30)])
def test_tracked_frames_come_with_drawn_boxes(tmp_path, size):
    written(write_coco(tmp_path), tmp_path / "shards")
    batch = batch_of(
        tmp_path / "shards",
        height=size[0],
        width=size[1],
        frames=StridedFrames(),
        transform=Stretch(),
        conditions={"tracks": Tracklets(num_slots=3, draw=True)},
    )
    np.testing.assert_allclose(batch["boxes"][0, 0, 0], [0.1, 0.1, 0.3, 0.6], atol=1e-6)
    assert batch["track_ids"].tolist() == [[7, -1, -1]]
    is_drawn = (batch["drawn_pixel_values"] != batch["pixel_values"]).any(dim=1)
    assert is_drawn[0].any(dim=(1, 2)).tolist() == [False, True, False, False]  # the first frame stays clean
    assert batch["drawn_pixel_values"].min() >= -1


def test_a_face_of_celeb_basis_is_a_clip_of_one_frame(tmp_path):
    named_faces(tmp_path / "faces")
    written(CelebBasis(pictures=str(tmp_path / "faces")), tmp_path / "shards")
    batch = batch_of(tmp_path / "shards", num_frames=1, frames=StridedFrames(), batch_size=3)
    assert batch["pixel_values"].shape == (3, 3, 1, 32, 48)
