import pytest
import torch
from diffusers import CogVideoXDDIMScheduler

from likeness.models.diffusion.parameterization import (
    add_noise,
    expand_like,
    latents_from_velocity,
    mean_per_clip,
    noise_from_velocity,
    velocity,
)

SHAPE = (4, 3, 2, 5, 6)
LEVELS = torch.tensor([0.0, 0.3, 0.9, 0.99957], dtype=torch.float64)


@pytest.fixture
def clean_and_noise():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))


def test_velocity_gives_back_latents_and_noise(clean_and_noise):
    latents, noise = clean_and_noise
    noisy, v = add_noise(latents, noise, LEVELS), velocity(latents, noise, LEVELS)
    torch.testing.assert_close(latents_from_velocity(noisy, v, LEVELS), latents)
    torch.testing.assert_close(noise_from_velocity(noisy, v, LEVELS), noise)


def test_noise_and_velocity_equal_the_stock_scheduler(clean_and_noise):
    latents, noise = (value.float() for value in clean_and_noise)
    stock = CogVideoXDDIMScheduler(rescale_betas_zero_snr=True, snr_shift_scale=1.0)
    timesteps = torch.tensor([0, 400, 900, 999])
    levels = stock.alphas_cumprod[timesteps]
    torch.testing.assert_close(add_noise(latents, noise, levels), stock.add_noise(latents, noise, timesteps))
    torch.testing.assert_close(velocity(latents, noise, levels), stock.get_velocity(latents, noise, timesteps))


def test_pure_noise_has_no_signal(clean_and_noise):
    latents, noise = clean_and_noise
    noisy = add_noise(latents, noise, torch.zeros(len(latents)))
    torch.testing.assert_close(noisy, noise)


def test_small_noise_survives_bfloat16_inputs():
    latents, noise = torch.zeros(1, 1, 1, 1, 1, dtype=torch.bfloat16), torch.ones(1, 1, 1, 1, 1, dtype=torch.bfloat16)
    noisy = add_noise(latents, noise, torch.tensor([0.9999]))
    assert noisy.dtype == torch.bfloat16
    assert noisy.item() == pytest.approx(0.01, rel=0.01)


def test_expand_like_broadcasts_over_everything_but_the_batch():
    assert expand_like(torch.arange(4), torch.zeros(SHAPE)).shape == (4, 1, 1, 1, 1)


def test_mean_per_clip_keeps_the_batch():
    values = torch.arange(8.0).reshape(2, 2, 2)
    assert mean_per_clip(values).tolist() == [1.5, 5.5]
