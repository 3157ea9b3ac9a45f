"""Celeb Basis against numbers of the original implementation: one test a manifest of `$LIKENESS_GOLDEN/celeb_basis`."""

import pytest

from . import checks_data, checks_identity
from .golden import Case, manifests

KINDS = {**checks_data.CELEB_BASIS_KINDS, **checks_identity.CELEB_BASIS_KINDS}


@pytest.mark.parametrize("path", manifests("celeb_basis"), ids=lambda path: path.stem)
def test_equals_the_original(path):
    case = Case(path)
    assert case.kind in KINDS, f"{path}: unknown kind {case.kind}"
    KINDS[case.kind](case)
