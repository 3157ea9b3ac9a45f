import pytest
import torch

from likeness.models.draws import Draws
from likeness.models.lora import LoRA

from .test_base import fit
from .test_concat_id import batch_of, build

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def with_lora(targets=ATTENTION, rank: int = 4, alpha: float = 1, dropout: float = 0.0, **settings):
    return build(lora=LoRA(targets=targets, rank=rank, alpha=alpha, dropout=dropout), **settings)


def loss_of(model, seeds=(1, 2)) -> torch.Tensor:
    return model.step_losses(batch_of(), Draws(list(seeds))).mean()


def test_adapters_alone_receive_a_gradient():
    model = with_lora()
    loss_of(model).backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == set(model.trained_parameters())
    assert len(with_gradient) == 2 * len(ATTENTION) * 2  # A and B, of every target, in both layers
    assert "denoiser.transformer_blocks.1.attn1.to_out.0.lora_B.default.weight" in with_gradient


def test_training_starts_at_the_base_model():
    assert torch.equal(loss_of(with_lora()), loss_of(build()))


def test_adapter_is_scaled_by_alpha_over_rank():
    """In float64, W x + alpha / rank * B A x by hand."""
    model = with_lora(["transformer_blocks.0.attn1.to_q"], rank=8, alpha=2)
    layer = model.denoiser.double().transformer_blocks[0].attn1.to_q
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(3, 32, dtype=torch.float64)
    low_rank = x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T
    torch.testing.assert_close(layer(x), layer.base_layer(x) + 2 / 8 * low_rank)


@pytest.mark.parametrize(
    ("targets", "count"),
    [(["attn1.to_q"], 2), (r"transformer_blocks\.1\.attn1\.to_[qk]", 2), (["ff.net.2", "proj_out"], 3)],
)
def test_targets_are_ends_of_names_or_one_expression(targets, count):
    assert len(with_lora(targets).trained_parameters()) == 2 * count


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["to_q", "to_qq"], r"the denoiser has no layer to_qq: did you mean to_q\?"),
        (["out.0"], r"the denoiser has no layer out\.0: did you mean to_out\.0\?"),
        ([], "targets is empty: give names of layers"),
        ("to_q", r"targets='to_q' matches no layer as a whole, e\.g\. proj_out; for names give a list"),
        ("*", "is no regular expression"),
    ],
)
def test_unknown_target_is_refused_with_the_nearest_that_exists(targets, message):
    with pytest.raises(ValueError, match=message):
        with_lora(targets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rank": 0}, r"rank=0 .*model\.lora\.rank"), ({"alpha": 0}, "alpha=0"), ({"dropout": 1.0}, r"dropout=1\.0")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        with_lora(**settings)


def saved(model) -> dict:
    checkpoint = {"state_dict": dict(model.state_dict())}
    model.on_save_checkpoint(checkpoint)
    return checkpoint


def test_checkpoint_holds_the_adapters_and_names_the_base():
    checkpoint = saved(with_lora())
    assert all(name.endswith((".lora_A.default.weight", ".lora_B.default.weight")) for name in checkpoint["state_dict"])
    assert set(checkpoint["frozen"]) == {"autoencoder", "text_encoder", "denoiser"}
    with_lora().on_load_checkpoint(checkpoint)


def test_checkpoint_on_another_base_is_refused():
    other = with_lora()
    with torch.no_grad():
        other.denoiser.transformer_blocks[1].ff.net[2].weight[0, 0] += 1
    with pytest.raises(ValueError, match=r"was trained with another denoiser .*backbone\.denoiser"):
        other.on_load_checkpoint(saved(with_lora()))


def test_checkpoint_of_other_targets_is_refused():
    with pytest.raises(ValueError, match="4 trained tensors differ"):
        with_lora(["to_q"]).on_load_checkpoint(saved(with_lora(["to_q", "to_k"])))


def test_checkpointed_activations_give_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = with_lora(gradient_checkpointing=checkpointing).train()
        loss_of(model).backward()
        gradients.append([parameter.grad for parameter in model.trained_parameters().values()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
    assert any(gradient.abs().max() > 0 for gradient in gradients[0])


@pytest.mark.filterwarnings("ignore")
def test_training_with_dropout_repeats_and_leaves_the_base_alone():
    weights = []
    for _ in range(2):
        model = with_lora(dropout=0.5)
        before = model.denoiser.proj_out.weight.detach().clone()
        torch.rand(len(weights))  # what else draws from the global generator does not matter
        fit(model, [batch_of(), batch_of(seed=3)], gradient_clip_val=0.1)
        assert torch.equal(model.denoiser.proj_out.weight, before)
        weights.append(model.denoiser.transformer_blocks[0].attn1.to_q.lora_B["default"].weight)
    assert torch.equal(*weights)
    assert weights[0].abs().max() > 0


def test_adapters_on_a_base_in_16_bits_stay_in_32():
    model = build()
    model.denoiser.to(torch.bfloat16)
    adapters = LoRA(targets=ATTENTION, rank=2, alpha=2).apply(model.denoiser)
    assert {value.dtype for value in adapters.values()} == {torch.float32}
    model.lora = None
    loss_of(model).backward()
    assert all(value.grad.dtype == torch.float32 for value in adapters.values())
