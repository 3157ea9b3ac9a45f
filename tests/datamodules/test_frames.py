import numpy as np
import pytest

from likeness.datamodules.frames import ConcatIDFrames, StridedFrames
from likeness.datamodules.samples import BadSample


def chosen(selection, available: int, fps: float, num_frames: int, seed: int = 0) -> list[int]:
    return selection({"num_frames": available, "fps": fps}, num_frames, np.random.default_rng(seed)).indices


def test_concat_id_floors_the_stride_and_skips_the_start():
    assert chosen(ConcatIDFrames(), 300, 30.0, 5) == [3, 6, 9, 12, 15]


def test_concat_id_repeats_the_last_frame_of_a_short_clip():
    assert chosen(ConcatIDFrames(), 12, 8.0, 9) == [3, 4, 5, 6, 7, 8, 8, 8, 8]


def test_concat_id_takes_a_picture_as_a_clip_of_one_frame():
    assert chosen(ConcatIDFrames(), 1, 1.0, 1) == [0]


def test_concat_id_finds_a_single_frame_where_the_published_rule_finds_none():
    assert chosen(ConcatIDFrames(), 8, 8.0, 1) == [3]
    assert chosen(ConcatIDFrames(), 2, 8.0, 1) == [1]


def test_concat_id_on_wan_spreads_the_clip_over_the_skipped_frames_too():
    """At 42 fps, 5 frames at 14 fps end at 18: the span from frame 3 has 15 frames, or 12 with the skip subtracted."""
    assert chosen(ConcatIDFrames(14), 300, 42.0, 5) == [3, 5, 7, 9, 11]
    assert chosen(ConcatIDFrames(14, subtract_skip=False), 300, 42.0, 5) == [3, 6, 9, 12, 15]


def test_concat_id_on_wan_needs_no_repeated_frames_at_the_clips_own_rate():
    assert chosen(ConcatIDFrames(16, subtract_skip=False), 100, 16.0, 81) == list(range(3, 84))
    assert chosen(ConcatIDFrames(16), 100, 16.0, 81) == [*range(3, 81), 80, 80, 80]


def test_subtracting_the_skip_does_not_matter_for_a_short_video():
    assert chosen(ConcatIDFrames(16), 12, 16.0, 49) == chosen(ConcatIDFrames(16, subtract_skip=False), 12, 16.0, 49)


@pytest.mark.parametrize("num_frames", [0, 3, 6])
def test_concat_id_refuses_a_clip_that_cannot_be_skipped_into(num_frames):
    with pytest.raises(BadSample, match="too short"):
        chosen(ConcatIDFrames(), num_frames, 8.0, 9)


@pytest.mark.parametrize("num_frames", [7, 8, 11, 48, 49, 60, 300])
@pytest.mark.parametrize("fps", [6.0, 24.0, 59.94])
def test_concat_id_stays_inside_the_video(num_frames, fps):
    indices = chosen(ConcatIDFrames(), num_frames, fps, 49)
    assert len(indices) == 49
    assert min(indices) == 3
    assert max(indices) < num_frames


@pytest.mark.parametrize("selection", [ConcatIDFrames(), ConcatIDFrames(16, subtract_skip=False), StridedFrames(3)])
@pytest.mark.parametrize("fps", [8.0, 15.0, 24.0])
@pytest.mark.parametrize("wanted", [5, 13])
def test_a_video_that_fills_a_length_repeats_no_frame_for_being_short(selection, fps, wanted):
    available = np.arange(7, 90)
    fits = selection.fits(available, np.full(len(available), fps), wanted)
    assert fits[-1]
    assert not fits[0]
    distinct = np.array([len(set(chosen(selection, int(count), fps, wanted))) for count in available])
    # Near its target rate Concat-ID's rule repeats frames of the longest video too: no more of them than of that.
    assert (distinct[fits] >= distinct[-1]).all()


def test_strided_frames_start_where_told():
    assert chosen(StridedFrames(stride=4), 12, 8.0, 3) == [0, 4, 8]
    assert chosen(StridedFrames(stride=2, start="centre"), 11, 8.0, 3) == [3, 5, 7]
    starts = {chosen(StridedFrames(start="random"), 4, 8.0, 2, seed)[0] for seed in range(100)}
    assert starts == {0, 1, 2}


def test_a_short_video_can_be_skipped():
    selection = StridedFrames(stride=3, short="skip")
    assert chosen(selection, 10, 8.0, 4) == [0, 3, 6, 9]
    with pytest.raises(BadSample, match="too short: 9 frames, 10 are needed"):
        chosen(selection, 9, 8.0, 4)
    with pytest.raises(ValueError, match=r"short='x' is not one of repeat, skip: datamodule\.frames\.short"):
        StridedFrames(short="x")


def test_strided_frames_repeat_the_last_frame():
    assert chosen(StridedFrames(stride=3), 5, 8.0, 4) == [0, 3, 4, 4]


def test_unknown_start_is_refused():
    with pytest.raises(ValueError, match=r"first, centre, random: datamodule\.frames\.start"):
        StridedFrames(start="middle")
