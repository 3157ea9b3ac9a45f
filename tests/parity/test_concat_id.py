"""Concat-ID against numbers of the original implementation: one test a manifest of `$LIKENESS_GOLDEN/concat_id`."""

import math

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

from likeness.callbacks.ema import ema_decay
from likeness.checkpoints.sat import transformer_from_sat, transformer_to_sat, vae_from_sat
from likeness.datamodules.frames import ConcatIDFrames
from likeness.datamodules.images import cover_and_crop, fit_and_pad
from likeness.datamodules.samples import BadSample
from likeness.models.autoencoders import CogVideoXAutoencoder
from likeness.models.concat_id import ConcatID, ConcatIDConditioning
from likeness.models.diffusion.samplers import sde_dpm_solver_pp_2m_coefficients, sde_schedule
from likeness.models.diffusion.schedules import rescale_zero_terminal_snr, scaled_linear_alphas_cumprod, shift_snr
from likeness.models.draws import Draws
from likeness.models.lr_schedules import sat_factor
from likeness.models.text_encoders import TextEncoder

from .golden import Case, fill, manifests


class GivenEmbeddings(TextEncoder):
    def __init__(self, embeds: torch.Tensor):
        super().__init__()
        self.embeds, self.embed_dim, self.max_length = embeds, embeds.shape[-1], embeds.shape[-2]

    def forward(self, prompts):
        return self.embeds


class GivenDraws(Draws):
    """Random numbers that a manifest gives, by the name under which the method asks for them."""

    def __init__(self, values: dict[str, torch.Tensor]):
        super().__init__([0])
        self.values = values

    def normal(self, name, shape):
        return self.uniform(name, shape)

    def uniform(self, name, shape=()):
        value = self.values[name]
        assert value.shape[1:] == tuple(shape), name
        return value


def build(
    config: dict, state_dict: dict, embeds: torch.Tensor, vae: dict | None = None, vae_weights: dict | None = None
) -> ConcatID:
    denoiser = CogVideoXTransformer3DModel(
        num_attention_heads=config["num_attention_heads"],
        attention_head_dim=config["hidden_size"] // config["num_attention_heads"],
        in_channels=config["in_channels"],
        out_channels=config["in_channels"],
        time_embed_dim=config["time_embed_dim"],
        text_embed_dim=config["text_hidden_size"],
        num_layers=config["num_layers"],
        max_text_seq_length=config["text_length"],
        use_rotary_positional_embeddings=True,
    )
    denoiser.load_state_dict(transformer_from_sat(state_dict))
    autoencoder = CogVideoXAutoencoder(
        config=vae_config(
            vae or {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "z_channels": config["in_channels"]}
        )
    )
    if vae_weights is not None:
        autoencoder.vae.load_state_dict(vae_from_sat(vae_weights))
    return ConcatID(
        denoiser=denoiser, autoencoder=autoencoder, text_encoder=GivenEmbeddings(embeds), optimizer=torch.optim.AdamW
    )


def vae_config(config: dict) -> dict:
    return {
        "block_out_channels": [config["ch"] * factor for factor in config["ch_mult"]],
        "down_block_types": ["CogVideoXDownBlock3D"] * len(config["ch_mult"]),
        "up_block_types": ["CogVideoXUpBlock3D"] * len(config["ch_mult"]),
        "layers_per_block": config["num_res_blocks"],
        "latent_channels": config["z_channels"],
        "scaling_factor": 0.7,
    }


def channels_first(frames_first: torch.Tensor) -> torch.Tensor:
    """b f c h w, as the original has it, to b c f h w."""
    return frames_first.transpose(1, 2)


@torch.no_grad()
def check_forward(case: Case) -> None:
    model = build(case.config, case.weights(), case.input("text"))
    noisy, references, timesteps = (
        channels_first(case.input("noisy_latents")),
        channels_first(case.input("ref_latents")),
        torch.tensor(case.timesteps),
    )
    given = ConcatIDConditioning(case.input("text"), references)
    dropped = ConcatIDConditioning(torch.zeros_like(given.prompt_embeds), torch.zeros_like(references))
    case.check(channels_first(model.predict(noisy, timesteps, given)), "v")
    case.check(channels_first(model.predict(noisy, timesteps, dropped)), "v_all_dropped")
    cos, sin = model.placement.positions(model.denoiser, torch.cat([noisy, references], dim=2))
    case.check(cos, "rope_cos")
    case.check(sin, "rope_sin")


def check_loss(case: Case) -> None:
    model = build(case.config, case.weights(), case.input("text"))
    conditioning = ConcatIDConditioning(case.input("text"), channels_first(case.input("ref_latents")))
    losses = model.loss(
        channels_first(case.input("latents")),
        conditioning,
        channels_first(case.input("noise")),
        torch.tensor(case.timestep_indices),
    )
    case.check(losses, "per_sample")
    losses.mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.denoiser.named_parameters()}
    case.check(gradients["patch_embed.proj.weight"], "grad_patch_embed_proj_weight")
    case.check(gradients["patch_embed.text_proj.bias"], "grad_text_proj_bias")
    norms = {name: value.norm().item() for name, value in transformer_to_sat(gradients).items()}
    for name, expected in case.scalars["grad_l2_norm_by_reference_name"].items():
        assert math.isclose(norms[name], expected, rel_tol=case.tolerance["rtol"], abs_tol=case.tolerance["atol"]), name


def check_training_step(case: Case) -> None:
    frames, refs = case.input("video"), case.input("refs")
    model = build(
        case.config["transformer"],
        case.weights(),
        case.input("text"),
        case.config["vae"],
        case.weights("vae_state_dict"),
    )
    model.autoencoder.scaling_factor = case.config["scale_factor"]
    num_references, (mean, std) = refs.shape[1], model.reference_noise
    batch_size = len(frames)
    keep = torch.tensor([0.0 if i in case.text_dropped_samples else 0.5 for i in range(batch_size)])
    values = {
        "posterior": case.input("vae_noise_video"),
        "noise": channels_first(case.input("noise")),
        "timesteps": (torch.tensor(case.timestep_indices) + 0.5) / 1000,
        "prompt_dropout": keep,
        "reference_dropout": torch.full((batch_size,), 0.5),
        "reference_noise": torch.cat([case.input(f"pixel_noise_{k}") for k in range(num_references)], dim=2),
        "reference_noise_strength": (torch.tensor(case.log_sigma_of_pixel_noise).T - mean) / std,
    } | {f"reference_posterior_{k}": case.input(f"vae_noise_ref_{k}") for k in range(num_references)}
    batch = {
        "pixel_values": channels_first(frames),
        "reference_pixel_values": channels_first(refs),
        "caption": [""] * batch_size,
    }
    conditioning = model.condition(batch, GivenDraws(values), augment=True)
    case.check(channels_first(conditioning.reference_latents), "ref_latents")
    case.check(model.step_losses(batch, GivenDraws(values)).mean(), "loss")
    values["reference_dropout"] = torch.zeros(batch_size)
    case.check(model.step_losses(batch, GivenDraws(values)).mean(), "loss_ref_dropped")


def check_sampler(case: Case, model: ConcatID) -> None:
    noise = channels_first(case.input("initial_noise"))
    conditioning = ConcatIDConditioning(case.input("text"), channels_first(case.input("ref_latents")))
    draws = GivenDraws(
        {f"sde_noise_{i}": channels_first(case.input(f"sde_noise_{i}")) for i in range(case.num_steps - 1)}
    )
    told, predict = [], model.predict

    def listening(noisy_latents, timesteps, conditioning):
        told.append(float(timesteps[0]))
        return predict(noisy_latents, timesteps, conditioning)

    def check_step(step, state, clean):
        if step in case.manifest.get("steps_kept", range(case.num_steps)):
            case.check(channels_first(state), f"x_after_step_{step}")
            case.check(channels_first(clean), f"guided_x0_step_{step}")

    model.predict = listening
    model.sample(
        conditioning,
        noise,
        draws,
        num_inference_steps=case.num_steps,
        guidance_scale=case.guidance_scale,
        on_step=check_step,
    )
    assert told == case.network_timesteps


def check_sampler_transformer(case: Case) -> None:
    check_sampler(case, build(case.config, case.weights(), case.input("text")))


def check_sampler_linear(case: Case) -> None:
    config = {
        "num_attention_heads": 1,
        "hidden_size": 16,
        "in_channels": 2,
        "time_embed_dim": 4,
        "text_hidden_size": case.input("text").shape[-1],
        "num_layers": 1,
        "text_length": case.input("text").shape[-2],
    }
    stock = CogVideoXTransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=16,
        in_channels=2,
        out_channels=2,
        time_embed_dim=4,
        text_embed_dim=config["text_hidden_size"],
        num_layers=1,
        use_rotary_positional_embeddings=True,
    )
    model = build(config, transformer_to_sat(stock.state_dict()), case.input("text"))

    def linear(noisy_latents, timesteps, conditioning):
        text = conditioning.prompt_embeds.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
        references = conditioning.reference_latents.mean(dim=2, keepdim=True)
        return 0.3 * noisy_latents + 0.5 * text + 0.2 * references + 0.001 * timesteps.reshape(-1, 1, 1, 1, 1)

    model.predict = linear
    check_sampler(case, model)


def check_tables(case: Case) -> None:
    config = case.config
    unrescaled = shift_snr(
        scaled_linear_alphas_cumprod(config["num_timesteps"], config["linear_start"], config["linear_end"]),
        config["shift_scale"],
    )
    table = rescale_zero_terminal_snr(unrescaled)
    case.check(table.sqrt(), "sqrt_alpha_bar_1000")
    for num_steps in sorted(int(name[1:].split("_")[0]) for name in case.expected if name.endswith("_coeff")):
        schedule = sde_schedule(unrescaled, table, num_steps)
        case.check(schedule.timesteps, f"n{num_steps}_timestep", rtol=0, atol=0)
        case.check(schedule.signal[:-1], f"n{num_steps}_sqrt_alpha_bar")
        case.check(schedule.table_index, f"n{num_steps}_quantised_index", rtol=0, atol=0)
        rows = [sde_dpm_solver_pp_2m_coefficients(schedule.signal, step) for step in range(num_steps - 1)]
        case.check([[row.state, row.data, row.new, row.old, row.noise] for row in rows], f"n{num_steps}_coeff")
    updates, finetune = range(1, config["train_iters"] + 1), config["mode"] == "finetune"
    rates = [config["lr"] * sat_factor(update, config["train_iters"], config["warmup"], finetune) for update in updates]
    case.check(rates, "lr_of_update_1_to_1000", rtol=case.tolerance["rtol"], atol=0)
    case.check([ema_decay(update, 0.9999) for update in updates], "ema_decay_of_update_1_to_1000")


def check_preprocess(case: Case) -> None:
    height, width = case.target
    tolerance = {"rtol": case.tolerance["rtol"], "atol": case.tolerance["atol"]}
    for number, entry in enumerate(case.inputs):
        image = as_bytes(entry["image"], entry["image_shape"], case.seed)
        case.check(fit_and_pad(image, height, width), f"ref_{number}", **tolerance)
        video = as_bytes(entry["video"], entry["video_shape"], case.seed)
        pixels = (cover_and_crop(video, height, width).float() - 127.5) / 127.5
        case.check(pixels.transpose(0, 1), f"video_{number}", rtol=0, atol=case.tolerance["atol_video"])
    for entry in case.frame_selection:
        select, rng = ConcatIDFrames(entry["fps"], entry["skip"]), np.random.default_rng(0)
        info = {"num_frames": entry["video_frames"], "fps": entry["video_fps"]}
        if "error" in entry:
            with pytest.raises(BadSample, match="too short"):
                select(info, entry["max_num_frames"], rng)
        else:
            assert select(info, entry["max_num_frames"], rng).indices == entry["frame_indices"]


def as_bytes(name: str, shape: list[int], seed: int) -> np.ndarray:
    unit = fill(name, tuple(shape), seed) * np.float32(np.sqrt(np.prod(shape[1:])))
    return np.clip(np.rint(128 + 40 * unit), 0, 255).astype(np.uint8)


@torch.no_grad()
def check_vae(case: Case) -> None:
    autoencoder = CogVideoXAutoencoder(config=vae_config(case.config))
    autoencoder.vae.load_state_dict(vae_from_sat(case.weights()))
    for name in ("image", "video"):
        case.check(autoencoder.vae.encode(case.input(name)).latent_dist.parameters, f"moments_{name}")
    every_fourth = slice(None, None, 4)
    decoded = autoencoder.vae.decode(case.input("z")).sample
    case.check(decoded[:, :, every_fourth], "decoded_chunked")
    autoencoder.vae.num_latent_frames_batch_size = case.input("z").shape[2]
    case.check(autoencoder.vae.decode(case.input("z")).sample[:, :, every_fourth], "decoded_one_pass")


def check_full_keys(case: Case) -> None:
    def shapes(entries):
        return {name: tuple(shape) for name, shape in entries}

    def on_meta(entries):
        return {name: torch.empty(shape, device="meta") for name, shape in entries}

    def shapes_of(state_dict):
        return {name: tuple(value.shape) for name, value in state_dict.items()}

    ours = transformer_from_sat(on_meta(case.transformer["reference"]))
    assert shapes_of(ours) == shapes(case.transformer["diffusers"])
    assert shapes_of(transformer_to_sat(ours)) == shapes(case.transformer["reference"])
    assert shapes_of(vae_from_sat(on_meta(case.vae["reference"]))) == shapes(case.vae["diffusers"])
    with torch.device("meta"):
        stock = CogVideoXTransformer3DModel(
            num_attention_heads=48, attention_head_dim=64, num_layers=42, use_rotary_positional_embeddings=True
        )
        vae = AutoencoderKLCogVideoX(latent_channels=16)
    assert shapes_of(stock.state_dict()) == shapes(case.transformer["diffusers"])
    assert shapes_of(vae.state_dict()) == shapes(case.vae["diffusers"])


KINDS = {
    "forward": check_forward,
    "loss": check_loss,
    "training_step": check_training_step,
    "sampler_transformer": check_sampler_transformer,
    "sampler_linear": check_sampler_linear,
    "tables": check_tables,
    "preprocess": check_preprocess,
    "vae": check_vae,
    "full_keys": check_full_keys,
}


@pytest.mark.parametrize("path", manifests("concat_id"), ids=lambda path: path.stem)
def test_equals_the_original(path):
    case = Case(path)
    assert case.kind in KINDS, f"{path}: unknown kind {case.kind}"
    KINDS[case.kind](case)
