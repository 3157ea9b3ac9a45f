import pytest
import torch

from likeness.models.autoencoders import CogVideoXAutoencoder, WanAutoencoder
from likeness.toy.backbone import ToyAutoencoder

TINY = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [16, 16, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}

WAN = {
    "base_dim": 8,
    "z_dim": 4,
    "num_res_blocks": 1,
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.5, 0.5, 2.0, 1.0],
}


@pytest.fixture(scope="module")
def wan():
    return WanAutoencoder(config=WAN)


@pytest.fixture(scope="module")
def tiny():
    return CogVideoXAutoencoder(config=TINY)


def test_cogvideox_shapes_and_strides(tiny):
    assert tiny.latent_shape(9, 32, 48) == (4, 3, 4, 6)
    latents = tiny.encode(torch.zeros(1, 3, 9, 32, 48), torch.zeros(1, 4, 3, 4, 6))
    assert latents.shape == (1, 4, 3, 4, 6)
    assert tiny.decode(latents).shape == (1, 3, 9, 32, 48)


@pytest.mark.parametrize("num_frames", [1, 5, 9, 13, 17])
def test_decoding_gives_as_many_frames_as_were_encoded(tiny, num_frames):
    shape = tiny.latent_shape(num_frames, 16, 16)
    assert tiny.decode(torch.zeros(1, *shape)).shape == (1, 3, num_frames, 16, 16)


def test_random_weights_depend_on_the_seed_alone(tiny):
    torch.manual_seed(123)
    again, other = CogVideoXAutoencoder(config=TINY), CogVideoXAutoencoder(config=TINY, seed=1)
    weight = "vae.encoder.conv_in.conv.weight"
    assert torch.equal(again.state_dict()[weight], tiny.state_dict()[weight])
    assert not torch.equal(other.state_dict()[weight], tiny.state_dict()[weight])


def test_noise_moves_the_latents_by_the_posterior_std(tiny):
    pixels, shape = torch.rand(1, 3, 1, 16, 16), (1, 4, 1, 2, 2)
    mean = tiny.encode(pixels, torch.zeros(shape))
    posterior = tiny.vae.encode(pixels).latent_dist
    moved = tiny.encode(pixels, torch.ones(shape))
    torch.testing.assert_close(moved - mean, posterior.std * tiny.scaling_factor)


@pytest.mark.parametrize(("num_frames", "allowed"), [(48, "45 or 49"), (2, "1 or 5")])
def test_wrong_number_of_frames_names_the_setting_and_what_fits(tiny, num_frames, allowed):
    with pytest.raises(
        ValueError, match=rf"num_frames={num_frames}.*temporal stride 4.*{allowed}.*datamodule\.num_frames"
    ):
        tiny.latent_shape(num_frames, 32, 32)


def test_wrong_size_names_the_setting(tiny):
    with pytest.raises(ValueError, match=r"width=100 .* spatial stride 8: datamodule\.width"):
        tiny.latent_shape(5, 32, 100)


def test_missing_and_double_sources_are_refused():
    for source in ({}, {"pretrained": "somewhere", "config": TINY}):
        with pytest.raises(ValueError, match="either `pretrained`"):
            CogVideoXAutoencoder(**source)


def test_misspelt_setting_of_a_library_class_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"latent_chanels is not a setting .* did you mean latent_channels\?"):
        CogVideoXAutoencoder(config={"latent_chanels": 4})


def test_toy_autoencoder_keeps_what_its_16_coefficients_can_say():
    autoencoder = ToyAutoencoder()
    ramp = torch.linspace(-0.8, 0.8, 32).expand(1, 3, 2, 32, 32)
    latents = autoencoder.encode(ramp, torch.zeros(1))
    assert latents.shape == (1, *autoencoder.latent_shape(2, 32, 32))
    torch.testing.assert_close(autoencoder.decode(latents), ramp, atol=5e-3, rtol=0)


def test_toy_autoencoder_is_linear_and_exact_on_flat_colours():
    autoencoder = ToyAutoencoder(scaling_factor=0.7)
    colours = torch.tensor([0.2, -0.5, 0.9]).reshape(1, 3, 1, 1, 1).expand(1, 3, 1, 8, 8)
    torch.testing.assert_close(
        autoencoder.decode(autoencoder.encode(colours, torch.zeros(1))), colours, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("num_frames", [1, 5, 9])
def test_wan_shapes_and_strides(wan, num_frames):
    shape = wan.latent_shape(num_frames, 32, 48)
    assert shape == (4, (num_frames - 1) // 4 + 1, 4, 6)
    latents = wan.encode(torch.zeros(1, 3, num_frames, 32, 48), torch.zeros(1))
    assert latents.shape == (1, *shape)
    assert wan.decode(latents).shape == (1, 3, num_frames, 32, 48)


def test_wan_latents_are_the_posteriors_mean_normalised_by_channel(wan):
    pixels = torch.rand(2, 3, 5, 16, 16) * 2 - 1
    latents = wan.encode(pixels, torch.ones(2, 4, 2, 2, 2))
    assert torch.equal(latents, wan.encode(pixels, torch.zeros(2, 4, 2, 2, 2)))
    mean, std = (torch.tensor(WAN[name]).reshape(1, 4, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    torch.testing.assert_close(latents * std + mean, wan.vae.encode(pixels).latent_dist.mean)


def test_wan_decoding_undoes_the_normalisation(wan):
    latents = torch.randn(1, 4, 2, 2, 2)
    mean, std = (torch.tensor(WAN[name]).reshape(1, 4, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    decoded = wan.decode((latents - mean) / std)
    torch.testing.assert_close(decoded, wan.vae.decode(latents).sample, atol=1e-5, rtol=0)
    assert decoded.abs().max() <= 1


def test_wan_statistics_must_cover_every_channel():
    with pytest.raises(ValueError, match="latents_mean has 16 values, z_dim=4 needs one a channel"):
        WanAutoencoder(config={"base_dim": 8, "z_dim": 4, "num_res_blocks": 1})
