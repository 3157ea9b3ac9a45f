"""Wan's transformer with references: the stock network without them, and each of the method's rules with them."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from likeness.models.denoisers.wan import ReferenceWanTransformer, load_wan

CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 2,
}
TIMESTEPS = torch.tensor([20.0, 900.0])


def build(reference_modulation: str = "shared", **settings) -> ReferenceWanTransformer:
    torch.manual_seed(0)
    return load_wan(config={**CONFIG, **settings}, reference_modulation=reference_modulation)


def inputs(references: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 4, 3, 8, 12, generator=generator),
        "timestep": TIMESTEPS,
        "encoder_hidden_states": torch.randn(2, 7, 16, generator=generator),
        "reference_latents": torch.randn(2, 4, references, 8, 12, generator=generator),
    }


@pytest.fixture
def plain_folder(tmp_path):
    """A plain Wan transformer in diffusers layout, and the network itself."""
    torch.manual_seed(2)
    stock = WanTransformer3DModel(**CONFIG)
    stock.save_pretrained(tmp_path / "plain")
    return str(tmp_path / "plain"), stock


@pytest.mark.parametrize("reference_modulation", ["shared", "own"])
@pytest.mark.parametrize("how", ["no argument", "no frames"])
def test_without_references_it_is_the_stock_network_bit_by_bit(plain_folder, reference_modulation, how):
    folder, stock = plain_folder
    ours, given = load_wan(pretrained=folder, reference_modulation=reference_modulation), inputs(references=0)
    references = given.pop("reference_latents")
    expected = stock(**given, return_dict=False)[0]
    output = ours(**given, **({} if how == "no argument" else {"reference_latents": references}))
    assert torch.equal(output, expected)


def test_output_covers_the_clip_and_references_change_it():
    denoiser, given = build(), inputs()
    output = denoiser(**given)
    given["reference_latents"] = given["reference_latents"] + 1
    assert output.shape == given["hidden_states"].shape
    assert (denoiser(**given) - output).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-4


def test_references_lie_behind_the_clip_in_time_and_beside_it_in_width():
    """The rotary tables of a clip of 3 frames and 4 x 6 patches are the stock ones at (3 + j, y, 6 + x)."""
    denoiser = build()
    latents = inputs()["hidden_states"]
    tables = denoiser._positions(latents, 2)
    for table, stock in zip(tables, (denoiser.rope.freqs_cos, denoiser.rope.freqs_sin), strict=True):
        time, row, column = stock.split([denoiser.rope.t_dim, denoiser.rope.h_dim, denoiser.rope.w_dim], dim=1)
        assert table.shape == (1, 5 * 4 * 6, 1, 24)
        for token, (t, y, x) in {
            0: (0, 0, 0),
            23: (0, 3, 5),
            2 * 24 + 6: (2, 1, 0),
            3 * 24: (3, 0, 6),
            3 * 24 + 23: (3, 3, 11),
            4 * 24 + 7: (4, 1, 7),
        }.items():
            assert torch.equal(table[0, token, 0], torch.cat([time[t], row[y], column[x]]))


def test_clip_positions_are_the_stock_ones():
    denoiser, latents = build(), inputs()["hidden_states"]
    for table, stock in zip(denoiser._positions(latents, 1), denoiser.rope(latents), strict=True):
        assert torch.equal(table[:, : 3 * 24], stock)


def test_order_of_references_matters_and_so_does_their_place():
    denoiser, given = build(), inputs(references=2)
    output = denoiser(**given)
    swapped = given | {"reference_latents": given["reference_latents"].flip(2)}
    assert (denoiser(**swapped) - output).abs().max() > 1e-5


@pytest.mark.parametrize("reference_modulation", ["shared", "own"])
def test_text_reaches_references_only_through_the_clip(reference_modulation):
    """In the first block reference tokens do not depend on the text; then attention carries it over from the clip."""
    denoiser = build(reference_modulation)
    seen: list[list[torch.Tensor]] = []
    for block in denoiser.blocks:
        block.register_forward_hook(lambda module, arguments, output: seen[-1].append(output[1].detach()))
    given = inputs()
    for text in (given["encoder_hidden_states"], given["encoder_hidden_states"] + 1):
        seen.append([])
        denoiser(**given | {"encoder_hidden_states": text})
    (first, second), (first_other, second_other) = seen
    assert torch.equal(first, first_other)
    assert not torch.equal(second, second_other)


def test_own_modulation_starts_as_a_copy_and_differs_in_the_feed_forward_alone(plain_folder):
    folder, stock = plain_folder
    own = load_wan(pretrained=folder, reference_modulation="own")
    for block, stock_block in zip(own.blocks, stock.blocks, strict=True):
        assert torch.equal(block.scale_shift_table_ref, stock_block.scale_shift_table)
    assert torch.equal(own.time_proj_ref.weight, stock.condition_embedder.time_proj.weight)
    assert torch.equal(own.time_proj_ref.bias, stock.condition_embedder.time_proj.bias)

    given, shared = inputs(), load_wan(pretrained=folder)
    assert not torch.equal(own(**given), shared(**given))
    # Where attention and feed-forward have the same shift and scale, nothing is left to differ.
    for denoiser in (own, shared):
        _repeat_attention_modulation(denoiser)
    own.give_references_own_modulation()
    assert torch.equal(own(**given), shared(**given))


@torch.no_grad()
def _repeat_attention_modulation(denoiser):
    for block in denoiser.blocks:
        block.scale_shift_table[:, 3:5] = block.scale_shift_table[:, :2]
    for tensor in denoiser.condition_embedder.time_proj.parameters():
        chunks = list(tensor.chunk(6))
        tensor.copy_(torch.cat([*chunks[:3], *chunks[:2], chunks[5]]))


def test_own_modulation_moves_references_alone():
    denoiser, given = build("own"), inputs(references=0)
    without = denoiser(**given)
    with_references = denoiser(**inputs())
    with torch.no_grad():
        denoiser.time_proj_ref.bias += 1
        denoiser.blocks[0].scale_shift_table_ref += 1
    assert torch.equal(denoiser(**given), without)
    assert not torch.equal(denoiser(**inputs()), with_references)


def test_gradients_reach_every_used_tensor_and_the_references_table_where_it_is_used():
    denoiser = build("own")
    denoiser(**inputs()).square().mean().backward()
    assert all(parameter.grad is not None for parameter in denoiser.parameters())
    first, last = (block.scale_shift_table_ref.grad.abs().sum(dim=(0, 2)) for block in denoiser.blocks)
    # shift, scale, gate of attention; shift, scale, gate of the feed-forward
    assert (first > 0).tolist() == [True, True, True, False, False, True]
    # What the last block makes of the references is dropped; its attention still reads them.
    assert (last > 0).tolist() == [True, True, False, False, False, False]


def test_gradient_checkpointing_changes_nothing():
    gradients = []
    for checkpointing in (False, True):
        denoiser = build("own").train()
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
        denoiser(**inputs()).square().mean().backward()
        gradients.append(denoiser.blocks[0].scale_shift_table_ref.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("reference_modulation", ["shared", "own"])
def test_saved_folder_loads_again(tmp_path, reference_modulation):
    denoiser = build(reference_modulation)
    if reference_modulation == "own":
        torch.nn.init.normal_(denoiser.time_proj_ref.weight)  # no copy any more
        torch.nn.init.normal_(denoiser.blocks[1].scale_shift_table_ref)
    denoiser.save_pretrained(tmp_path / "ours")
    again = load_wan(pretrained=str(tmp_path / "ours"), reference_modulation=reference_modulation)
    assert torch.equal(again(**inputs()), denoiser(**inputs()))


def test_weights_with_own_modulation_are_not_loaded_as_shared(tmp_path):
    build("own").save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"set backbone\.denoiser\.reference_modulation=own"):
        load_wan(pretrained=str(tmp_path / "ours"))


def test_weights_in_bfloat16_keep_the_stock_arithmetic(plain_folder):
    folder, _ = plain_folder
    given = {name: value.bfloat16() for name, value in inputs().items() if name != "timestep"}
    given |= {"timestep": TIMESTEPS, "reference_latents": given["reference_latents"][:, :, :0]}
    ours = ReferenceWanTransformer.from_pretrained(folder, torch_dtype=torch.bfloat16)
    stock = WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    output = ours(**given)
    del given["reference_latents"]
    assert torch.equal(output, stock(**given, return_dict=False)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_dim": 8}, "image-to-video Wan transformer"),
        ({"added_kv_proj_dim": 8}, "image-to-video Wan transformer"),
        ({"patch_size": (2, 2, 2)}, r"patch_size=\[2, 2, 2\] must be \[1, p, p\]"),
    ],
)
def test_networks_of_another_kind_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_unknown_modulation_and_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="reference_modulation='mine' is not one of shared, own"):
        build("mine")
    given = {name: value[..., :-1] if value.ndim == 5 else value for name, value in inputs().items()}
    with pytest.raises(ValueError, match="latents of 8 x 11 do not divide into the denoiser's patches of 2 x 2"):
        build()(**given)
