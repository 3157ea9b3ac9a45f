"""ConsistI2V against numbers of the original implementation: one test a manifest of `$LIKENESS_GOLDEN/consisti2v`."""

import pytest

from . import checks_data, checks_distribution
from .golden import Case, manifests

KINDS = {**checks_data.CONSISTI2V_KINDS, **checks_distribution.KINDS}


@pytest.mark.parametrize("path", manifests("consisti2v"), ids=lambda path: path.stem)
def test_equals_the_original(path):
    case = Case(path)
    assert case.kind in KINDS, f"{path}: unknown kind {case.kind}"
    KINDS[case.kind](case)
