import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from likeness.checkpoints.sat import transformer_from_sat, transformer_to_sat


@pytest.fixture(scope="module")
def state_dict():
    torch.manual_seed(0)
    return CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=8,
        num_layers=12,
        use_rotary_positional_embeddings=True,
    ).state_dict()


def test_both_directions_are_bit_identical(state_dict):
    sat = transformer_to_sat(state_dict)
    back = transformer_from_sat(sat)
    assert back.keys() == state_dict.keys()
    assert all(torch.equal(back[name], value) for name, value in state_dict.items())
    again = transformer_to_sat(back)
    assert all(torch.equal(again[name], value) for name, value in sat.items())


def test_prefix_is_optional_and_other_parts_are_dropped(state_dict):
    sat = transformer_to_sat(state_dict)
    plain = {name.removeprefix("model.diffusion_model."): value for name, value in sat.items()}
    extra = {"conditioner.embedders.0.transformer.shared.weight": torch.zeros(1), "first_stage_model.x": torch.zeros(1)}
    assert transformer_from_sat(plain | extra).keys() == state_dict.keys()


def test_foreign_key_is_named(state_dict):
    with pytest.raises(ValueError, match=r"unet\.down is not a tensor of a SAT CogVideoX transformer"):
        transformer_from_sat({"unet.down.weight": torch.zeros(1)})
