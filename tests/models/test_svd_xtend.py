"""SVD Xtend: what the clip is told, what is trained, and stock diffusers' pipeline as the measure of sampling."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from peft import PeftConfig
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from likeness.checkpoints.lightning import AtomicCheckpointIO, read_checkpoint
from likeness.datamodules.conditions import Clip, FirstFrame, SampleRequest, request_batch
from likeness.datamodules.frames import ChosenFrames
from likeness.datamodules.samples import BadSample, Sample
from likeness.models.autoencoders import TemporalDecoderAutoencoder
from likeness.models.diffusion import edm
from likeness.models.draws import Draws
from likeness.models.image_encoders import CLIPImageEncoder
from likeness.models.loading import load_denoiser
from likeness.models.lora import LoRA
from likeness.models.svd_xtend import SVDConditioning, SVDXtend

from ..commands import call
from ..conftest import write_picture
from .tracklets import STOCK as UNET

VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "block_out_channels": [32] * 4,
    "layers_per_block": 1,
}
CLIP = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 32, "num_hidden_layers": 1}
CLIP |= {"num_attention_heads": 4, "image_size": 224, "patch_size": 56}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}
ATTENTION = {"targets": ["to_q", "to_k", "to_v", "to_out.0"], "rank": 4, "alpha": 4}


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory):
    """A tiny stock pipeline with random weights, saved by the library."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("svd") / "base"
    pipeline = StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder(**VAE),
        image_encoder=CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP)),
        unet=UNetSpatioTemporalConditionModel(**UNET),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessorPil(),
    )
    pipeline.save_pretrained(folder)
    return folder


def build(folder=None, method=SVDXtend, **settings) -> SVDXtend:
    source = partial(lambda config, part: {"pretrained": f"{folder}/{part}"} if folder else {"config": config})
    architecture = "diffusers.UNetSpatioTemporalConditionModel"
    return method(
        denoiser=load_denoiser(architecture=architecture, **source(UNET, "unet")),
        autoencoder=TemporalDecoderAutoencoder(**source(VAE, "vae")),
        image_encoder=CLIPImageEncoder(**source(CLIP, "image_encoder")),
        **{"optimizer": partial(torch.optim.AdamW, lr=1e-3), **settings},
    )


def batch_of(count: int = 2, num_frames: int = 3) -> dict:
    pixels = torch.rand(count, 3, num_frames, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return {
        "pixel_values": pixels,
        "image_pixel_values": pixels[:, :, :1],
        "fps": torch.tensor([8.0, 25.0])[:count],
        "motion_bucket_id": torch.tensor([127.0, 40.0])[:count],
        "caption": [""] * count,
    }


def conditioning_of(count: int = 2) -> SVDConditioning:
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[6.0, 127, 0.02], [24.0, 40, 0.1]])[:count]
    return SVDConditioning(
        torch.randn(count, 1, 32, generator=generator), torch.randn(count, 4, 1, 4, 4, generator=generator), ids
    )


def picture(seed: int = 0) -> np.ndarray:
    """A smooth picture of another shape than the clip."""
    y, x = np.mgrid[:60, :100] / 100
    channels = [np.sin(5 * x + seed), np.cos(4 * y), np.sin(3 * (x + y))]
    return ((np.stack(channels, axis=-1) + 1) * 127).astype(np.uint8)


def ours(model: SVDXtend, seeds, pictures, **sampling) -> np.ndarray:
    """Frames (b f h w 3) in [0, 1], as sample.py makes them."""
    condition = {"first_frame": FirstFrame(height=32, width=64)}
    batch = request_batch(condition, [SampleRequest("", [one]) for one in pictures])
    clips = model.eval().generate(batch, Draws(seeds), num_frames=4, height=32, width=64, **sampling)
    return (clips / 2 + 0.5).permute(0, 2, 3, 4, 1).numpy()


def theirs(pipeline, seed: int, image: np.ndarray, **sampling) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    size = {"num_frames": 4, "height": 32, "width": 64}
    return pipeline(Image.fromarray(image), **size, **sampling, generator=generator, output_type="np").frames[0]


@pytest.mark.parametrize(
    "sampling",
    [
        {"num_inference_steps": 3},
        {
            "num_inference_steps": 2,
            "fps": 12,
            "motion_bucket_id": 30,
            "noise_aug_strength": 0.3,
            "decode_chunk_size": 3,
        },
        {"num_inference_steps": 2, "min_guidance_scale": 1.0, "max_guidance_scale": 1.0},
        {"num_inference_steps": 2, "min_guidance_scale": 2.0, "max_guidance_scale": 5.0},
    ],
)
def test_samples_are_those_of_the_stock_pipeline(pipeline_folder, sampling):
    model, pipeline = build(pipeline_folder), StableVideoDiffusionPipeline.from_pretrained(pipeline_folder)
    clips = ours(model, [7, 8], [picture(), picture(1)], **sampling)
    for seed, image, clip in zip([7, 8], [picture(), picture(1)], clips, strict=True):
        difference = np.abs(clip - theirs(pipeline, seed, image, **sampling)).max()
        assert difference < 1 / 255, difference  # 3e-4 is usual: float32 sums of another order


def test_both_forms_of_the_loss_are_the_same_number():
    noise, latents = torch.randn(2, 2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    sigmas = torch.tensor([0.5, 20.0])
    losses = [build(loss_form=form).loss(latents, conditioning_of(), noise, sigmas) for form in ("v", "x0")]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)


def test_a_clip_of_a_batch_is_predicted_as_alone():
    model, both = build().eval(), conditioning_of()
    noisy, sigmas = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0.5, 20.0])
    together = model.predict(noisy, sigmas, both)
    for row in range(2):
        one = SVDConditioning(*(value[row : row + 1] for value in vars(both).values()))
        alone = model.predict(noisy[row : row + 1], sigmas[row : row + 1], one)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_output_and_noise_and_latents_convert_into_each_other():
    latents, noise = torch.randn(2, 3, 4, 2, 5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sigmas = torch.tensor([0.01, 1.0, 300.0], dtype=torch.float64)
    noisy, output = edm.add_noise_at(latents, noise, sigmas), edm.velocity_at(latents, noise, sigmas)
    torch.testing.assert_close(edm.latents_from_output(noisy, output, sigmas), latents)
    torch.testing.assert_close(edm.noise_from_output(noisy, output, sigmas), noise)


def test_time_ids_are_each_clips_own_and_the_originals_are_not():
    batch, draws = batch_of(), Draws([1, 2])
    ids = build().condition(batch, draws, augment=True).time_ids
    assert ids[:, :2].tolist() == [[7, 127], [24, 40]]
    assert ids[0, 2] != ids[1, 2]
    original = build(compat="original").condition(batch, draws, augment=True).time_ids
    assert original[:, :2].tolist() == [[7, 127], [7, 127]]
    assert original[0, 2] == original[1, 2] == ids[0, 2]


def test_frames_encoded_in_chunks_have_the_same_latents():
    pixels = batch_of(num_frames=5)["pixel_values"]
    whole, chunked = (
        TemporalDecoderAutoencoder(config=VAE),
        TemporalDecoderAutoencoder(config=VAE, num_frames_per_encode=2),
    )
    for left, right in zip(whole.posterior(pixels), chunked.posterior(pixels), strict=True):
        assert left.shape == (2, 4, 5, 4, 4)
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_temporal_preset_trains_the_temporal_transformers_alone():
    model = build(trained=["*temporal_transformer_block*"])
    trained = model.trained_parameters()
    assert trained and all("temporal_transformer_block" in name for name in trained)
    model.step_losses(batch_of(), Draws([1, 2])).mean().backward()
    assert {name for name, value in model.named_parameters() if value.grad is not None} == set(trained)


def test_without_the_picture_the_picture_does_not_matter():
    model, noise = build().eval(), torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    one, other = conditioning_of(), conditioning_of()
    other = SVDConditioning(-other.image_embeds, -other.image_latents, other.time_ids)
    settings = {"num_inference_steps": 2, "max_guidance_scale": 1.0}
    samples = [model.sample(c, noise, Draws([1, 2]), drop_image=True, **settings) for c in (one, other)]
    assert torch.equal(*samples)
    assert not torch.equal(model.sample(one, noise, Draws([1, 2]), **settings), samples[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditioning_dropout": 0.4}, r"must lie in \[0, 1/3\]"),
        ({"compat": "origin"}, "compat='origin' is not one of corrected, original: model.compat"),
        ({"sigmas": [0.7]}, r"sigmas=\[0.7\] must be a mean and a deviation above 0: model.sigmas"),
        ({"image_noise": [0.7, 0]}, "image_noise=.* must be a mean and a deviation above 0: model.image_noise"),
        ({"sigma_sampler": "cosin"}, "is not one of lognormal, cosine"),
        ({"loss_form": "e"}, "is not one of v, x0"),
    ],
)
def test_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_time_ids_that_do_not_fit_the_network_are_refused():
    denoiser = UNetSpatioTemporalConditionModel(**{**UNET, "projection_class_embeddings_input_dim": 128})
    with pytest.raises(ValueError, match=r"projection_class_embeddings_input_dim=128 must equal .*96"):
        SVDXtend(
            denoiser=denoiser,
            autoencoder=TemporalDecoderAutoencoder(config=VAE),
            image_encoder=CLIPImageEncoder(config=CLIP),
            optimizer=torch.optim.AdamW,
        )


def train(capfd, outputs, name, *arguments):
    # Sampling has its own tests, and the sizes are those of a test.
    outcome = call(
        capfd,
        "train",
        "experiment=svd_xtend_lora",
        "debug=tiny",
        *arguments,
        f"paths.output_root={outputs}",
        f"run_name={name}",
        "datamodule.num_frames=2",
        "datamodule.height=32",
        "datamodule.width=32",
        "callbacks.log_samples.num_clips=0",
        "callbacks.checkpoint.every_n_train_steps=2",
        "trainer.val_check_interval=2",
    )
    assert outcome.code == 0, outcome.error
    return outputs / name


@pytest.mark.filterwarnings("ignore")
def test_lora_run_resumes_to_the_weights_of_one_run_and_samples_a_folder_of_pictures(tmp_path, capfd, toy_settings):
    whole = train(capfd, tmp_path, "whole", *toy_settings, "trainer.max_steps=4")
    half = train(capfd, tmp_path, "half", *toy_settings, "trainer.max_steps=2")
    again = ["trainer.max_steps=4", "ckpt=last", "model.optimizer.lr=1"]  # which changes nothing, as it says
    train(capfd, tmp_path, "half", *toy_settings, *again)
    said = (half / "train.log").read_text()
    assert "model.optimizer.lr is not what the run began with, and has no effect" in said
    ends = [read_checkpoint(run / "checkpoints" / "step_0000004.ckpt")["state_dict"] for run in (whole, half)]
    assert ends[0] and all("lora_" in name for name in ends[0])
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    listed = json.loads((half / "parameters.json").read_text())
    assert {f"denoiser.{name}" for name in listed["trained"]} == ends[0].keys()
    assert listed["frozen"] and not any("lora_" in name for name in listed["frozen"])
    for number in range(2):
        write_picture(tmp_path / "pictures" / f"{number}.png", seed=number)
    outcome = call(
        capfd, "sample", f"ckpt={half}", f"inputs={tmp_path}/pictures", f"output={tmp_path}/out", "sampling.fps=12"
    )
    assert outcome.code == 0, outcome.error
    lines = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [line["source_references"] for line in lines] == [[f"{tmp_path}/pictures/{number}.png"] for number in (0, 1)]
    assert all((tmp_path / "out" / line["video"]).is_file() and len(line["references"]) == 1 for line in lines)


def test_first_frame_comes_with_the_rate_of_the_chosen_frames_and_the_clips_own_motion():
    frames = torch.randint(0, 255, (3, 3, 32, 32), dtype=torch.uint8)
    clip = Clip(ChosenFrames([2, 6, 10]), lambda: (frames, None))
    condition = FirstFrame(height=32, width=32, motion_bucket_id=100.0)
    loaded = condition.load(Sample("a", "shard", {}, {"fps": 24.0}), clip)
    assert torch.equal(loaded["image_pixel_values"], frames[:, :1])
    assert (float(loaded["fps"]), float(loaded["motion_bucket_id"])) == (6.0, 100.0)
    loaded = condition.load(Sample("a", "shard", {}, {"fps": 24.0, "motion_bucket_id": 30}), clip)
    assert float(loaded["motion_bucket_id"]) == 30.0
    with pytest.raises(BadSample, match="no frame rate"):
        condition.load(Sample("a", "shard", {}, {}), clip)


def test_rate_is_by_the_distance_of_frames_also_where_the_last_is_repeated():
    frames = torch.zeros(3, 4, 32, 32, dtype=torch.uint8)
    clip = Clip(ChosenFrames([0, 4, 8, 8]), lambda: (frames, None))
    loaded = FirstFrame(height=32, width=32).load(Sample("a", "shard", {}, {"fps": 24.0}), clip)
    assert float(loaded["fps"]) == 6.0


def test_without_conditioning_dropout_nothing_is_dropped():
    def any_dropped(share: float | None) -> bool:
        model = build(conditioning_dropout=share)
        made = [model.condition(batch_of(), Draws([seed, seed + 1]), augment=True) for seed in range(0, 16, 2)]
        return any(not rows.any() for one in made for rows in (*one.image_embeds, *one.image_latents))

    assert not any_dropped(None)
    assert any_dropped(1 / 3)


def test_several_pictures_for_one_clip_are_refused():
    condition = FirstFrame(height=32, width=32)
    with pytest.raises(ValueError, match="2 pictures were given for a clip: this method wants one"):
        condition.from_request(SampleRequest("", [picture(), picture()]))


def write_run(path, model: SVDXtend, folder, **model_settings):
    """A checkpoint as train.py writes it, of weights that differ from where the run started."""
    torch.manual_seed(5)
    for value in model.trained_parameters().values():
        value.data += 0.05 * torch.randn_like(value)
    content = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    architecture = "diffusers.UNetSpatioTemporalConditionModel"
    denoiser = {"architecture": architecture, "pretrained": f"{folder}/unet"}
    content |= {
        "config": {"backbone": {"denoiser": denoiser}, "model": model_settings, "paths": {}},
        "global_step": 1,
    }
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path


def test_exported_pipeline_makes_our_frames(pipeline_folder, tmp_path, capfd):
    model = build(pipeline_folder)
    ckpt = write_run(tmp_path / "run.ckpt", model, pipeline_folder)
    outcome = call(capfd, "export", f"from={ckpt}", f"base={pipeline_folder}", f"to={tmp_path}/out")
    assert outcome.code == 0, outcome.error
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "out")
    exported = theirs(pipeline, 3, picture(), num_inference_steps=3)
    assert np.abs(ours(model, [3], [picture()], num_inference_steps=3)[0] - exported).max() < 1 / 255
    start = StableVideoDiffusionPipeline.from_pretrained(pipeline_folder)
    assert np.abs(theirs(start, 3, picture(), num_inference_steps=3) - exported).max() > 2 / 255


@pytest.mark.parametrize("alpha", [4, 6])
def test_exported_lora_loads_into_the_stock_network_and_folds_into_the_pipeline(
    pipeline_folder, tmp_path, capfd, alpha
):
    from diffusers.loaders import PeftAdapterMixin

    class Adaptable(UNetSpatioTemporalConditionModel, PeftAdapterMixin):
        """What the original's own file adds to the stock class."""

    settings = {**ATTENTION, "alpha": alpha}
    model = build(pipeline_folder, lora=LoRA(**settings)).eval()
    ckpt = write_run(tmp_path / "run.ckpt", model, pipeline_folder, lora=settings)
    assert call(capfd, "export", f"from={ckpt}", f"to={tmp_path}/lora").code == 0
    outcome = call(
        capfd, "export", f"from={ckpt}", "merge_lora=true", f"base={pipeline_folder}", f"to={tmp_path}/merged"
    )
    assert outcome.code == 0, outcome.error
    adapted = Adaptable.from_pretrained(pipeline_folder / "unet").eval()
    adapted.load_lora_adapter(tmp_path / "lora" / "pytorch_lora_weights.safetensors", prefix="unet")
    assert isinstance(adapted.peft_config["default_0"], PeftConfig)
    merged = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path / "merged" / "unet").eval()
    inputs = {
        "sample": torch.randn(1, 3, 8, 4, 4, generator=torch.Generator().manual_seed(4)),
        "timestep": torch.tensor([0.4]),
        "encoder_hidden_states": conditioning_of(1).image_embeds,
        "added_time_ids": conditioning_of(1).time_ids,
    }
    with torch.no_grad():
        expected = model.denoiser(**inputs).sample
        torch.testing.assert_close(adapted(**inputs).sample, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(merged(**inputs).sample, expected, rtol=1e-4, atol=1e-4)
