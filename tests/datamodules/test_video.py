import numpy as np
import pytest

from likeness.datamodules.samples import BadSample
from likeness.datamodules.video import get_reader
from likeness.media import encode_mp4

from ..conftest import drawn_video

READERS = ["pyav", pytest.param("decord", marks=pytest.mark.filterwarnings("ignore"))]


@pytest.fixture(params=READERS)
def reader(request):
    if request.param == "decord":
        pytest.importorskip("decord")
    return get_reader(request.param)


@pytest.fixture(scope="module")
def video():
    return encode_mp4(drawn_video(24), fps=12, crf=4)


def turned(video: bytes) -> bytes:
    """Return the mp4 with a display matrix that asks for a turn by 90 degrees clockwise (as phones write it)."""
    place = video.index(b"tkhd") + 4 + 4 + 20 + 16  # box name, version and flags, times and ids, reserved and volume
    matrix = [0, 1, 0, -1, 0, 0, 0, 0, 0x4000]
    data = b"".join((value * 0x10000).to_bytes(4, "big", signed=True) for value in matrix)
    return video[:place] + data + video[place + 36 :]


def test_probe_tells_length_rate_and_size(reader, video):
    info = reader.probe(video)
    assert (info.num_frames, info.height, info.width) == (24, 48, 64)
    assert info.fps == pytest.approx(12)


def test_frames_come_in_the_order_asked_for(reader, video):
    frames = reader.read(video, [5, 0, 5, 23])
    drawn = drawn_video(24)[[5, 0, 5, 23]]
    assert frames.shape == drawn.shape
    assert frames.dtype == np.uint8
    assert np.abs(frames.astype(int) - drawn).mean() < 4


def test_readers_agree(video):
    pytest.importorskip("decord")
    indices = [0, 3, 11, 23]
    assert np.array_equal(get_reader("pyav").read(video, indices), get_reader("decord").read(video, indices))


def test_turned_videos_are_shown_upright(video):
    reader, data = get_reader("pyav"), turned(video)
    info = reader.probe(data)
    assert (info.height, info.width) == (64, 48)
    upright = np.rot90(drawn_video(24)[:1], k=-1, axes=(1, 2))
    assert np.abs(reader.read(data, [0]).astype(int) - upright).mean() < 4


def test_decord_refuses_turned_videos_instead_of_garbling_them(video):
    pytest.importorskip("decord")
    for attempt in (
        lambda: get_reader("decord").probe(turned(video)),
        lambda: get_reader("decord").read(turned(video), [0]),
    ):
        with pytest.raises(BadSample, match="turned video.*reader=pyav"):
            attempt()


@pytest.mark.parametrize("data", [b"", b"not a video", bytes(range(256)) * 40], ids=["empty", "text", "noise"])
def test_unreadable_data_is_a_bad_sample(reader, data):
    for attempt in (lambda: reader.probe(data), lambda: reader.read(data, [0])):
        with pytest.raises(BadSample, match="unreadable video"):
            attempt()


def test_truncated_file_is_a_bad_sample(reader, video):
    with pytest.raises(BadSample):
        reader.read(video[: len(video) // 2], list(range(24)))


def test_index_past_the_end_is_a_bad_sample(reader, video):
    with pytest.raises(BadSample, match="frame 24 was asked for"):
        reader.read(video, [0, 24])


def test_unknown_reader_lists_the_known_ones():
    with pytest.raises(ValueError, match="pyav, decord"):
        get_reader("opencv")
