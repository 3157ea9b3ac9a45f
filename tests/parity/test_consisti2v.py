"""ConsistI2V against numbers of the original implementation: one test a manifest of `$LIKENESS_GOLDEN/consisti2v`."""

import pytest

from likeness.datamodules.frame_selection import ConsistI2VFrames, stretch

from . import checks_distribution
from .golden import Case, manifests
from .test_consisid import Given


def check_frame_sampling(case: Case) -> None:
    for row in case.rows:
        available, count, stride = row["video_length"], row["n_frames"], row["stride"]
        assert stretch(available, count, stride) == row["clip_length"]
        select = ConsistI2VFrames(stride=[1, max(stride, 5)])
        chosen = select({"num_frames": available, "fps": 25.0}, count, Given(stride, row["start_idx"]))
        assert chosen.indices == row["indices"]
        assert chosen.labels == {"stride": stride}


KINDS = {"frame_sampling": check_frame_sampling, **checks_distribution.KINDS}


@pytest.mark.parametrize("path", manifests("consisti2v"), ids=lambda path: path.stem)
def test_equals_the_original(path):
    case = Case(path)
    assert case.kind in KINDS, f"{path}: unknown kind {case.kind}"
    KINDS[case.kind](case)
