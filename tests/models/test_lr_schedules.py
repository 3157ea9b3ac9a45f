import pytest
import torch

from likeness.models.lr_schedules import warmup_linear_factor, warmup_linear_schedule


@pytest.mark.parametrize(
    ("update", "factor"), [(0, 0.01), (25, 0.505), (50, 1.0), (525, 0.5), (1000, 0.0), (1001, 0.0)]
)
def test_rises_over_five_percent_and_falls_to_zero(update, factor):
    assert warmup_linear_factor(update, 1000, 1000, 0.05, 0.01) == pytest.approx(factor)


def test_warm_up_never_takes_more_than_its_limit():
    assert warmup_linear_factor(999, 100_000, 1000, 0.05, 0.01) < 1
    assert warmup_linear_factor(1000, 100_000, 1000, 0.05, 0.01) == 1


def test_a_run_too_short_for_a_warm_up_starts_at_the_base_rate():
    assert warmup_linear_factor(0, 10, 1000, 0.05, 0.01) == 1


def test_optimizer_starts_at_the_share_and_follows():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-5)
    schedule = warmup_linear_schedule(optimizer, num_training_steps=40)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([1e-7, 1e-7 + 0.99e-5 / 2, 1e-5])
    assert rates[-1] == pytest.approx(1e-5 / 38)
    assert optimizer.param_groups[0]["lr"] == 0
