"""The published recipe on a tiny checkpoint in the published layout: everything that `debug=tiny` leaves out."""

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from likeness.checkpoints.lightning import read_checkpoint

from .commands import call
from .conftest import clip_sample, write_picture, write_shards


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as `hf download zai-org/CogVideoX-5b` makes it, with random weights and few of them."""
    folder = tmp_path_factory.mktemp("weights") / "CogVideoX-5b"
    torch.manual_seed(0)
    CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=2,
        max_text_seq_length=226,
        use_rotary_positional_embeddings=True,
    ).to(torch.bfloat16).save_pretrained(folder / "transformer")
    AutoencoderKLCogVideoX(
        latent_channels=4,
        block_out_channels=[16, 16, 16, 16],
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.7,
    ).save_pretrained(folder / "vae")
    T5EncoderModel(T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=300)).save_pretrained(
        folder / "text_encoder"
    )
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789,."]
    T5Tokenizer(vocab=vocabulary).save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return write_shards(folder / "train", [clip_sample(f"k{i}", i, num_frames=20) for i in range(4)])


def recipe(weights, shards, outputs, *arguments: str) -> list[str]:
    return [
        "experiment=concat_id",
        f"backbone.weights={weights}",
        f"datamodule.train={shards}",
        f"datamodule.val={shards}",
        f"paths.output_root={outputs}",
        "run_name=published",
        "datamodule.num_frames=9",
        "datamodule.height=32",
        "datamodule.width=48",
        "datamodule.num_workers=2",
        "trainer.accelerator=cpu",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "trainer.accumulate_grad_batches=2",
        "callbacks.checkpoint.every_n_train_steps=4",
        "sampling.num_inference_steps=2",
        *arguments,
    ]


@pytest.mark.filterwarnings("ignore")
def test_recipe_trains_from_published_weights_and_samples(weights, shards, tmp_path, capfd):
    outcome = call(capfd, "train", *recipe(weights, shards, tmp_path))
    assert outcome.code == 0, outcome.error
    checkpoint = read_checkpoint(tmp_path / "published" / "checkpoints" / "step_0000004.ckpt")
    assert checkpoint["state_dict"]["denoiser.proj_out.weight"].dtype == torch.float32  # masters, below bf16 arithmetic
    assert checkpoint["ema"]["num_updates"] == 4
    picture = write_picture(tmp_path / "me.png")
    sampled = call(
        capfd,
        "sample",
        f"ckpt={tmp_path / 'published'}",
        "prompt='a person, 1'",
        f"references=[{picture}]",
        f"output={tmp_path / 's'}",
        "dtype=bfloat16",
    )
    assert sampled.code == 0, sampled.error
    assert (tmp_path / "s" / "clips" / "00000_0.mp4").is_file()


def test_two_processes_train_together(weights, shards, tmp_path, capfd):
    outcome = call(
        capfd,
        "train",
        *recipe(
            weights, shards, tmp_path, "trainer.devices=2", "trainer.strategy=ddp_fork", "trainer.precision=32-true"
        ),
    )
    assert outcome.code == 0, outcome.error
    assert (tmp_path / "published" / "checkpoints" / "step_0000004.ckpt").is_file()


def test_other_frozen_weights_than_in_training_are_refused(weights, shards, tmp_path, capfd):
    import shutil

    copy = tmp_path / "weights" / "CogVideoX-5b"
    shutil.copytree(weights, copy)
    settings = recipe(
        copy, shards, tmp_path, "~callbacks.log_samples", "trainer.max_steps=4", "datamodule.num_workers=0"
    )
    settings[1] = "paths.weights_dir=" + str(copy.parent)
    assert call(capfd, "train", *settings).code == 0
    torch.manual_seed(1)
    AutoencoderKLCogVideoX(
        latent_channels=4, block_out_channels=[16, 16, 16, 16], layers_per_block=1, norm_num_groups=4
    ).save_pretrained(copy / "vae")
    picture = write_picture(tmp_path / "me.png")
    outcome = call(
        capfd,
        "sample",
        f"ckpt={tmp_path / 'published'}",
        "prompt=x",
        f"references=[{picture}]",
        f"paths.weights_dir={copy.parent}",
        f"output={tmp_path / 's'}",
    )
    assert outcome.code == 1
    assert "the checkpoint was trained with another autoencoder" in outcome.error


def test_weights_that_are_missing_at_sampling_are_named(weights, shards, tmp_path, capfd):
    settings = recipe(
        weights,
        shards,
        tmp_path,
        "~callbacks.log_samples",
        "trainer.max_steps=2",
        "callbacks.checkpoint.every_n_train_steps=2",
    )
    settings[1] = f"paths.weights_dir={weights.parent}"
    assert call(capfd, "train", *settings).code == 0
    picture = write_picture(tmp_path / "me.png")
    outcome = call(
        capfd,
        "sample",
        f"ckpt={tmp_path / 'published'}",
        "prompt=x",
        f"references=[{picture}]",
        "paths.weights_dir=/gone",
    )
    assert outcome.code == 1
    assert "the checkpoint needs the weights at /gone/CogVideoX-5b" in outcome.error
    assert "hf download" in outcome.error
