import numpy as np
import pytest

from likeness.datamodules.frames import ConcatIDFrames, StridedFrames
from likeness.datamodules.samples import BadSample

RNG = np.random.default_rng(0)


def test_concat_id_floors_the_stride_and_skips_the_start():
    assert ConcatIDFrames(5)(300, 30.0, RNG) == [3, 6, 9, 12, 15]


def test_concat_id_repeats_the_last_frame_of_a_short_clip():
    assert ConcatIDFrames(9)(12, 8.0, RNG) == [3, 4, 5, 6, 7, 8, 8, 8, 8]


def test_concat_id_on_wan_spreads_the_clip_over_the_skipped_frames_too():
    """At 42 fps, 5 frames at 14 fps end at 18: the span from frame 3 has 15 frames, or 12 with the skip subtracted."""
    assert ConcatIDFrames(5, 14)(300, 42.0, RNG) == [3, 5, 7, 9, 11]
    assert ConcatIDFrames(5, 14, subtract_skip=False)(300, 42.0, RNG) == [3, 6, 9, 12, 15]


def test_concat_id_on_wan_needs_no_repeated_frames_at_the_clips_own_rate():
    assert ConcatIDFrames(81, 16, subtract_skip=False)(100, 16.0, RNG) == list(range(3, 84))
    assert ConcatIDFrames(81, 16)(100, 16.0, RNG) == [*range(3, 81), 80, 80, 80]


def test_subtracting_the_skip_does_not_matter_for_a_short_video():
    assert ConcatIDFrames(49, 16)(12, 16.0, RNG) == ConcatIDFrames(49, 16, subtract_skip=False)(12, 16.0, RNG)


@pytest.mark.parametrize("num_frames", [0, 3, 6])
def test_concat_id_refuses_a_clip_that_cannot_be_skipped_into(num_frames):
    with pytest.raises(BadSample, match="too short"):
        ConcatIDFrames(9)(num_frames, 8.0, RNG)


@pytest.mark.parametrize("num_frames", [7, 8, 11, 48, 49, 60, 300])
@pytest.mark.parametrize("fps", [6.0, 24.0, 59.94])
def test_concat_id_stays_inside_the_video(num_frames, fps):
    indices = ConcatIDFrames(49)(num_frames, fps, RNG)
    assert len(indices) == 49
    assert min(indices) == 3
    assert max(indices) < num_frames


def test_strided_frames_start_where_told():
    assert StridedFrames(3, stride=4)(12, 8.0, RNG) == [0, 4, 8]
    assert StridedFrames(3, stride=2, start="centre")(11, 8.0, RNG) == [3, 5, 7]
    starts = {StridedFrames(2, start="random")(4, 8.0, RNG)[0] for _ in range(100)}
    assert starts == {0, 1, 2}


def test_strided_frames_repeat_the_last_frame():
    assert StridedFrames(4, stride=3)(5, 8.0, RNG) == [0, 3, 4, 4]


def test_unknown_start_is_refused():
    with pytest.raises(ValueError, match=r"first, centre, random: datamodule\.frames\.start"):
        StridedFrames(3, start="middle")
