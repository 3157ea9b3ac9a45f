"""`export.py` on a run of ours, on published files, and into the stock pipeline."""

import json
import os

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from hydra.utils import instantiate
from omegaconf import OmegaConf
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from likeness.checkpoints.lightning import find_checkpoint, read_checkpoint
from likeness.datamodules.conditions import SampleRequest, request_batch
from likeness.generation import load_run
from likeness.models.draws import Draws

from . import test_published_layout
from .checkpoints.test_lora import write_run
from .checkpoints.tiny import same, tiny_transformer, tiny_vae, write_sat, write_sat_vae
from .commands import call
from .test_published_layout import recipe

weights, shards = test_published_layout.weights, test_published_layout.shards


def export(capfd, *arguments):
    outcome = call(capfd, "export", *map(str, arguments))
    assert outcome.code == 0, outcome.error
    return outcome


def refused(capfd, *arguments) -> str:
    outcome = call(capfd, "export", *map(str, arguments))
    assert outcome.code == 1 and "Traceback" not in outcome.error
    return outcome.error


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The parts of a pipeline beside the transformer, without scheduler and index."""
    folder = tmp_path_factory.mktemp("weights") / "base"
    tiny_vae().save_pretrained(folder / "vae")
    torch.manual_seed(0)
    T5EncoderModel(T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=300)).save_pretrained(
        folder / "text_encoder"
    )
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in "abcdefgh")]
    T5Tokenizer(vocab=vocabulary).save_pretrained(folder / "tokenizer")
    return folder


def test_run_becomes_a_folder_that_trains_and_exports_again(capfd, tiny_run, tmp_path):
    outcome = export(capfd, f"from={tiny_run}", f"to={tmp_path}/t")
    assert "format=transformer" in outcome.log and "ema weights of step" in outcome.log
    checkpoint = read_checkpoint(find_checkpoint(tiny_run))
    expected = {n.removeprefix("denoiser."): t for n, t in checkpoint["ema"]["state_dict"].items()}
    stock = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "t")
    assert same(stock.state_dict(), expected)
    assert (
        stock.config.max_text_seq_length
        == checkpoint["config"]["backbone"]["denoiser"]["config"]["max_text_seq_length"]
    )
    export(capfd, f"from={tmp_path}/t", f"to={tmp_path}/sat")
    export(capfd, f"from={tmp_path}/sat", f"to={tmp_path}/again", "max_shard_size=100KB")
    assert same(CogVideoXTransformer3DModel.from_pretrained(tmp_path / "again").state_dict(), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "sat", "t"]
    from likeness.models.loading import load_denoiser

    architecture = "diffusers.CogVideoXTransformer3DModel"
    assert same(load_denoiser(architecture=architecture, pretrained=str(tmp_path / "t")).state_dict(), expected)
    assert same(load_denoiser(architecture=architecture, pretrained=str(tiny_run)).state_dict(), expected)


@pytest.mark.filterwarnings("ignore")
def test_training_starts_from_a_published_sat_folder_and_its_run_becomes_a_pipeline(capfd, weights, shards, tmp_path):
    sat, outputs = tmp_path / "sat", tmp_path / "outputs"
    export(capfd, f"from={weights}", f"to={sat}")
    settings = [f"backbone.denoiser.pretrained={sat}", "~callbacks.log_samples", "trainer.max_steps=2"]
    settings += ["backbone.autoencoder.dtype=float32", "backbone.text_encoder.dtype=float32"]
    arguments = recipe(weights, shards, outputs, *settings, "callbacks.checkpoint.every_n_train_steps=2")
    outcome = call(capfd, "train", *arguments)
    assert outcome.code == 0, outcome.error
    run = outputs / "published"
    export(capfd, f"from={run}", "weights=raw", f"base={weights}", "dtype=bfloat16", f"to={tmp_path}/p")
    trained = read_checkpoint(find_checkpoint(run))["state_dict"]
    pipeline = CogVideoXPipeline.from_pretrained(tmp_path / "p", torch_dtype=torch.bfloat16)
    expected = {name.removeprefix("denoiser."): tensor.bfloat16() for name, tensor in trained.items()}
    assert same(pipeline.transformer.state_dict(), expected)
    check_text_to_video(capfd, run, weights, tmp_path)


@torch.no_grad()
def check_text_to_video(capfd, run, weights, tmp_path):
    """The stock pipeline and our own sampling, without references, make the same clip of the same noise."""
    size, prompt, steps = {"num_frames": 9, "height": 32, "width": 48}, "a person, 1", 4
    export(capfd, f"from={run}", "weights=raw", f"base={weights}", "dtype=float32", f"to={tmp_path}/stock")
    pipeline = CogVideoXPipeline.from_pretrained(tmp_path / "stock", torch_dtype=torch.float32)
    # The pipeline stretches positions to the size of pre-training; the published one samples at that size.
    pipeline.transformer.register_to_config(sample_height=4, sample_width=6)
    pipeline.scheduler = CogVideoXDDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)

    model, conditions, _ = load_run(str(run), {"weights_dir": str(weights.parent)}, "raw")
    draws = Draws([7])
    settings = {"num_inference_steps": steps, "guidance_scale": 6.0}
    ours = model.generate(
        request_batch(conditions, [SampleRequest(prompt, [])]), draws, solver="ddim", **settings, **size
    )
    noise = draws.normal("noise", model.autoencoder.latent_shape(**size))
    embeds = model.text_encoder([prompt])
    stock = pipeline(
        prompt_embeds=embeds,
        negative_prompt_embeds=torch.zeros_like(embeds),
        latents=noise.transpose(1, 2),
        output_type="pt",
        **settings,
        **size,
    ).frames
    torch.testing.assert_close(pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)[0], embeds)
    # The eps of the last norm is 1e-5 there and 1e-6 here: 2.5e-5 of a pixel's range was measured.
    torch.testing.assert_close(ours.transpose(1, 2) / 2 + 0.5, stock, atol=2e-4, rtol=0)
    assert stock.std() > 0.05


@pytest.mark.filterwarnings("ignore")
def test_run_of_the_lora_experiment_is_exported_as_adapters_and_whole(capfd, toy_settings, tmp_path):
    settings = ("experiment=concat_id_lora", "debug=tiny", *toy_settings, f"paths.output_root={tmp_path}", "run_name=x")
    outcome = call(capfd, "train", *settings, "trainer.max_steps=2", "~callbacks.log_samples")
    assert outcome.code == 0, outcome.error
    export(capfd, f"from={tmp_path}/x", "weights=raw", f"to={tmp_path}/lora")
    export(capfd, f"from={tmp_path}/x", "weights=raw", "merge_lora=true", "dtype=float32", f"to={tmp_path}/full")
    adapters = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    merged = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "full").state_dict()
    lora = read_checkpoint(find_checkpoint(tmp_path / "x"))["config"]["model"]["lora"]
    name = "transformer_blocks.1.attn1.to_v"
    difference = adapters[f"transformer.{name}.lora_B.weight"] @ adapters[f"transformer.{name}.lora_A.weight"]
    start = instantiate_denoiser(tmp_path / "x").state_dict()
    torch.testing.assert_close(
        merged[f"{name}.weight"], start[f"{name}.weight"] + lora["alpha"] / lora["rank"] * difference
    )
    assert torch.equal(merged["proj_out.weight"], start["proj_out.weight"])


def instantiate_denoiser(run):
    """Return the denoiser that a run started from, made of the configuration in its checkpoint."""
    config = OmegaConf.create(read_checkpoint(find_checkpoint(run))["config"])
    return instantiate(config.backbone.denoiser, _convert_="all")


def test_raw_weights_and_step_of_a_run_reach_its_sat_folder(capfd, tiny_run, tmp_path):
    export(capfd, f"from={tiny_run}", "format=sat", "weights=raw", "dtype=bfloat16", f"to={tmp_path}/sat")
    checkpoint = read_checkpoint(find_checkpoint(tiny_run))
    assert (tmp_path / "sat" / "latest").read_text() == str(checkpoint["global_step"])
    (file,) = (tmp_path / "sat").glob("*/*.pt")
    written = torch.load(file, weights_only=True)["module"]["model.diffusion_model.time_embed.0.bias"]
    assert torch.equal(written, checkpoint["state_dict"]["denoiser.time_embedding.linear_1.bias"].bfloat16())


@pytest.mark.parametrize("has_index", [False, True])
def test_exported_pipeline_is_loaded_by_the_stock_class(capfd, base, tmp_path, has_index):
    model = tiny_transformer()
    write_sat(tmp_path / "sat", model)
    parts = base
    if has_index:
        export(capfd, f"from={tmp_path}/sat", f"base={base}", f"to={tmp_path}/first")
        parts = tmp_path / "first"
    outcome = export(capfd, f"from={tmp_path}/sat", f"base={parts}", f"to={tmp_path}/p")
    assert "format=diffusers" in outcome.log
    pipeline = CogVideoXPipeline.from_pretrained(tmp_path / "p")
    assert same(pipeline.transformer.state_dict(), model.state_dict())
    assert same(pipeline.vae.state_dict(), tiny_vae().state_dict())
    assert type(pipeline.scheduler).__name__ == "CogVideoXDPMScheduler"
    settings = pipeline.scheduler.config
    assert settings.prediction_type == "v_prediction" and settings.rescale_betas_zero_snr
    assert settings.snr_shift_scale == 1.0 and settings.timestep_spacing == "trailing"
    assert settings.beta_schedule == "scaled_linear" and (settings.beta_start, settings.beta_end) == (0.00085, 0.012)
    clip = pipeline(
        "abc", num_frames=9, height=16, width=16, num_inference_steps=2, max_sequence_length=226, output_type="pt"
    ).frames
    assert clip.shape == (1, 9, 3, 16, 16) and torch.isfinite(clip).all()
    assert json.loads((tmp_path / "p" / "model_index.json").read_text())["_class_name"] == "CogVideoXPipeline"


def test_pipeline_of_sin_cos_positions_gets_the_schedule_of_the_2b_model(capfd, base, tmp_path):
    model = tiny_transformer(use_rotary_positional_embeddings=False)
    model.save_pretrained(tmp_path / "t")
    export(capfd, f"from={tmp_path}/t", f"base={base}", f"to={tmp_path}/p")
    pipeline = CogVideoXPipeline.from_pretrained(tmp_path / "p")
    assert pipeline.scheduler.config.snr_shift_scale == 3.0
    assert same(pipeline.transformer.state_dict(), model.state_dict())
    assert "its positions are not rotary" in refused(capfd, f"from={tmp_path}/t", f"to={tmp_path}/sat")


def test_whole_pipeline_is_cast_and_large_files_of_the_base_take_no_room(capfd, base, tmp_path):
    tiny_transformer().save_pretrained(base / "transformer")
    large = base / "text_encoder" / "large.safetensors"
    large.write_bytes(bytes(2 << 20))
    export(capfd, f"from={base}", "format=diffusers", f"base={base}", "dtype=float16", f"to={tmp_path}/p")
    export(capfd, f"from={tmp_path}/p", "format=diffusers", "dtype=bfloat16", f"to={tmp_path}/q")
    found = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "q" / "transformer", torch_dtype=torch.bfloat16)
    assert same(found.state_dict(), {n: t.half().bfloat16() for n, t in tiny_transformer().state_dict().items()})
    assert os.path.samefile(large, tmp_path / "q" / "text_encoder" / "large.safetensors")
    assert not os.path.samefile(base / "vae" / "config.json", tmp_path / "q" / "vae" / "config.json")
    large.unlink()


def test_vae_is_exported_alone_and_into_a_pipeline(capfd, base, tmp_path):
    torch.manual_seed(5)
    vae = tiny_vae(5)
    write_sat_vae(tmp_path / "3d-vae.pt", vae)
    write_sat(tmp_path / "sat", tiny_transformer())
    export(capfd, f"from={tmp_path}/3d-vae.pt", f"to={tmp_path}/vae")
    for place in ("3d-vae.pt", "vae"):
        target = tmp_path / f"p_{place}"
        export(capfd, f"from={tmp_path}/sat", f"base={base}", f"vae={tmp_path / place}", f"to={target}")
        assert same(CogVideoXPipeline.from_pretrained(target).vae.state_dict(), vae.state_dict())
    export(capfd, f"from={tmp_path}/vae", f"to={tmp_path}/back")
    assert (tmp_path / "back" / "3d-vae.pt").is_file()


def test_lora_run_is_exported_as_adapters_or_folded_in(capfd, base, tmp_path):
    denoiser = tiny_transformer()
    denoiser.save_pretrained(tmp_path / "base" / "transformer")
    denoiser.add_adapter(LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    run = write_run(tmp_path / "a.ckpt", denoiser)
    export(capfd, f"from={run}", f"to={tmp_path}/lora")
    assert [path.name for path in (tmp_path / "lora").iterdir()] == ["pytorch_lora_weights.safetensors"]
    export(
        capfd, f"from={run}", "merge_lora=true", f"base={tmp_path}/base", "format=transformer", f"to={tmp_path}/full"
    )
    weight = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "full").transformer_blocks[0].attn1.to_q.weight
    layer = denoiser.transformer_blocks[0].attn1.to_q
    up, down = layer.lora_B.default.weight, layer.lora_A.default.weight
    torch.testing.assert_close(weight, layer.base_layer.weight + 6 / 4 * (up * 0.5) @ (down * 0.5))  # the average's
    others = {"proj_out.weight": torch.ones(16, 32), "transformer_blocks.0.attn1.to_q.base_layer.bias": torch.ones(32)}
    adapters = {name: value for name, value in denoiser.state_dict().items() if "lora_" in name}
    state_dict = {f"denoiser.{name}": value for name, value in (adapters | others).items()}
    both = write_run(tmp_path / "b.ckpt", denoiser, f"{tmp_path}/base/transformer", state_dict=state_dict)
    assert "beside its LoRA" in refused(capfd, f"from={both}", "weights=raw", f"to={tmp_path}/x")
    export(capfd, f"from={both}", "weights=raw", "merge_lora=true", f"to={tmp_path}/both")
    merged = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "both")
    assert (merged.proj_out.weight == 1).all() and (merged.transformer_blocks[0].attn1.to_q.bias == 1).all()
    assert "format=sat, but" in refused(capfd, f"from={run}", "format=sat", f"to={tmp_path}/x")
    assert "merge_lora=true needs the weights" in refused(capfd, f"from={run}", "merge_lora=true", f"to={tmp_path}/x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["to=x"], "from must be given"),
        (["from=x"], "to must be given"),
        (["from=gone", "to=x"], "there is no gone; read are"),
        (["from={sat}", "to={sat}"], "exists: name another folder"),
        (
            ["from={sat}", "to=x", "format=lora"],
            "format=lora, but .* holds a transformer: use transformer or diffusers",
        ),
        (["from={sat}", "to=x", "format=onnx"], "format=onnx, but"),
        (["from={sat}", "to=x", "merge_lora=true"], "holds no LoRA"),
        (["from={sat}", "to=x", "dtype=int8"], "dtype='int8' is not one of"),
        (["from={sat}", "to=x", "weights=best"], "weights=best is not one of ema, raw"),
        (["from={sat}", "to=x", "weights=ema"], "give weights=raw"),
        (["from={sat}/1", "to=x", "weights=ema"], "holds one set only"),
        (["from={sat}", "to=x", "max_shard_size=big"], "max_shard_size=big is not a size"),
        (["from={sat}", "to=x", "format=sat", "base={base}"], "base=.* has no effect with format=sat"),
        (["from={sat}", "to=x", "vae={base}/vae"], "vae=.* has no effect with format=transformer"),
        (["from={sat}", "to=x", "format=diffusers"], "base=FOLDER must hold its other parts"),
        (["from={sat}", "to=x", "base=gone"], "base=gone is no folder"),
        (["from={sat}", "to=x", "base={sat}"], "has no text_encoder, tokenizer, vae"),
        (["from={sat}", "to=x", "base={base}", "vae={sat}"], "vae=.* holds a CogVideoXTransformer3DModel"),
        (["from={wide}", "to=x", "base={base}"], "text encoder of base=.* has 16 channels, .* takes 24"),
        (["from={sat}", "to=x", "formt=sat"], "did you mean format"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(capfd, base, tmp_path, monkeypatch, arguments, message):
    import re

    monkeypatch.chdir(tmp_path)
    sat = write_sat(tmp_path / "sat", tiny_transformer())
    wide = write_sat(tmp_path / "wide", tiny_transformer(text_embed_dim=24))
    before = sorted(tmp_path.iterdir())
    error = refused(capfd, *(argument.format(sat=sat, base=base, wide=wide) for argument in arguments))
    assert re.search(message, error), error
    assert sorted(tmp_path.iterdir()) == before
