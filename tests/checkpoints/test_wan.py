import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from likeness.checkpoints.wan import transformer_from_wan, transformer_to_wan
from likeness.models.denoisers.wan import load_wan

CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 8,
    "freq_dim": 8,
    "ffn_dim": 16,
    "num_layers": 2,
}


def tensors(reference_modulation: str = "shared") -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(load_wan(config=CONFIG, reference_modulation=reference_modulation).state_dict())


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("reference_modulation", ["shared", "own"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "pipe.dit."])
def test_names_go_there_and_back(reference_modulation, prefix):
    stock = tensors(reference_modulation)
    original = {prefix + name: value for name, value in transformer_to_wan(stock).items()}
    assert_equal(transformer_from_wan(original), stock)


def test_names_are_those_the_library_reads():
    stock = tensors()
    assert_equal(convert_wan_transformer_to_diffusers(dict(transformer_to_wan(stock))), stock)


def test_modulation_of_references_is_named_after_what_it_copies():
    original = transformer_to_wan(tensors("own"))
    assert original["blocks.1.modulation_ref"].shape == original["blocks.1.modulation"].shape
    assert original["time_projection_ref.1.weight"].shape == original["time_projection.1.weight"].shape


def test_unknown_and_missing_tensors_are_named():
    original = transformer_to_wan(tensors("own"))
    with pytest.raises(ValueError, match=r"blocks\.0\.k_img\.weight is not a tensor of a text-to-video Wan"):
        transformer_from_wan(original | {"blocks.0.k_img.weight": torch.zeros(1)})
    del original["blocks.1.modulation_ref"]
    with pytest.raises(ValueError, match=r"blocks\.1\.modulation_ref is missing from .* \(1 such keys\)"):
        transformer_from_wan(original)
