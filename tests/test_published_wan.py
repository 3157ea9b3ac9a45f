"""The Wan recipe on a tiny checkpoint in the published layout: everything that `debug=tiny` leaves out."""

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from likeness.checkpoints.lightning import read_checkpoint

from .commands import call
from .conftest import clip_sample, write_picture, write_shards


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as `hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers` makes it, with random weights and few of them."""
    folder = tmp_path_factory.mktemp("weights") / "Wan2.1-T2V-1.3B"
    torch.manual_seed(0)
    WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=64,
        num_layers=2,
    ).save_pretrained(folder / "transformer")
    AutoencoderKLWan(
        base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 2.0, 1.0]
    ).save_pretrained(folder / "vae")
    UMT5EncoderModel(
        UMT5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=300)
    ).save_pretrained(folder / "text_encoder")
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789,."]
    T5Tokenizer(vocab=vocabulary).save_pretrained(folder / "tokenizer")
    return folder


@pytest.mark.filterwarnings("ignore")
def test_recipe_trains_from_plain_wan_and_samples_in_bfloat16(weights, tmp_path, capfd):
    shards = write_shards(tmp_path / "train", [clip_sample(f"k{i}", i, num_frames=20) for i in range(2)])
    outcome = call(
        capfd,
        "train",
        "experiment=concat_id_wan",
        f"backbone.weights={weights}",
        f"datamodule.train={shards}",
        f"datamodule.val={shards}",
        f"paths.output_root={tmp_path}",
        "run_name=published",
        "datamodule.num_frames=9",
        "datamodule.height=32",
        "datamodule.width=48",
        "datamodule.num_workers=0",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "callbacks.checkpoint.every_n_train_steps=2",
        "sampling.num_inference_steps=2",
    )
    assert outcome.code == 0, outcome.error
    tensors = read_checkpoint(tmp_path / "published" / "checkpoints" / "step_0000002.ckpt")["state_dict"]
    assert tensors["denoiser.time_proj_ref.weight"].dtype == torch.float32
    assert tensors["denoiser.blocks.1.scale_shift_table_ref"].shape == (1, 6, 48)
    picture = write_picture(tmp_path / "me.png")
    sampled = call(
        capfd,
        "sample",
        f"ckpt={tmp_path / 'published'}",
        "prompt='a person, 1'",
        f"references=[{picture}]",
        f"output={tmp_path / 's'}",
        "dtype=bfloat16",
        "sampling.negative_prompt=grey",
    )
    assert sampled.code == 0, sampled.error
    assert (tmp_path / "s" / "clips" / "00000_0.mp4").is_file()
