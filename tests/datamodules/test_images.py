import io

import numpy as np
import pytest
import torch
from PIL import Image

from likeness.datamodules.images import cover_and_crop, decode_image, fit_and_pad
from likeness.datamodules.samples import BadSample
from likeness.media import encode_png


def test_square_picture_gets_black_columns_on_either_side():
    fitted = fit_and_pad(np.full((20, 20, 3), 255, np.uint8), 16, 24)
    assert fitted.shape == (3, 16, 24)
    assert (fitted[:, :, :4] == -1).all()
    assert (fitted[:, :, -4:] == -1).all()
    torch.testing.assert_close(fitted[:, :, 4:-4], torch.ones(3, 16, 16))


def test_very_wide_picture_keeps_at_least_one_row():
    assert fit_and_pad(np.full((1, 400, 3), 255, np.uint8), 16, 24).max() == 1


def test_video_covers_the_size_and_is_cut_in_the_middle():
    frames = np.zeros((2, 30, 90, 3), np.uint8)
    frames[:, :, 30:60] = 200
    assert (cover_and_crop(frames, 30, 30) == 200).all()


def test_video_of_the_right_size_is_untouched():
    frames = np.random.default_rng(0).integers(0, 255, (2, 16, 24, 3), np.uint8)
    assert np.array_equal(cover_and_crop(frames, 16, 24).numpy(), frames.transpose(3, 0, 1, 2))


def test_pictures_of_any_mode_become_rgb():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(decode_image(encode_png(grey), "x.png"), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"text", lambda data: data[: len(data) // 2]])
def test_unreadable_picture_is_named(damage):
    data = encode_png(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    with pytest.raises(BadSample, match=r"unreadable image: face\.0\.png"):
        decode_image(damage(data), "face.0.png")


def test_sixteen_bit_grey_is_scaled_as_a_picture_and_kept_as_a_mask():
    grey = np.array([[0, 3, 256, 65535]], np.uint16)
    assert decode_image(encode_png(grey), "x.png")[0, :, 0].tolist() == [0, 0, 1, 255]
    assert decode_image(encode_png(grey), "mask.png", mode="L").tolist() == [[0, 3, 255, 255]]


def test_pictures_are_upright_and_lose_their_alpha():
    pixels, buffer, exif = np.arange(48, dtype=np.uint8).reshape(3, 4, 4), io.BytesIO(), Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG", exif=exif)
    assert np.array_equal(decode_image(buffer.getvalue(), "x.png"), pixels[::-1, ::-1, :3])


def test_formats_that_run_programs_are_not_opened():
    """PIL gives an EPS file to Ghostscript."""
    with pytest.raises(BadSample, match="not a picture of a known format"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "face.0.png")
