from functools import partial

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from likeness.models.concat_id import ConcatID, ConcatIDConditioning
from likeness.models.draws import Draws
from likeness.toy.backbone import ToyAutoencoder, ToyTextEncoder

SIZE = {"num_frames": 2, "height": 16, "width": 16}


def build(use_rotary: bool = True, **settings) -> ConcatID:
    torch.manual_seed(0)
    denoiser = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=16,
        out_channels=16,
        time_embed_dim=16,
        text_embed_dim=16,
        num_layers=2,
        use_rotary_positional_embeddings=use_rotary,
        max_text_seq_length=6,
        temporal_compression_ratio=1,
    )
    return ConcatID(
        denoiser=denoiser,
        autoencoder=ToyAutoencoder(),
        text_encoder=ToyTextEncoder(embed_dim=16, max_length=6),
        optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1),
        **settings,
    )


def batch_of(count: int = 2, references: int = 1, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.rand(count, 3, 2, 16, 16, generator=generator) * 2 - 1,
        "reference_pixel_values": torch.rand(count, 3, references, 16, 16, generator=generator) * 2 - 1,
        "caption": [f"clip {i}" for i in range(count)],
    }


def conditioning_of(count: int = 2, references: int = 1) -> ConcatIDConditioning:
    generator = torch.Generator().manual_seed(1)
    return ConcatIDConditioning(
        torch.randn(count, 6, 16, generator=generator), torch.randn(count, 16, references, 4, 4, generator=generator)
    )


def test_output_covers_the_clip_and_not_the_references():
    model = build()
    output = model.predict(torch.randn(2, 16, 2, 4, 4), torch.tensor([5, 900]), conditioning_of(references=2))
    assert output.shape == (2, 16, 2, 4, 4)


def test_references_change_the_prediction_and_their_order_matters():
    model, noisy, timesteps = build(), torch.randn(1, 16, 2, 4, 4), torch.tensor([500])
    conditioning = conditioning_of(1, references=2)
    swapped = ConcatIDConditioning(conditioning.prompt_embeds, conditioning.reference_latents.flip(2))
    output = model.predict(noisy, timesteps, conditioning)
    assert (output - model.predict(noisy, timesteps, swapped)).abs().max() > 1e-4


def test_network_with_added_position_tables_sees_references_behind_the_clip_in_time():
    """CogVideoX-2B: the table of clip and references begins with the clip's own."""
    model, tokens = build(use_rotary=False), []
    model.denoiser.patch_embed.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    noisy, conditioning = torch.randn(1, 16, 2, 4, 4), conditioning_of(1, references=2)
    output = model.predict(noisy, torch.tensor([500]), conditioning)
    assert output.shape == (1, 16, 2, 4, 4)
    swapped = ConcatIDConditioning(conditioning.prompt_embeds, conditioning.reference_latents.flip(2))
    assert (output - model.predict(noisy, torch.tensor([500]), swapped)).abs().max() > 1e-4
    model.predict(noisy, torch.tensor([500]), conditioning_of(1, references=1))
    num_tokens = 6 + 2 * 4
    torch.testing.assert_close(tokens[0][:, :num_tokens], tokens[2][:, :num_tokens])


def test_references_carry_no_loss():
    model = build()
    conditioning = conditioning_of()
    conditioning.reference_latents.requires_grad_()
    latents, noise = torch.randn(2, 16, 2, 4, 4), torch.randn(2, 16, 2, 4, 4)
    losses = model.loss(latents, conditioning, noise, torch.tensor([100, 800]))
    assert losses.shape == (2,)
    # A loss on the references would grow with how far they are from the prediction; here they act by attention alone.
    target = conditioning.reference_latents.detach() * 1e3
    far = model.loss(latents, ConcatIDConditioning(conditioning.prompt_embeds, target), noise, torch.tensor([100, 800]))
    assert (far < 10 * losses).all()


def test_only_the_denoiser_is_trained():
    model = build()
    model.step_losses(batch_of(), Draws([1, 2])).mean().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("denoiser.")}


def test_same_draws_give_the_same_loss_and_others_another():
    model, batch = build(), batch_of()
    assert torch.equal(model.step_losses(batch, Draws([1, 2])), model.step_losses(batch, Draws([1, 2])))
    assert not torch.equal(model.step_losses(batch, Draws([1, 2])), model.step_losses(batch, Draws([3, 4])))


def test_a_clip_has_the_same_loss_in_any_batch():
    model, batch = build(reference_dropout=0.0), batch_of()
    second = {name: value[1:] for name, value in batch.items()}
    both, alone = model.step_losses(batch, Draws([1, 2])), model.step_losses(second, Draws([2]))
    torch.testing.assert_close(both[1:], alone)


def test_prompt_dropout_zeroes_whole_prompts_of_some_clips():
    model = build(prompt_dropout=0.5)
    embeds = model.condition(batch_of(64), Draws(range(64)), augment=True).prompt_embeds
    dropped = (embeds == 0).flatten(1).all(1)
    assert 16 < dropped.sum() < 48


def test_reference_dropout_takes_all_references_of_a_batch_or_none():
    model, batch = build(reference_dropout=0.5), batch_of(4, references=2)
    dropped = []
    for step in range(40):
        latents = model.condition(batch, Draws.of_step(step, num_samples=4), augment=True).reference_latents
        zero = (latents == 0).flatten(1).all(1)
        assert zero.all() or not zero.any()
        dropped.append(bool(zero.all()))
    assert 8 < sum(dropped) < 32


def test_pixel_noise_has_the_published_strength():
    model, batch = build(reference_dropout=0.0), batch_of(200)
    strength = (
        model._add_pixel_noise(batch["reference_pixel_values"], Draws(range(200))) - batch["reference_pixel_values"]
    ).std(dim=(1, 2, 3, 4))
    assert strength.median().item() == pytest.approx(0.0498, rel=0.1)
    assert strength.log().std().item() == pytest.approx(0.5, rel=0.15)


def test_without_augmentation_conditions_are_clean():
    model, batch = build(prompt_dropout=1.0, reference_dropout=1.0), batch_of()
    conditioning = model.condition(batch, Draws([1, 2]), augment=False)
    expected = model.autoencoder.encode(batch["reference_pixel_values"], torch.zeros(1))
    assert torch.equal(conditioning.reference_latents, expected)
    assert conditioning.prompt_embeds.abs().max() > 0


def test_same_seed_gives_same_video_in_any_batch():
    model, batch = build(), batch_of(3)
    together = model.generate(batch, Draws([7, 8, 9]), **SIZE, num_inference_steps=3)
    alone = model.generate(
        {name: value[1:2] for name, value in batch.items()}, Draws([8]), **SIZE, num_inference_steps=3
    )
    assert together.shape == (3, 3, 2, 16, 16)
    assert together.abs().max() <= 1
    torch.testing.assert_close(together[1:2], alone, atol=2e-4, rtol=0)


def test_guidance_scale_one_skips_the_unconditional_pass():
    model, sizes = build(), []
    predict = model.predict
    model.predict = lambda noisy, timesteps, conditioning: (
        sizes.append(len(noisy)) or predict(noisy, timesteps, conditioning)
    )
    model.sample(
        conditioning_of(), torch.randn(2, 16, 2, 4, 4), Draws([1, 2]), num_inference_steps=3, guidance_scale=1.0
    )
    assert sizes == [2, 2, 2]
    sizes.clear()
    model.sample(
        conditioning_of(), torch.randn(2, 16, 2, 4, 4), Draws([1, 2]), num_inference_steps=3, guidance_scale=2.0
    )
    assert sizes == [4, 4, 4]


def test_dropped_references_do_not_reach_the_clip():
    model, draws = build(), Draws([1, 2])
    first, second = conditioning_of(), conditioning_of()
    second = ConcatIDConditioning(second.prompt_embeds, second.reference_latents + 1)
    noise = torch.randn(2, 16, 2, 4, 4)
    without = [model.sample(c, noise, draws, num_inference_steps=2, drop_references=True) for c in (first, second)]
    assert torch.equal(*without)


def test_weight_decay_leaves_out_biases_and_norms():
    model = build()
    optimizer = model.configure_optimizers()
    decayed, others = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(model.trained_parameters())


def test_frozen_parts_stay_in_evaluation_mode():
    model = build().train()
    assert model.denoiser.training
    assert not model.autoencoder.training
    assert not model.text_encoder.training


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("in_channels", 8, r"backbone\.denoiser\.in_channels=8 must equal the autoencoder's latent channels, 16"),
        ("text_embed_dim", 8, r"text_embed_dim=8 must equal the text encoder's width, 16"),
        (
            "use_rotary_positional_embeddings",
            False,
            r"max_text_seq_length=7 must equal the text encoder's max_length, 6",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(setting, value, message):
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 16,
        "out_channels": 16,
        "time_embed_dim": 16,
        "text_embed_dim": 16,
        "num_layers": 1,
        "use_rotary_positional_embeddings": True,
        "max_text_seq_length": 7,
        setting: value,
    }
    with pytest.raises(ValueError, match=message):
        ConcatID(
            denoiser=CogVideoXTransformer3DModel(**config),
            autoencoder=ToyAutoencoder(),
            text_encoder=ToyTextEncoder(embed_dim=16, max_length=6),
            optimizer=torch.optim.AdamW,
        )
