"""SVD Xtend's weights for others: files of a precision, adapters of a strength."""

import json
import re

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from safetensors.torch import load_file

from likeness.checkpoints.sources import read_source
from likeness.generation import load_run
from likeness.models.loading import load_denoiser
from likeness.models.lora import LoRA, scale_lora

from ..commands import call
from ..conftest import write_picture
from . import test_svd_xtend
from .test_svd_xtend import ATTENTION, build, picture, theirs, train, write_run

pipeline_folder = test_svd_xtend.pipeline_folder


def export(capfd, *arguments) -> None:
    outcome = call(capfd, "export", *map(str, arguments))
    assert outcome.code == 0, outcome.error


@pytest.mark.parametrize(
    ("variant", "dtype", "shards"),
    [("fp16", torch.float16, []), ("bf16", torch.bfloat16, ["max_shard_size=200KB"])],
)
def test_variant_is_loaded_by_its_name_beside_the_other_parts_as_they_are(
    pipeline_folder, tmp_path, capfd, variant, dtype, shards
):
    model = build(pipeline_folder)
    ckpt = write_run(tmp_path / "run.ckpt", model, pipeline_folder)
    export(capfd, f"from={ckpt}", f"base={pipeline_folder}", f"variant={variant}", f"to={tmp_path}/out", *shards)
    files = [path.name for path in (tmp_path / "out" / "unet").glob("*.safetensors")]
    assert (len(files) > 1) == bool(shards) and all(f".{variant}" in name for name in files)
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "out", variant=variant)
    expected = {name: value.to(dtype).float() for name, value in model.denoiser.state_dict().items()}
    assert all(torch.equal(value, expected[name]) for name, value in pipeline.unet.state_dict().items())
    for part in ("vae", "image_encoder"):
        (file,) = (tmp_path / "out" / part).glob("*.safetensors")
        assert {value.dtype for value in load_file(file).values()} == {torch.float32}
    if not shards:
        assert np.isfinite(theirs(pipeline, 3, picture(), num_inference_steps=1)).all()
    back = load_denoiser(
        architecture="diffusers.UNetSpatioTemporalConditionModel", pretrained=f"{tmp_path}/out/unet", dtype="float32"
    )
    assert all(torch.equal(value, expected[name]) for name, value in back.state_dict().items())
    source = read_source(tmp_path / "out")
    assert {tensor.meta.dtype for tensor in source.tensors.values()} == {dtype}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["variant=fp8"], "variant=fp8 is not one of fp16, bf16"),
        (["variant=fp16", "dtype=float32"], "variant=fp16 names files in float16: dtype=float32"),
        (["lora_scale=0.5"], "lora_scale=0.5, but .* holds no LoRA"),
    ],
)
def test_export_settings_that_contradict_are_refused(pipeline_folder, tmp_path, capfd, arguments, message):
    ckpt = write_run(tmp_path / "run.ckpt", build(pipeline_folder), pipeline_folder)
    outcome = call(capfd, "export", f"from={ckpt}", f"to={tmp_path}/out", *arguments)
    assert outcome.code == 1
    assert re.search(message, outcome.error), outcome.error


@pytest.mark.filterwarnings("ignore")
def test_strength_of_a_lora_is_that_of_its_file_its_merged_weights_and_its_samples(tmp_path, capfd, toy_settings):
    run = train(capfd, tmp_path, "run", *toy_settings, "trainer.max_steps=2", "backbone.denoiser.dtype=float32")
    for scale in (1, 0.5):
        export(capfd, f"from={run}", f"lora_scale={scale}", "weights=raw", f"to={tmp_path}/{scale}")
    export(capfd, f"from={run}", "lora_scale=0.5", "weights=raw", "merge_lora=true", f"to={tmp_path}/merged")
    whole, half = (load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("1", "0.5"))
    for name, value in whole.items():
        torch.testing.assert_close(half[name], value * (0.5 if name.endswith("up.weight") else 1))
    merged = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path / "merged")
    model = load_run(run, {"weights_dir": "."}, "raw")[0]
    inputs = {
        "sample": torch.randn(1, 2, 8, 4, 4, generator=torch.Generator().manual_seed(4)),
        "timestep": torch.tensor([0.4]),
        "encoder_hidden_states": torch.ones(1, 1, 32),
        "added_time_ids": torch.ones(1, 3),
    }
    outputs = {}
    for scale in (1, 0.5, 0):
        scale_lora(model, scale)
        with torch.no_grad():
            outputs[scale] = model.denoiser(**inputs).sample
    torch.testing.assert_close(merged(**inputs).sample, outputs[0.5], rtol=1e-4, atol=1e-4)
    assert (outputs[1] - outputs[0.5]).abs().max() > 1e-3 < (outputs[0.5] - outputs[0]).abs().max()

    write_picture(tmp_path / "pictures" / "0.png")
    arguments = [f"ckpt={run}", f"inputs={tmp_path}/pictures", "lora_scale=0.5", f"output={tmp_path}/out"]
    outcome = call(capfd, "sample", *arguments)
    assert outcome.code == 0, outcome.error
    (line,) = (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    assert json.loads(line)["lora_scale"] == 0.5


def test_strength_without_a_lora_is_refused():
    with pytest.raises(ValueError, match=r"lora_scale=0\.5, but the run has no LoRA"):
        scale_lora(build(), 0.5)
    scale_lora(build(), 1)
    scale_lora(build(lora=LoRA(**ATTENTION)), 0.5)


@pytest.mark.filterwarnings("ignore")
def test_adapters_of_a_network_with_boxes_are_written_for_the_stock_network(tmp_path, capfd, toy_settings):
    words = ["experiment=tracklet2video", "debug=tiny", "model.trained=null", "lora=svd", "model.lora.rank=4"]
    words += [*toy_settings, "trainer.max_steps=1", "~callbacks.log_samples"]
    outcome = call(capfd, "train", *words, f"paths.output_root={tmp_path}", "run_name=run")
    assert outcome.code == 0, outcome.error
    export(capfd, f"from={tmp_path}/run", f"to={tmp_path}/lora")
    names = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors").keys()
    assert names and not [name for name in names if ".fuser." in name or "position_net" in name]
