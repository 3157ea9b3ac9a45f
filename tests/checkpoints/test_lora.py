import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, CogVideoXPipeline
from peft import LoraConfig

from likeness.checkpoints.lightning import AtomicCheckpointIO
from likeness.checkpoints.lora import merge_lora, write_lora
from likeness.checkpoints.sources import read_source

from .tiny import tiny_transformer

RANK, ALPHA = 4, 6


@pytest.fixture
def base():
    return tiny_transformer()


@pytest.fixture
def trained():
    """A transformer with a trained LoRA on attention, as the library injects it."""
    denoiser = tiny_transformer()
    denoiser.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    torch.manual_seed(1)
    for name, parameter in denoiser.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.2
    return denoiser


def write_run(path, denoiser, base_folder=None, **changes):
    """Write a checkpoint as a LoRA run leaves it: adapters alone, as raw weights and as their average."""
    raw = {f"denoiser.{name}": value for name, value in denoiser.state_dict().items() if "lora_" in name}
    backbone = {"architecture": "diffusers.CogVideoXTransformer3DModel", "pretrained": base_folder}
    content = {
        "state_dict": raw,
        "ema": {"num_updates": 3, "state_dict": {name: value * 0.5 for name, value in raw.items()}},
        "config": {
            "backbone": {"denoiser": backbone},
            "model": {"lora": {"rank": RANK, "alpha": ALPHA, "targets": ["to_q"]}},
            "paths": {},
        },
        "global_step": 3,
        **changes,
    }
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path


@torch.no_grad()
def output(transformer):
    generator = torch.Generator().manual_seed(0)
    return transformer(
        hidden_states=torch.randn(1, 2, 4, 4, 4, generator=generator),
        encoder_hidden_states=torch.randn(1, 6, 16, generator=generator),
        timestep=torch.tensor([5]),
        return_dict=False,
    )[0]


def test_stock_pipeline_loads_the_adapters_at_their_scale(tmp_path, base, trained):
    source = read_source(write_run(tmp_path / "a.ckpt", trained), "raw")
    write_lora(tmp_path / "lora", source.lora, source.model_class, None)
    pipeline = CogVideoXPipeline(
        tokenizer=None, text_encoder=None, vae=AutoencoderKLCogVideoX(block_out_channels=[32] * 4), transformer=base,
        scheduler=CogVideoXDPMScheduler(),
    )  # fmt: skip
    before = output(base)
    pipeline.load_lora_weights(tmp_path / "lora")
    scales = {scale for module in base.modules() if hasattr(module, "lora_A") for scale in module.scaling.values()}
    assert scales == {ALPHA / RANK}
    assert torch.equal(output(pipeline.transformer), output(trained))
    assert not torch.allclose(before, output(trained), atol=1e-2)
    pipeline.unload_lora_weights()
    assert torch.equal(output(pipeline.transformer), before)


def test_merged_weights_compute_what_adapters_do(tmp_path, base, trained):
    base.save_pretrained(tmp_path / "base")
    source = read_source(write_run(tmp_path / "a.ckpt", trained, str(tmp_path / "base")), "raw")
    below = source.start
    merged = merge_lora(source.lora, below.tensors, below.path)
    full = tiny_transformer(7)
    full.load_state_dict({name: tensor.load() for name, tensor in merged.items()})
    torch.testing.assert_close(output(full), output(trained), atol=1e-5, rtol=1e-5)
    for module in ("transformer_blocks.0.attn1.to_q", "transformer_blocks.2.attn1.to_out.0"):
        down, up = (trained.get_parameter(f"{module}.lora_{side}.default.weight") for side in "AB")
        expected = base.get_parameter(f"{module}.weight") + ALPHA / RANK * (up @ down)
        torch.testing.assert_close(full.get_parameter(f"{module}.weight"), expected)


def test_average_of_the_adapters_is_taken_where_not_told_otherwise(tmp_path, trained):
    path = write_run(tmp_path / "a.ckpt", trained)
    name = "transformer_blocks.0.attn1.to_q.lora_A.weight"
    raw, average = (read_source(path, weights).lora.layers[name].load() for weights in ("raw", None))
    assert torch.equal(average, raw * 0.5)


def test_adapters_that_do_not_fit_the_base_are_refused(tmp_path, trained):
    tiny_transformer(num_layers=2).save_pretrained(tmp_path / "base")
    source, below = read_source(write_run(tmp_path / "a.ckpt", trained)), read_source(tmp_path / "base")
    with pytest.raises(ValueError, match=r"does not fit .*base: transformer_blocks\.2\.attn1\.to_q\.weight .* missing"):
        merge_lora(source.lora, below.tensors, below.path)


def test_adapters_that_contradict_their_configuration_are_refused(tmp_path, trained):
    settings = {"backbone": {"denoiser": {"architecture": "diffusers.CogVideoXTransformer3DModel"}}, "paths": {}}
    path = write_run(tmp_path / "a.ckpt", trained, config={**settings, "model": {"lora": {"rank": 8, "alpha": 1}}})
    with pytest.raises(ValueError, match="is not of rank 8"):
        read_source(path)
    path = write_run(tmp_path / "b.ckpt", trained, config={**settings, "model": {}})
    with pytest.raises(ValueError, match=r"has no model\.lora\.rank"):
        read_source(path)


def test_a_run_of_adapters_is_no_start_for_another(tmp_path, base, trained):
    base.save_pretrained(tmp_path / "base")
    path = write_run(tmp_path / "a.ckpt", trained, str(tmp_path / "base"))
    with pytest.raises(ValueError, match="holds a LoRA, not a whole network: fold it in first"):
        read_source(path).load(torch.float32)
