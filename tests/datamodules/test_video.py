"""The same files through every reader that imports: the same frames, or a refusal that says why."""

import io
import resource
import struct
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from likeness.datamodules.samples import BadSample
from likeness.datamodules.video import get_reader

from .videos import CASES, LENGTH, RATE, TIMES, changing_size, copied, encoded, made, movie, promising, sound

OTHERS = [pytest.param("decord", marks=pytest.mark.filterwarnings("ignore")), "torchcodec"]
# What each library shows wrong, or not at all, by the words of the refusal.
REFUSED = {
    "decord": {
        "matroska, written to a stream": "reader=pyav may read it",
        "hevc": "across key frames",
        "av1": "no AV1 decoder",
        "vp8": "can hide frames",
        "open groups": "across key frames",
        "intra refresh": "across key frames",
        "two streams": "2 video streams",
        "clockwise": "turned video",
        "half turn": "turned video",
        "mirror": "turned video",
        "no times": "no reliable frame times",
        "mpegts": "no reliable frame times",
        "avi": "no reliable frame times",
        "edit list": "an edit list hides frames",
        "starts between key frames": "starts between two key frames",
    },
    "torchcodec": {
        "vp8": "can hide frames",
        "open groups": "across key frames",
        "intra refresh": "across key frames",
        "mirror": "mirror image",
        "no times": "no reliable frame times",
        "mpegts": "no reliable frame times",
        "avi": "no reliable frame times",
        "edit list": "an edit list hides frames",
        "starts between key frames": "starts between two key frames",
    },
}
# Chroma of 4:2:0 is interpolated in each library's own way: edges of saturated colours differ, areas do not.
MEAN_DIFFERENCE = {"odd size 4:2:0": 1.0, "10 bits": 1.5, "prores": 0.01}
TURNS = {"clockwise": lambda x: np.rot90(x, -1, (1, 2)), "half turn": lambda x: x[:, ::-1, ::-1]}
TURNS["mirror"] = lambda x: x[:, :, ::-1]


@pytest.fixture(params=["pyav", *OTHERS])
def reader(request):
    return existing(request.param)


def existing(name: str):
    try:
        return get_reader(name)
    except ValueError as error:
        pytest.skip(str(error))


def decoded(case: str) -> np.ndarray:
    """All frames of a case, by a loop that does nothing but decode."""
    with av.open(io.BytesIO(made(case))) as container:
        frames = container.decode(container.streams.best("video"))
        pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    return TURNS.get(case, lambda x: x)(pixels)


@pytest.mark.parametrize("case", CASES)
def test_pyav_shows_every_frame_wherever_it_starts(case):
    reader, data, expected = get_reader("pyav"), made(case), decoded(case)
    info = reader.probe(data)
    assert (info.num_frames, info.height, info.width) == expected.shape[:3]
    assert np.array_equal(reader.read(data, range(len(expected))), expected)
    for indices in ([len(expected) - 1, 0, 3, 3], range(1, len(expected), 3), [17], [9, 10, 11], [20]):
        assert np.array_equal(reader.read(data, indices), expected[list(indices)])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", OTHERS)
def test_another_reader_shows_the_same_or_refuses(name, case):
    reader, data, plain = existing(name), made(case), get_reader("pyav")
    if case in REFUSED[name]:
        with pytest.raises(BadSample, match=REFUSED[name][case]):
            reader.read(data, [20, 4])
        return
    assert reader.probe(data) == plain.probe(data)
    for indices in (list(range(plain.probe(data).num_frames)), [25, 4, 4], [17]):
        frames, expected = reader.read(data, indices), plain.read(data, indices)
        assert np.abs(frames.astype(int) - expected).mean() <= MEAN_DIFFERENCE.get(case, 0)


def test_frames_are_the_drawn_ones_in_their_order(reader):
    frames = reader.read(made("plain"), range(LENGTH))
    assert np.abs(frames.astype(int) - movie()).mean() < 5
    brightness = frames[:, 40, 5].mean(axis=-1)
    assert (np.diff(brightness) > 2).all()


def test_frame_rate_is_the_mean(reader):
    assert reader.probe(made("plain")).fps == pytest.approx(RATE)
    # The header counts how long the last frame is shown, which encoders guess.
    assert reader.probe(made("variable rate")).fps == pytest.approx(RATE * 100 / np.diff(TIMES).mean(), rel=0.1)


def test_a_stream_copied_cut_hides_the_frames_before_it():
    reader = get_reader("pyav")
    info, frames = reader.probe(made("edit list")), reader.read(made("edit list"), [0, 1])
    assert info.num_frames == LENGTH - 15
    assert np.array_equal(frames, reader.read(made("plain"), [15, 16]))


def places(data: bytes) -> list[int]:
    """Where the frames of a file lie in it."""
    with av.open(io.BytesIO(data)) as container:
        return [packet.pos for packet in container.demux(video=0) if packet.size]


def test_late_frames_do_not_wait_for_the_early_ones():
    """Most of the first group of pictures is destroyed: whoever decodes it fails."""
    data, reader = made("plain"), get_reader("pyav")
    start, stop = (places(data)[number] for number in (1, 10))
    damaged = data[:start] + bytes(stop - start) + data[stop:]
    with pytest.raises(BadSample):
        reader.read(damaged, [5])
    assert np.array_equal(reader.read(damaged, [25, 31]), reader.read(data, [25, 31]))


def test_of_two_streams_the_same_is_read():
    for name in ("pyav", "torchcodec"):
        info = existing(name).probe(made("two streams"))
        assert (info.height, info.width) == (32, 48)


CUTS = {
    "moov first": lambda: encoded(movie(), movflags="faststart"),
    "moov last": lambda: made("plain"),
    "fragments": lambda: made("fragments"),
    "matroska": lambda: made("matroska"),
    "avi": lambda: encoded(movie(), "mpeg4", container="avi", options={"g": "10"}),
}


@pytest.mark.parametrize("cut", CUTS)
def test_truncated_file_is_a_bad_sample(reader, cut):
    data = CUTS[cut]()
    for attempt in (reader.probe, lambda data: reader.read(data, [0])):
        for share in (0.3, 0.6, 0.95):
            with pytest.raises(BadSample):
                attempt(data[: int(len(data) * share)])


def test_file_cut_between_two_frames_is_truncated(reader):
    data = CUTS["moov first"]()
    with pytest.raises(BadSample, match="truncated video: the file has .* bytes of"):
        reader.read(data[: places(data)[20]], [0])


BROKEN = {
    "empty": b"",
    "text": b"not a video",
    "noise": bytes(range(256)) * 40,
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_video_is_unreadable(reader, kind):
    for attempt in (reader.probe, lambda data: reader.read(data, [0])):
        with pytest.raises(BadSample, match="unreadable video"):
            attempt(BROKEN[kind])


@pytest.mark.parametrize("picture", [None, b"cover"], ids=["audio", "audio with a cover"])
def test_sound_has_no_video_stream(reader, picture):
    with pytest.raises(BadSample, match="no video stream"):
        reader.probe(sound(picture))


def test_frames_of_two_sizes_are_refused(reader):
    with pytest.raises(BadSample, match="changing size|no reliable frame times"):
        reader.read(changing_size(), [0, 9])


def test_index_past_the_end_is_a_bad_sample(reader):
    for case in ("plain", "no times") if type(reader).__name__ == "PyAVReader" else ("plain",):
        with pytest.raises(BadSample, match=f"frame {LENGTH} was asked for, {LENGTH} could be decoded"):
            reader.read(made(case), [0, LENGTH])


@pytest.mark.parametrize("indices", [[], [-1], [3, -2]])
def test_indices_that_count_nothing_are_an_error_of_ours(reader, indices):
    with pytest.raises(ValueError, match="counted from 0"):
        reader.read(made("plain"), indices)


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_huge_frames_are_refused_before_they_take_memory(reader):
    data, before = promising(30000), peak_memory()
    for attempt in (reader.probe, lambda data: reader.read(data, [0])):
        with pytest.raises(BadSample, match="too large|unreadable video"):
            attempt(data)
    assert peak_memory() - before < 50e6


def test_more_frames_than_memory_holds_are_refused(reader):
    for data in (made("plain"), picture("PNG")):
        before = peak_memory()
        with pytest.raises(BadSample, match="too large: 1000000 frames of"):
            reader.read(data, np.zeros(1_000_000, int))
        assert peak_memory() - before < 50e6


def picture(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(frame) for frame in movie(3)]
    several = {"save_all": True, "append_images": frames[1:]} if options.pop("animated", False) else {}
    frames[0].save(buffer, kind, **several, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("animated", [False, True], ids=["still", "animated"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_is_a_clip_of_one_frame(reader, kind, animated):
    if kind == "JPEG" and animated:
        pytest.skip("there are no animated JPEG files")
    data = picture(kind, animated=animated, **({"lossless": True} if kind == "WEBP" else {}))
    info, frames = reader.probe(data), reader.read(data, [0, 0])
    assert (info.num_frames, info.fps, info.height, info.width) == (1, 1, 48, 64)
    assert np.abs(frames.astype(int) - movie(1)).mean() < 3
    with pytest.raises(BadSample, match="frame 1 was asked for, 1 could be decoded"):
        reader.read(data, [0, 1])


def test_a_photograph_is_turned_as_its_camera_says(reader):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    data = picture("PNG", exif=exif)
    assert np.array_equal(reader.read(data, [0])[0], np.rot90(movie(1)[0], -1))


def test_a_picture_that_promises_too_much_is_refused(reader):
    header = struct.pack(">2I5B", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    before = peak_memory()
    with pytest.raises(BadSample, match="too large"):
        reader.probe(b"\x89PNG\r\n\x1a\n" + chunk + picture("PNG")[33:])
    assert peak_memory() - before < 50e6


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchcodec", None)
    with pytest.raises(ValueError, match="torchcodec==0.13.0.*reader=pyav"):
        get_reader("torchcodec")


def test_memory_does_not_grow_over_two_thousand_clips():
    reader, data = get_reader("pyav"), made("plain")
    for index in range(2200):
        if index == 200:
            before = resident()
        reader.read(data, [index % LENGTH, 3])
    assert resident() - before < 50e6


def resident() -> int:
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * resource.getpagesize()


def test_copy_without_a_cut_changes_nothing():
    data = copied(made("plain"), lambda time: True)
    reader = get_reader("pyav")
    assert np.array_equal(reader.read(data, [0, 20]), reader.read(made("plain"), [0, 20]))


def test_unknown_reader_lists_the_known_ones():
    with pytest.raises(ValueError, match="pyav, decord, torchcodec"):
        get_reader("opencv")
