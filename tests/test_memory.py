"""What sampling costs, and that presets for small cards change where things are, not what comes out."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from likeness.datamodules.conditions import ReferenceImages, SampleRequest, request_batch
from likeness.generation import num_steps
from likeness.memory import OneAtATime, _offload_layers, place, tiled
from likeness.models.autoencoders import CogVideoXAutoencoder, TemporalDecoderAutoencoder
from likeness.models.concat_id import ConcatID
from likeness.models.draws import Draws
from likeness.models.encode_once import RowsOnce, encode_once
from likeness.models.text_encoders import T5TextEncoder

CPU = torch.device("cpu")


def build() -> ConcatID:
    """Concat-ID of real CogVideoX parts with two layers each."""
    torch.manual_seed(0)
    autoencoder = {
        "latent_channels": 4,
        "block_out_channels": [8, 8, 8, 8],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_height": 96,  # tiles are half as large: 48 x 40 pixels, four to one of 64 x 64
        "sample_width": 80,
    }
    text_encoder = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 384}
    model = ConcatID(
        denoiser=CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=16,
            text_embed_dim=32,
            num_layers=2,
            use_rotary_positional_embeddings=True,
            max_text_seq_length=8,
        ),
        autoencoder=CogVideoXAutoencoder(config=autoencoder),
        text_encoder=T5TextEncoder(config=text_encoder, max_length=8),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
    )
    return model.eval()


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (count, 20, 20, 3), np.uint8))


def batch_of(requests, size: int = 16) -> dict:
    return request_batch({"references": ReferenceImages(height=size, width=size)}, requests)


def generate(model: ConcatID, requests, seeds, size: int = 16, **sampling) -> torch.Tensor:
    sampling = {"num_inference_steps": 3, "guidance_scale": 4.0, **sampling}
    return model.generate(batch_of(requests, size), Draws(seeds), num_frames=5, height=size, width=size, **sampling)


def watch(module: torch.nn.Module, argument: str | None = None) -> list[int]:
    """Return a list that gets the batch size of every call of `module`."""
    sizes: list[int] = []

    def note(module, inputs, settings, output):
        sizes.append(len(settings[argument] if argument else inputs[0]))

    module.register_forward_hook(note, with_kwargs=True)
    return sizes


@pytest.mark.parametrize(("guidance_scale", "rows"), [(6.0, 4), (1.0, 2)])
def test_each_step_calls_the_denoiser_once_for_both_halves_of_guidance(guidance_scale, rows):
    model, request = build(), SampleRequest("a person", pictures(1))
    calls = watch(model.denoiser, "hidden_states")
    generate(model, [request] * 2, [1, 2], num_inference_steps=5, guidance_scale=guidance_scale)
    assert calls == [rows] * 5


def test_each_prompt_and_each_picture_is_encoded_once_in_all_batches():
    model, (first, second) = build(), pictures(2)
    texts, images = watch(model.text_encoder.encoder), watch(model.autoencoder.vae.encoder)
    encode_once(model)
    one, other = SampleRequest("a person", [first]), SampleRequest("somebody else", [first, second])
    generate(model, [one, one], [1, 2])
    generate(model, [one], [3])
    generate(model, [other, other], [4, 5])
    assert texts == [1, 1]
    assert images == [1, 1]


def test_clips_of_one_picture_keep_samples_of_their_own():
    model, request = build(), SampleRequest("a person", pictures(1))
    encode_once(model)
    batch, draws = batch_of([request] * 2), Draws([1, 2])
    latents = model.condition(batch, draws, augment=False).reference_latents
    assert not torch.equal(latents[0], latents[1])
    alone = model.condition(batch_of([request]), Draws([2]), augment=False).reference_latents
    assert torch.equal(alone[0], latents[1])


def test_remembering_changes_nothing_and_forgets_the_oldest():
    model, request = build(), SampleRequest("a person", pictures(1))
    plain = generate(model, [request], [1])
    encode_once(model)
    assert torch.equal(generate(model, [request], [1]), plain)
    calls: list[str] = []
    rows = RowsOnce(lambda row: calls.append(row[0]) or torch.zeros(1), str, size=2)
    for name in ("a", "b", "a", "c", "a", "b"):
        rows([name])
    assert calls == ["a", "b", "c", "b"]


@pytest.mark.parametrize("memory", ["24gb", "16gb", "8gb"])
def test_presets_make_the_same_clips(memory, caplog):
    requests = [SampleRequest("a person", pictures(1))]
    plain, small = build(), build()
    place(plain, None, CPU, torch.float32)
    place(small, memory, CPU, torch.float32)
    rows = watch(small.denoiser.transformer_blocks[0], "hidden_states")
    expected, made = generate(plain, requests, [1]), generate(small, requests, [1])
    if memory == "24gb":
        assert torch.equal(made, expected)
        assert rows == [2] * 3
    else:
        # Halves of guidance round differently. A clip of this size has one tile.
        torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
        assert rows == [1] * 6
    assert ("there is no other place for layers" in caplog.text) == (memory == "8gb")


def test_small_presets_decode_in_tiles_and_encode_whole():
    model, requests = build(), [SampleRequest("a person", pictures(1))] * 2
    plain = generate(model, requests, [1, 2], size=64)
    place(model, "16gb", CPU, torch.float32)
    decoded, encoded = watch(model.autoencoder.vae.decoder), watch(model.autoencoder.vae.encoder)
    made = generate(model, requests, [1, 2], size=64)
    assert decoded == [1] * 2 * 4  # two clips of four tiles
    assert encoded == [2]
    assert not model.autoencoder.vae.use_tiling
    assert made.shape == plain.shape
    # Random weights make the worst of tiles: each has its own group statistics.
    assert 0 < (made - plain).abs().mean() < 0.2


def test_one_part_at_a_time_is_resident():
    stage, first, second = OneAtATime(CPU), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    stage.watch(first, "forward")
    stage.watch(second, "forward")
    assert stage.resident is None
    for part in (first, second, second, first):
        part(torch.zeros(1, 2))
        assert stage.resident is part


def test_streaming_layers_changes_no_pixel():
    requests, plain, streamed = [SampleRequest("a person", pictures(1))], build(), build()
    _offload_layers(streamed, CPU)
    assert torch.equal(generate(streamed, requests, [1]), generate(plain, requests, [1]))


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"memory=12gb is not a preset: did you mean"):
        place(build(), "12gb", CPU, torch.float32)


def test_tiling_ends_with_its_block():
    autoencoder = build().autoencoder
    with tiled(autoencoder):
        assert autoencoder.vae.use_tiling
        assert autoencoder.vae.use_slicing
    assert not autoencoder.vae.use_tiling
    with tiled(autoencoder, is_wanted=False):
        assert not autoencoder.vae.use_tiling


def test_an_autoencoder_without_tiles_decodes_few_frames_at_a_time():
    config = {"block_out_channels": [32], "layers_per_block": 1}
    autoencoder = TemporalDecoderAutoencoder(config=config)
    latents, decoded = torch.randn(1, 4, 6, 4, 4), []
    autoencoder.vae.decoder.register_forward_pre_hook(lambda module, inputs: decoded.append(len(inputs[0])))
    with tiled(autoencoder):
        autoencoder.decode(latents)
        autoencoder.decode(latents, decode_chunk_size=5)
    autoencoder.decode(latents)
    assert decoded == [4, 2, 5, 1, 6]


def test_number_of_steps_is_known_before_sampling():
    assert num_steps(build(), {}) == 50
    assert num_steps(build(), {"num_inference_steps": 4}) == 4


def test_text_alone_makes_a_clip():
    assert generate(build(), [SampleRequest("a street", [])], [1]).shape == (1, 3, 5, 16, 16)
