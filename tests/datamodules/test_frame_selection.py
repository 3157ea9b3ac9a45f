import numpy as np
import pytest

from likeness.datamodules.frame_selection import ConsisIDFrames, ConsistI2VFrames, repeat_to, segments
from likeness.datamodules.samples import BadSample


def info_of(num_frames, *people, fps=30.0):
    """The json member of a clip; each of `people` is the frames in which its face and its head are valid."""
    identities = [{"valid_frames": {"face": list(face), "head": list(head)}} for face, head in people]
    return {"num_frames": num_frames, "fps": fps, "identities": identities}


def draws(select, info, num_frames, count=40):
    rng = np.random.default_rng(0)
    return [select(info, num_frames, rng) for _ in range(count)]


def test_clips_lie_in_the_longest_part_in_which_the_person_is_seen():
    info = info_of(300, (range(100), range(90, 100)), (range(0), range(300)), (range(150, 290), range(150, 290)))
    select = ConsisIDFrames(stride=2, skip_start=5, skip_end=10)
    chosen = draws(select, info, 9)
    assert {one.labels["identity"] for one in chosen} == {0, 2}  # nobody has seen the face of person 1
    for one in chosen:
        low, high = (5, 89) if one.labels["identity"] == 0 else (155, 279)
        assert one.indices == list(range(one.indices[0], one.indices[0] + 18, 2))
        assert low <= one.indices[0]
        assert one.indices[-1] <= high
    assert len({one.indices[0] for one in chosen}) > 10


def test_gaps_up_to_the_tolerance_are_bridged_and_larger_ones_split():
    assert segments([0, 6, 12, 19], 6) == [[0, 6, 12], [19]]
    info = info_of(40, ([*range(10), *range(17, 40)], [0]))
    select = ConsisIDFrames(stride=1, skip_start=0, skip_end=0)
    assert min(index for one in draws(select, info, 5) for index in one.indices) >= 17


def test_a_clip_ends_at_a_frame_that_is_not_valid_and_repeats_itself():
    info = info_of(40, ([0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12], [0]))
    select = ConsisIDFrames(stride=3, skip_start=0, skip_end=5)
    for one in draws(select, info, 4):
        start = one.indices[0]
        expected = [frame for frame in range(start, start + 12, 3) if 6 not in range(start, frame + 1, 3)]
        assert one.indices == repeat_to([frame for frame in expected if frame <= 12], 4)
    assert any(len(set(one.indices)) < 4 for one in draws(select, info, 4))


def test_a_short_part_is_taken_whole_and_repeated():
    chosen = ConsisIDFrames()(info_of(50, ([3, 4, 6, 9], [3])), 7, np.random.default_rng(0))
    assert chosen.indices == [3, 3, 4, 4, 6, 6, 9]


def test_shares_take_the_place_of_skipped_frames():
    select = ConsisIDFrames(stride=1, skip_start=7, skip_end=7, skip_percent=(0.5, 0.75))
    starts = {one.indices[0] for one in draws(select, info_of(100, (range(100), range(100))), 5, 200)}
    assert (min(starts), max(starts)) == (50, 70)


def test_clips_without_a_usable_person_are_skipped():
    rng = np.random.default_rng(0)
    with pytest.raises(BadSample, match="no face"):
        ConsisIDFrames()(info_of(100, (range(100), [])), 9, rng)
    with pytest.raises(BadSample, match="several people"):
        ConsisIDFrames(one_person=True)(info_of(100, (range(100), range(100)), ([], [])), 9, rng)
    with pytest.raises(BadSample, match="too short"):
        ConsisIDFrames(skip_start=20, skip_end=20)(info_of(30, (range(30), range(30))), 9, rng)


def test_without_valid_frames_the_whole_video_counts():
    chosen = ConsisIDFrames(skip_start=0, skip_end=0, stride=2)(
        {"num_frames": 17, "fps": 8.0}, 9, np.random.default_rng(0)
    )
    assert chosen.indices == list(range(0, 17, 2))


def test_lengths_that_fit_need_no_repeated_frame():
    available, fps = np.array([40, 38, 39, 9]), np.full(4, 30.0)
    select = ConsisIDFrames(stride=3, skip_start=7, skip_end=7)
    assert select.fits(available, fps, 9).tolist() == [True, False, True, False]
    for length, fits in zip([39, 38], [True, False], strict=True):
        unique = {len(set(one.indices)) for one in draws(select, {"num_frames": length, "fps": 30.0}, 9)}
        assert (unique == {9}) or not fits
    assert ConsistI2VFrames(stride=[2, 5]).fits(np.array([31, 30]), fps[:2], 16).tolist() == [True, False]
    duration = ConsistI2VFrames(stride=None, duration_s=2, sample_fps=8)
    assert duration.fits(np.array([60, 59]), fps[:2], 16).tolist() == [True, False]


def test_a_drawn_stride_is_told_even_where_the_video_is_too_short():
    chosen = draws(ConsistI2VFrames(stride=[1, 5]), {"num_frames": 20, "fps": 25.0}, 16, 100)
    assert {one.labels["stride"] for one in chosen} == {1, 2, 3, 4, 5}
    for one in chosen:
        if one.labels["stride"] == 1:
            assert np.diff(one.indices).tolist() == [1] * 15
        else:
            assert (one.indices[0], one.indices[-1]) == (0, 19)
    starts = {one.indices[0] for one in chosen if one.labels["stride"] == 1}
    assert starts == {0, 1, 2, 3, 4}


def test_a_duration_spreads_the_clip_over_seconds():
    select = ConsistI2VFrames(stride=None, duration_s=2, sample_fps=8)
    for fps, span in ((24.0, 48), (29.97, 60)):
        one = select({"num_frames": 600, "fps": fps}, 16, np.random.default_rng(0))
        assert one.indices[-1] - one.indices[0] == span - 1
        assert len(one.indices) == 16
        assert one.labels == {}
    with pytest.raises(ValueError, match="is 16 frames, num_frames=8"):
        select({"num_frames": 600, "fps": 24.0}, 8, np.random.default_rng(0))


@pytest.mark.parametrize(
    "settings", [{"stride": 3, "duration_s": 2, "sample_fps": 8}, {"stride": None}, {"stride": None, "duration_s": 2}]
)
def test_stride_and_duration_exclude_each_other(settings):
    with pytest.raises(ValueError, match="give either stride"):
        ConsistI2VFrames(**settings)


@pytest.mark.parametrize("settings", [{"stride": 0}, {"stride": [3, 2]}])
def test_a_stride_is_at_least_one(settings):
    with pytest.raises(ValueError, match="stride"):
        ConsistI2VFrames(**settings)


@pytest.mark.parametrize("settings", [{"stride": 0}, {"skip_start": -1}, {"skip_percent": (0.8, 0.2)}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"datamodule\.frames"):
        ConsisIDFrames(**settings)
