import sys

import pytest

from likeness.evaluation.models import code_of
from likeness.metrics.flow import FarnebackFlow
from likeness.metrics.frechet import FrechetVideoDistance
from likeness.metrics.motion import Flicker, Motion
from likeness.metrics.protocols import Protocol

METRICS = {
    "motion": lambda: Motion(flow=FarnebackFlow()),
    "flicker": Flicker,
    "fvd": lambda: FrechetVideoDistance(protocol=Protocol(name="own")),
}


@pytest.mark.parametrize(
    ("module", "changed"),
    [("flow", ["motion", "flicker"]), ("protocols", ["fvd"]), ("video_features", ["fvd"]), ("states", list(METRICS))],
)
def test_a_change_of_the_code_that_a_value_comes_from_is_seen(module, changed, tmp_path, monkeypatch):
    before = {name: code_of(make()) for name, make in METRICS.items()}
    assert {name: code_of(make()) for name, make in METRICS.items()} == before
    (tmp_path / "edited.py").write_text("x = 1")
    monkeypatch.setattr(sys.modules[f"likeness.metrics.{module}"], "__file__", str(tmp_path / "edited.py"))
    assert [name for name, make in METRICS.items() if code_of(make()) != before[name]] == changed
