import pytest
import torch
from diffusers import CogVideoXDDIMScheduler

from likeness.models.diffusion.schedules import (
    rescale_zero_terminal_snr,
    scaled_linear_alphas_cumprod,
    shift_snr,
    stratified_timesteps,
)


@pytest.mark.parametrize("snr_shift_scale", [1.0, 3.0])
def test_schedule_equals_the_stock_scheduler(snr_shift_scale):
    stock = CogVideoXDDIMScheduler(
        beta_start=0.00085, beta_end=0.012, snr_shift_scale=snr_shift_scale, rescale_betas_zero_snr=True
    )
    ours = rescale_zero_terminal_snr(shift_snr(scaled_linear_alphas_cumprod(), snr_shift_scale))
    torch.testing.assert_close(ours.sqrt(), stock.alphas_cumprod.double().sqrt(), atol=2e-7, rtol=0)


def test_rescaled_schedule_ends_in_pure_noise_and_keeps_its_start():
    before = scaled_linear_alphas_cumprod()
    after = rescale_zero_terminal_snr(before)
    assert after[-1] == 0
    torch.testing.assert_close(after[0], before[0])
    assert (after.diff() < 0).all()


def test_snr_shift_divides_the_signal_to_noise_ratio():
    before = scaled_linear_alphas_cumprod()
    after = shift_snr(before, 3.0)
    torch.testing.assert_close(after / (1 - after), before / (1 - before) / 3)


@pytest.mark.parametrize(("rank", "low", "high"), [(0, 0, 124), (3, 375, 499), (7, 875, 999)])
def test_each_of_eight_ranks_draws_from_its_own_eighth(rank, low, high):
    drawn = stratified_timesteps(torch.rand(5000), 1000, rank, world_size=8)
    assert (int(drawn.min()), int(drawn.max())) == (low, high)


def test_one_process_draws_from_the_whole_range_evenly():
    drawn = stratified_timesteps(torch.linspace(0, 1, 1001)[:-1] + 5e-4, 1000, 0, world_size=1)
    assert sorted(drawn.tolist()) == list(range(1000))


def test_ranks_that_do_not_divide_the_range_share_intervals():
    # 3 does not divide 1000, so all three ranks form one group.
    drawn = stratified_timesteps(torch.rand(5000), 1000, 2, world_size=3)
    assert drawn.min() < 100
    assert drawn.max() > 900


def test_largest_uniform_number_stays_in_range():
    assert int(stratified_timesteps(torch.tensor([1 - 2**-24]), 1000, 7, 8)) == 999
