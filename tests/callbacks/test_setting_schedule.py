from types import SimpleNamespace

import pytest

from likeness.callbacks.setting_schedule import SettingSchedule


def settings_at(schedule: SettingSchedule, steps: list[int]) -> list:
    method, found = SimpleNamespace(sigmas=(0, 1)), []
    for step in steps:
        schedule.on_train_batch_start(SimpleNamespace(global_step=step), method, None, 0)
        found.append(method.sigmas)
    return found


def test_values_hold_from_their_step_on():
    schedule = SettingSchedule(setting="sigmas", steps=[2, 4], values=["early", "late"])
    assert settings_at(schedule, [0, 1, 2, 3, 4, 5]) == [(0, 1), (0, 1), "early", "early", "late", "late"]


def test_a_resumed_run_has_the_value_of_its_step():
    assert settings_at(SettingSchedule(setting="sigmas", steps=[0, 3], values=["early", "late"]), [7]) == ["late"]


def test_a_setting_that_the_method_lacks_is_refused():
    schedule = SettingSchedule(setting="sigma", steps=[0], values=[1])
    with pytest.raises(ValueError, match="has no setting sigma "):
        schedule.on_fit_start(None, SimpleNamespace(sigmas=1))


@pytest.mark.parametrize("steps", [[], [0], [-1, 2], [3, 1], [2, 2]])
def test_steps_that_are_none_of_a_schedule_are_refused(steps):
    with pytest.raises(ValueError, match="must rise from 0"):
        SettingSchedule(setting="sigmas", steps=steps, values=["early", "late"])
