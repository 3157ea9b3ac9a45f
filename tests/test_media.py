import numpy as np
import pytest
import torch

from likeness.datamodules.video import get_reader
from likeness.media import contact_sheet, encode_mp4, to_frames, write_mp4, write_png

from .conftest import drawn_video


@pytest.mark.parametrize(("height", "width", "fps"), [(48, 64, 8), (48, 64, 29.97), (33, 65, 10)])
def test_written_video_has_the_right_rate_length_and_size(tmp_path, height, width, fps):
    write_mp4(tmp_path / "clips" / "a.mp4", drawn_video(9, height, width), fps)
    info = get_reader("pyav").probe((tmp_path / "clips" / "a.mp4").read_bytes())
    assert (info.num_frames, info.height, info.width) == (9, height // 2 * 2, width // 2 * 2)
    assert info.fps == pytest.approx(fps, rel=1e-3)


def test_video_shows_what_was_written():
    frames = drawn_video(9)
    read = get_reader("pyav").read(encode_mp4(frames, 8), range(9))
    assert np.abs(read.astype(int) - frames).mean() < 4


def test_equal_frames_make_equal_files():
    generator = torch.Generator().manual_seed(0)
    clips = (
        torch.nn.functional.avg_pool3d(torch.randn(4, 3, 9, 64, 64, generator=generator), (1, 9, 9), 1, (0, 4, 4)) * 5
    )
    rng, kept, files = np.random.default_rng(0), [], set()
    for _ in range(30):
        kept.append(bytearray(int(rng.integers(1, 300_000))))  # other addresses for the encoder's buffers
        files.add(b"".join(encode_mp4(to_frames(clip), 8) for clip in clips))
    assert len(files) == 1


def test_pixels_become_bytes_by_truncation():
    pixels = torch.tensor([-1.0, 1.0, 0.0, -2.0, 2.0]).reshape(1, 5, 1, 1).expand(3, 5, 1, 1)
    assert to_frames(pixels)[:, 0, 0, 0].tolist() == [0, 255, 127, 0, 255]


def test_contact_sheet_shows_references_first_and_a_row_a_clip():
    red, blue = np.zeros((16, 16, 3), np.uint8), np.zeros((4, 64, 64, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = contact_sheet([([red], blue), ([], blue)])
    assert sheet.shape[0] == 2 * 66
    assert sheet[10, 10].tolist() == [255, 0, 0]
    assert sheet[80, 20].tolist() == [0, 0, 255]


def test_picture_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "a.png"
    for level in (10, 20):
        write_png(path, np.full((4, 4, 3), level, np.uint8))
    assert list(tmp_path.iterdir()) == [path]
