"""The same method on another backbone: Concat-ID on Wan, with every part of the library's Wan at tiny size."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed

from likeness.models.autoencoders import WanAutoencoder
from likeness.models.concat_id import ConcatID, ConcatIDConditioning
from likeness.models.denoisers.placement import CogVideoXPlacement
from likeness.models.denoisers.wan import WanPlacement, load_wan
from likeness.models.diffusion.processes import FlowMatching
from likeness.models.draws import Draws
from likeness.models.text_encoders import UMT5TextEncoder
from likeness.toy.backbone import ToyAutoencoder, ToyTextEncoder

from .test_concat_id import build as build_cogvideox
from .test_concat_id import conditioning_of as cogvideox_conditioning

DENOISER = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 2,
}
AUTOENCODER = {
    "base_dim": 8,
    "z_dim": 4,
    "num_res_blocks": 1,
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.5, 0.5, 2.0, 1.0],
}
TEXT_ENCODER = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 384}
SIZE = {"num_frames": 5, "height": 32, "width": 48}
LATENT_SHAPE = (4, 2, 4, 6)


def build(reference_modulation: str = "own", **settings) -> ConcatID:
    torch.manual_seed(0)
    return ConcatID(
        denoiser=load_wan(config=DENOISER, reference_modulation=reference_modulation),
        autoencoder=WanAutoencoder(config=AUTOENCODER),
        text_encoder=UMT5TextEncoder(config=TEXT_ENCODER, max_length=8),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        **{
            "placement": WanPlacement(),
            "process": FlowMatching(shift=5.0),
            "prompt_dropout": 0.0,
            "reference_dropout_per": "sample",
        }
        | settings,
    )


def batch_of(count: int = 2, references: int = 1) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.rand(count, 3, 5, 32, 48, generator=generator) * 2 - 1,
        "reference_pixel_values": torch.rand(count, 3, references, 32, 48, generator=generator) * 2 - 1,
        "caption": [f"clip {i}" for i in range(count)],
    }


def conditioning_of(count: int = 2, references: int = 1) -> ConcatIDConditioning:
    generator = torch.Generator().manual_seed(1)
    return ConcatIDConditioning(
        torch.randn(count, 8, 16, generator=generator), torch.randn(count, 4, references, 4, 6, generator=generator)
    )


def noise_of(count: int = 2) -> torch.Tensor:
    return torch.randn(count, *LATENT_SHAPE, generator=torch.Generator().manual_seed(2))


def calls_of(model: ConcatID) -> list[tuple[int, float]]:
    """Size and timestep of every batch that the denoiser will be called with."""
    calls: list[tuple[int, float]] = []
    model.denoiser.register_forward_pre_hook(
        lambda module, arguments, given: calls.append((len(given["hidden_states"]), float(given["timestep"][0]))),
        with_kwargs=True,
    )
    return calls


@torch.no_grad()
def test_references_change_the_prediction_and_carry_no_loss():
    model, conditioning = build(), conditioning_of()
    far = ConcatIDConditioning(conditioning.prompt_embeds, conditioning.reference_latents * 1e3)
    latents, timesteps = noise_of() * 0.5, torch.tensor([100.0, 800.0])
    losses, far_losses = (model.loss(latents, given, noise_of(), timesteps) for given in (conditioning, far))
    assert losses.shape == (2,)
    assert not torch.equal(losses, far_losses)
    assert (far_losses < 10 * losses).all()


@torch.no_grad()
def test_loss_is_the_error_of_the_velocity():
    model, conditioning, latents, noise = build(), conditioning_of(), noise_of() * 0.5, noise_of().flip(0)
    timesteps = torch.tensor([250.0, 750.0])
    sigmas = torch.tensor([0.25, 0.75]).reshape(2, 1, 1, 1, 1)
    output = model.predict((1 - sigmas) * latents + sigmas * noise, timesteps, conditioning)
    expected = ((output - (noise - latents)) ** 2).mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(model.loss(latents, conditioning, noise, timesteps), expected)


def test_only_the_denoiser_is_trained_and_all_of_it():
    model = build()
    model.step_losses(batch_of(), Draws([1, 2])).mean().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("denoiser.")}
    assert {"denoiser.time_proj_ref.weight", "denoiser.blocks.0.scale_shift_table_ref"} < trained


def test_reference_dropout_takes_single_clips():
    model = build(reference_dropout=0.5)
    latents = model.condition(batch_of(32), Draws(range(32)), augment=True).reference_latents
    dropped = (latents == 0).flatten(1).all(1)
    assert 8 < dropped.sum() < 24


def test_prompts_are_never_dropped():
    model, batch = build(), batch_of(32)
    embeds = model.condition(batch, Draws(range(32)), augment=True).prompt_embeds
    torch.testing.assert_close(embeds, model.text_encoder(batch["caption"]))


def test_drawn_timesteps_lie_towards_noise():
    timesteps = build().draw_timesteps(Draws(range(500)))
    assert ((timesteps >= 0) & (timesteps <= 1000)).all()
    assert timesteps.median() == pytest.approx(1000 * 5 / 6, rel=0.1)


@pytest.mark.parametrize(("guidance_scale", "size"), [(5.0, 4), (1.0, 2)])
def test_each_step_is_one_call_of_the_denoiser(guidance_scale, size):
    model = build()
    calls = calls_of(model)
    model.sample(conditioning_of(), noise_of(), Draws([1, 2]), num_inference_steps=4, guidance_scale=guidance_scale)
    assert [count for count, _ in calls] == [size] * 4
    assert [timestep for _, timestep in calls] == pytest.approx([1000, 1000 * 15 / 16, 1000 * 5 / 6, 1000 * 5 / 8])


@torch.no_grad()
def test_guidance_leads_from_the_negative_prompt_and_both_halves_see_the_references():
    model, conditioning, noise = build(), conditioning_of(), noise_of()
    negative = model.text_encoder(["grey"]).expand(2, -1, -1)
    timesteps = torch.full((2,), 1000.0)
    with_text, without_text = (
        model.predict(noise, timesteps, ConcatIDConditioning(embeds, conditioning.reference_latents))
        for embeds in (conditioning.prompt_embeds, negative)
    )
    sampling = {"num_inference_steps": 1, "guidance_scale": 5.0}
    made = model.sample(conditioning, noise, Draws([1, 2]), negative_prompt="grey", **sampling)
    torch.testing.assert_close(made, noise - (without_text + 5 * (with_text - without_text)), atol=1e-5, rtol=1e-5)
    assert not torch.equal(made, model.sample(conditioning, noise, Draws([1, 2]), **sampling))


def test_same_seed_gives_same_video_in_any_batch():
    model, batch = build(), batch_of(3)
    sampling = {"num_inference_steps": 2, "guidance_scale": 5.0, "negative_prompt": "grey"}
    together = model.generate(batch, Draws([7, 8, 9]), **SIZE, **sampling)
    alone = model.generate({name: value[1:2] for name, value in batch.items()}, Draws([8]), **SIZE, **sampling)
    assert together.shape == (3, 3, 5, 32, 48)
    torch.testing.assert_close(together[1:2], alone, atol=2e-4, rtol=0)


@torch.no_grad()
def test_without_references_clips_equal_the_stock_pipeline():
    model, batch = build(), batch_of(references=0)
    stock = WanTransformer3DModel(**DENOISER)
    stock.load_state_dict({k: v for k, v in model.denoiser.state_dict().items() if "_ref" not in k})
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    # The library's default spacing shifts the ends of the range twice.
    scheduler.set_timesteps = lambda n, device: type(scheduler).set_timesteps(
        scheduler, sigmas=np.linspace(1, 1 / n, n)
    )
    pipeline = WanPipeline(
        tokenizer=model.text_encoder.tokenizer,
        text_encoder=model.text_encoder.encoder,
        vae=model.autoencoder.vae,
        scheduler=scheduler,
        transformer=stock,
    )
    pipeline.set_progress_bar_config(disable=True)
    draws = Draws([3, 4])
    expected = pipeline(
        prompt=batch["caption"],
        negative_prompt="grey &amp; dull",
        latents=model.draw_noise(draws, LATENT_SHAPE),
        num_inference_steps=3,
        max_sequence_length=8,
        output_type="pt",
        **SIZE,
    ).frames
    sampling = {"num_inference_steps": 3, "guidance_scale": 5.0, "negative_prompt": "grey &amp; dull"}
    clips = model.generate(batch, draws, **SIZE, **sampling)
    torch.testing.assert_close((clips.transpose(1, 2) + 1) / 2, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_without_references_the_cogvideox_prediction_is_the_stock_networks():
    model, conditioning = build_cogvideox(), cogvideox_conditioning(references=0)
    noisy, timesteps = torch.randn(2, 16, 2, 4, 4), torch.tensor([5, 900])
    stock = CogVideoXTransformer3DModel.from_config(model.denoiser.config)
    stock.load_state_dict(model.denoiser.state_dict())
    stock.norm_out.norm.eps = 1e-6
    expected = stock(
        noisy.transpose(1, 2),
        conditioning.prompt_embeds,
        timesteps,
        image_rotary_emb=get_3d_rotary_pos_embed(16, ((0, 0), (2, 2)), (2, 2), 2),
        return_dict=False,
    )[0].transpose(1, 2)
    assert torch.equal(model.predict(noisy, timesteps, conditioning), expected)
    noise, sampling = torch.randn(2, 16, 2, 4, 4), {"num_inference_steps": 2}
    assert model.sample(conditioning, noise, Draws([1, 2]), **sampling).shape == noise.shape


def test_training_and_conditions_work_without_references():
    model, batch = build(), batch_of(references=0)
    conditioning = model.condition(batch, Draws([1, 2]), augment=True)
    assert conditioning.reference_latents.shape == (2, 4, 0, 4, 6)
    assert torch.isfinite(model.step_losses(batch, Draws([1, 2]))).all()


def test_checkpoint_of_trained_tensors_restores_the_references_modulation():
    trained, fresh = build(), build()
    with torch.no_grad():
        trained.denoiser.time_proj_ref.weight += 1
    checkpoint = {"state_dict": dict(trained.state_dict())}
    trained.on_save_checkpoint(checkpoint)
    fresh.on_load_checkpoint(checkpoint)
    fresh.load_state_dict(checkpoint["state_dict"], strict=False)
    with torch.no_grad():
        outputs = [
            model.predict(noise_of(), torch.tensor([500.0, 500.0]), conditioning_of()) for model in (trained, fresh)
        ]
    assert torch.equal(*outputs)
    with pytest.raises(ValueError, match="does not fit ConcatID: 4 trained tensors differ"):
        build("shared").on_load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"placement": CogVideoXPlacement()},
            "CogVideoXPlacement cannot place references in a ReferenceWanTransformer",
        ),
        ({"reference_dropout_per": "clip"}, "reference_dropout_per='clip' is not one of batch, sample"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_companions_that_do_not_fit_are_refused():
    for denoiser, message in (
        ({"in_channels": 8}, r"backbone\.denoiser\.in_channels=8 must equal the autoencoder's latent channels, 16"),
        ({"in_channels": 16, "out_channels": 16}, r"text_dim=16 must equal the text encoder's width, 32"),
    ):
        with pytest.raises(ValueError, match=message):
            WanPlacement().prepare(
                load_wan(config=DENOISER | denoiser), ToyAutoencoder(), ToyTextEncoder(embed_dim=32, max_length=4)
            )


def test_plain_wan_is_refused_with_the_family_to_choose():
    with pytest.raises(ValueError, match="WanPlacement cannot place references in a WanTransformer3DModel"):
        WanPlacement().prepare(WanTransformer3DModel(**DENOISER), ToyAutoencoder(), ToyTextEncoder())
