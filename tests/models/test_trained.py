import pytest

from likeness.models.draws import Draws
from likeness.models.lora import LoRA
from likeness.models.trained import select

from .test_concat_id import batch_of, build

NAMES = ["denoiser.blocks.0.attn.to_q.weight", "denoiser.blocks.1.attn.to_q.weight", "denoiser.norm.weight"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], NAMES),
        (["*attn*"], NAMES[:2]),
        (["*", "!*norm*"], NAMES[:2]),
        (["*blocks.1.*", "*norm*"], NAMES[1:]),
        (["*", "!*blocks*", "*blocks.0.*"], [NAMES[0], NAMES[2]]),
    ],
)
def test_patterns_add_and_take_away_in_order(patterns, expected):
    assert select(NAMES, patterns) == set(expected)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["*", "!*nrom*"], r"model\.trained: no parameter is called \*nrom\*"),
        (["denoiser.blocks.*.attn.to_k.weight"], r"did you mean denoiser\.blocks\.\*\.attn\.to_q\.weight\?"),
        (["*norm*", "!*norm*"], "chooses no parameter"),
        ([], "chooses no parameter"),
    ],
)
def test_pattern_that_matches_nothing_is_refused(patterns, message):
    with pytest.raises(ValueError, match=message):
        select(NAMES, patterns)


def test_exactly_the_chosen_parameters_receive_a_gradient_and_are_saved():
    model = build(trained=["*.attn1.*", "!*.attn1.norm_*"])
    model.step_losses(batch_of(), Draws([1, 2])).mean().backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    expected = {name for name, _ in model.named_parameters() if ".attn1.to_" in name}
    assert with_gradient == expected
    checkpoint = {"state_dict": dict(model.state_dict())}
    model.on_save_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() == expected
    assert "denoiser" in checkpoint["frozen"]


def test_everything_is_trained_by_default_and_nothing_of_the_denoiser_is_frozen():
    model = build()
    assert set(model.trained_parameters()) == {f"denoiser.{name}" for name, _ in model.denoiser.named_parameters()}
    assert set(model.frozen_fingerprints()) == {"autoencoder", "text_encoder"}


def test_more_can_be_trained_beside_adapters_but_not_instead_of_them():
    lora = LoRA(targets=["to_q"], rank=2, alpha=2)
    names = build(lora=lora, trained=["*lora_*", "*proj_out*"]).trained_parameters()
    assert len(names) == 2 * 2 + 2
    with pytest.raises(ValueError, match=r"leaves out .*to_q\.lora_A\.default\.weight, which model\.lora adds"):
        build(lora=lora, trained=["*proj_out*"])


def test_training_in_16_bits_is_refused():
    from likeness.models.loading import load_denoiser

    config = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "in_channels": 16}
    denoiser = load_denoiser(architecture="diffusers.CogVideoXTransformer3DModel", config=config, dtype="bfloat16")
    model = build()
    model.denoiser = denoiser
    with pytest.raises(ValueError, match=r"would be trained in torch\.bfloat16.*backbone\.denoiser\.dtype=float32"):
        model._choose_trained(None)
