"""SVD Xtend's mathematics, networks and training step against numbers of the original implementation."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel

from likeness.models.autoencoders import TemporalDecoderAutoencoder
from likeness.models.diffusion import edm
from likeness.models.draws import Draws
from likeness.models.image_encoders import CLIPImageEncoder, antialiased_resize, clip_normalised
from likeness.models.lora import LoRA
from likeness.models.svd_xtend import SVDConditioning, SVDXtend

from .golden import Case, fill


class GivenDraws(Draws):
    """Random numbers that a manifest gives, by the name under which the method asks for them."""

    def __init__(self, values: dict[str, torch.Tensor], sequence: list[torch.Tensor]):
        super().__init__([0])
        self.values, self.given = values, sequence

    def normal(self, name, shape):
        return self.uniform(name, shape)

    def uniform(self, name, shape=()):
        value = self.values[name]
        assert value.shape[1:] == tuple(shape), name
        return value

    def sequence(self, *shapes):
        given = self.given[: len(shapes)]
        assert [tuple(value.shape[1:]) for value in given] == [tuple(shape) for shape in shapes]
        return given


def given(case: Case, name: str) -> torch.Tensor:
    """Return an input of the manifest: its values, or what `fill` makes at about unit variance."""
    (entry,) = [entry for entry in case.inputs if entry["name"] == name]
    if "values" in entry:
        return torch.tensor(entry["values"])
    shape = tuple(entry["shape"])
    value = fill(name, shape, case.seed) * np.float32(np.sqrt(np.prod(shape[1:])))
    return torch.from_numpy(np.sin(value) if "sin()" in entry["make"] else value)


def channels_first(frames_first: torch.Tensor) -> torch.Tensor:
    return frames_first.transpose(1, 2)


def unet_of(case: Case, field: str = "state_dict") -> UNetSpatioTemporalConditionModel:
    unet = UNetSpatioTemporalConditionModel(**case.config["unet"])
    unet.load_state_dict(case.weights(field))
    return unet.eval()


def build(case: Case, method: type[SVDXtend] = SVDXtend, denoiser=None, field="state_dict", **settings) -> SVDXtend:
    """The method on the manifest's networks; frozen parts that it does not describe are as small as they get."""
    config, width = case.config, case.config["unet"]["cross_attention_dim"]
    vision = {"hidden_size": 8, "intermediate_size": 8, "projection_dim": width, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 1, "image_size": 224, "patch_size": 112}
    autoencoder = TemporalDecoderAutoencoder(config=config.get("vae", {"block_out_channels": [32]}))
    image_encoder = CLIPImageEncoder(config=config.get("clip_vision", vision))
    if "vae" in config:
        autoencoder.vae.load_state_dict(case.weights("state_dict_vae"), strict=False)
        image_encoder.encoder.load_state_dict(case.weights("state_dict_image_encoder"), strict=False)
    model = method(
        denoiser=unet_of(case, field) if denoiser is None else denoiser,
        autoencoder=autoencoder,
        image_encoder=image_encoder,
        optimizer=partial(torch.optim.AdamW, lr=1e-4),
        **settings,
    )
    return model.eval()


def check_math(case: Case) -> None:
    uniform, columns = torch.from_numpy(case.expected["u"]), case.columns
    for name in case.outputs_named("sigma_"):
        if found := re.fullmatch(r"sigma_\w+?_(m?[\dp]+)_(m?[\dp]+)", name):
            mean, std = (float(value.replace("m", "-").replace("p", ".")) for value in found.groups())
            case.check(edm.lognormal_sigmas(uniform, mean, std), name)
    arguments = case.inputs["legacy_args"]
    cosine = partial(edm.cosine_sigmas, sigma_min=arguments["min_value"], sigma_max=arguments["max_value"])
    assert [arguments[name] for name in ("image_d", "noise_d_low", "noise_d_high", "sigma_data")] == [64, 32, 64, 0.5]
    case.check(torch.cat([cosine(one[None]) for one in uniform]), "sigma_legacy_cosine_single")
    stratified = torch.tensor(case.inputs["stratified4_u"])
    case.check(cosine(stratified), f"sigma_legacy_cosine_stratified{len(stratified)}")
    assert columns["precond"] == ["c_in", "c_skip", "c_out", "c_noise", "loss weight"]
    scalings = edm.edm_scalings(torch.from_numpy(case.expected["sigma_grid"]))
    rows = [scalings.input, scalings.skip, scalings.output, scalings.noise, scalings.weight]
    case.check(torch.stack(rows, dim=1), "precond_cin_cskip_cout_cnoise_weight")
    for name in case.outputs_named("drop_prob"):
        probability = float(re.fullmatch(r"drop_prob(\w+)_embed_latents", name)[1].replace("p", "."))
        bands = edm.dropout_bands(torch.from_numpy(case.expected["drop_p"]), probability)
        case.check(torch.stack(bands, dim=1).float(), name)


def check_scheduler(case: Case) -> None:
    config = case.config
    for name in case.outputs_named("sigmas_"):
        sigmas = edm.karras_sigmas(int(name.removeprefix("sigmas_")), config["sigma_min"], config["sigma_max"])
        case.check(sigmas, name)
        case.check(edm.edm_scalings(sigmas[:-1]).noise, name.replace("sigmas_", "timesteps_"))
        # A prediction that is the state itself: no step changes it.
        initial = edm.euler(lambda latents, sigma: latents, torch.ones(1), sigmas)
        assert float(initial) == pytest.approx(case.scalars["init_noise_sigma"], rel=case.tolerance["rtol"])


def check_clip_preprocess(case: Case) -> None:
    for name, sizes in case.config.items():
        shape, size = tuple(sizes["in"]), tuple(sizes["size"])
        if case.inputs[f"input.image.{name}"].startswith("fill"):
            image = torch.from_numpy(fill(f"input.image.{name}", shape, 0))
        else:
            y, x = (torch.linspace(-1, 1, count) for count in shape[2:])
            y, x = torch.meshgrid(y, x, indexing="ij")
            image = torch.stack([y, x, torch.sin(20 * x * y)])[None]
        resized = antialiased_resize(image, size)
        every = size[0] // case.expected[f"resized_{name}"].shape[-1]
        case.check(resized[..., ::every, ::every], f"resized_{name}")
        case.check(clip_normalised(resized)[..., ::every, ::every], f"normalised_{name}")


def check_unet_loss(case: Case) -> None:
    sigmas = given(case, "sigmas")
    latents, noise = (channels_first(given(case, f"input.{name}")) for name in ("latents", "noise"))
    image_latents = given(case, "input.cond_latents")[:, :, None]
    conditioning = SVDConditioning(given(case, "input.image_embeds"), image_latents, given(case, "added_time_ids"))
    inputs = []
    for loss_form in ("v", "x0"):
        model = build(case, loss_form=loss_form)
        model.denoiser.register_forward_pre_hook(
            lambda module, args, kwargs: inputs.append(kwargs["sample"]), with_kwargs=True
        )
        losses = model.loss(latents, conditioning, noise, sigmas)
        case.check(losses, "loss_per_sample")
        case.check_scalar(losses.mean(), "loss")
    case.check(inputs[0], "unet_input")
    noisy_latents = edm.add_noise_at(latents, noise, sigmas)
    output = model.predict(noisy_latents, sigmas, conditioning)
    case.check(channels_first(output), "model_pred")
    case.check(channels_first(edm.latents_from_output(noisy_latents, output, sigmas)), "denoised")
    case.check(channels_first(edm.velocity_at(latents, noise, sigmas)), "v_target")


def check_train_step(case: Case) -> None:
    frames = given(case, "input.pixels")
    batch_size, num_frames = frames.shape[:2]
    pixels, ids = channels_first(frames), torch.tensor(case.scalars["corrected_added_time_ids"])
    posterior = channels_first(given(case, "input.eps_latents").unflatten(0, (batch_size, num_frames)))
    values = {
        "posterior": posterior,
        "image_posterior": given(case, "input.eps_cond")[:, :, None],
        "sigmas": given(case, "u_sigma"),
        "image_noise_strength": given(case, "u_cond_sigma"),
        "dropout": given(case, "dropout_p"),
    }
    draws = GivenDraws(values, [given(case, "input.noise_cond")[:, 0], given(case, "input.noise")])
    batch = {
        "pixel_values": pixels,
        "image_pixel_values": pixels[:, :, :1],
        "fps": ids[:, 0] + 1,
        "motion_bucket_id": ids[:, 1],
    }
    for name, compat in (("repo", "original"), ("corrected", "corrected")):
        settings = {"conditioning_dropout": case.config["conditioning_dropout_prob"], "compat": compat}
        model = build(case, field="state_dict_unet", **settings)
        with torch.no_grad():
            check_variant(case, name, model, batch, draws)


def check_variant(case: Case, name: str, model: SVDXtend, batch: dict, draws: Draws) -> None:
    latents = model.encode(batch, draws)
    case.check(channels_first(latents), "latents")
    image_embeds = model.image_encoder(batch["image_pixel_values"][:, :, 0])
    case.check(image_embeds, "image_embeds_before_dropout")
    conditioning = model.condition(batch, draws, augment=True)
    case.check_scalar(conditioning.time_ids, f"{name}_added_time_ids")
    case.check(conditioning.image_latents[:, :, 0], f"{name}_cond_latents_after_dropout")
    dropped = conditioning.image_embeds.abs().sum(dim=(1, 2)) == 0
    assert dropped.tolist() == case.scalars["drop_embed"]
    assert (conditioning.image_latents.abs().sum(dim=(1, 2, 3, 4)) == 0).tolist() == case.scalars["drop_latents"]
    sigmas, noise = model.draw_timesteps(draws), model.draw_noise(draws, latents.shape[1:])
    case.check_scalar(sigmas, "sigmas")
    noisy_latents = edm.add_noise_at(latents, noise, sigmas)
    case.check(channels_first(noisy_latents), "noisy_latents")
    case.check(channels_first(model.predict(noisy_latents, sigmas, conditioning)), f"{name}_model_pred")
    losses = model.step_losses(batch, draws)
    case.check_scalar(losses, f"{name}_loss_per_sample")
    case.check_scalar(losses.mean(), f"{name}_loss")


def check_lora(case: Case) -> None:
    settings, unet = case.config["lora"], unet_of(case)
    inputs = {
        "sample": given(case, "input.sample"),
        "timestep": given(case, "timestep"),
        "encoder_hidden_states": given(case, "input.image_embeds"),
        "added_time_ids": given(case, "added_time_ids"),
    }
    with torch.no_grad():
        case.check(unet(**inputs).sample, "out_base")
    lora = LoRA(
        targets=settings["target_modules"], rank=settings["r"], alpha=settings["lora_alpha"], init=settings["init"]
    )
    adapters = lora.apply(unet)
    assert [[name, list(value.shape)] for name, value in adapters.items()] == case.lora_param_names
    assert len(adapters) == case.scalars["trainable_tensors"]
    assert sum(value.numel() for value in adapters.values()) == case.scalars["trainable_params"]
    with torch.no_grad():
        case.check(unet(**inputs).sample, "out_base")
        for key, shape in case.lora_file_keys:
            adapters[adapter_name(key)].copy_(torch.from_numpy(fill(key, tuple(shape), case.seed)))
        case.check(unet(**inputs).sample, "out_lora")


def adapter_name(key: str) -> str:
    """Return peft's name of a tensor of the file: `unet.LAYER.lora.down.weight` is `LAYER.lora_A.default.weight`."""
    layer, side = re.fullmatch(r"unet\.(.+)\.lora\.(down|up)\.weight", key).groups()
    return f"{layer}.lora_{'A' if side == 'down' else 'B'}.default.weight"


SVD_MODEL_KINDS = {
    "math": check_math,
    "scheduler": check_scheduler,
    "clip_preprocess": check_clip_preprocess,
    "unet_loss": check_unet_loss,
    "train_step": check_train_step,
    "lora": check_lora,
}
