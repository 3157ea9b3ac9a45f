import json
import os
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from likeness.checkpoints.lightning import AtomicCheckpointIO
from likeness.checkpoints.networks import empty_model, find_class, transformer_config, vae_config
from likeness.checkpoints.sat import transformer_from_sat, transformer_to_sat, vae_from_sat, vae_to_sat
from likeness.checkpoints.sources import read_source
from likeness.checkpoints.writing import write_network
from likeness.models.loading import load_denoiser

from ..conftest import REPOSITORY
from .tiny import (
    loaded,
    same,
    tiny_transformer,
    tiny_vae,
    write_fine_tuned_sat,
    write_sat,
    write_sat_vae,
)

CLASS = "diffusers.CogVideoXTransformer3DModel"


@pytest.fixture(scope="module")
def model():
    return tiny_transformer()


@pytest.fixture(scope="module")
def state_dict(model):
    return model.state_dict()


def has_settings_of(source, model) -> bool:
    found = empty_model(source.model_class, source.config).config
    return all(found[name] == value for name, value in model.config.items() if not name.startswith("_"))


def test_published_sat_folder_is_read(tmp_path, model, state_dict):
    source = read_source(write_sat(tmp_path / "sat", model))
    assert source.is_sat and not source.is_vae
    assert same(loaded(source), state_dict)
    assert has_settings_of(source, model)


def test_release_folder_is_read(tmp_path, model, state_dict):
    source = read_source(write_sat(tmp_path / "sat", model, "release", "release"))
    assert same(loaded(source), state_dict)


def test_published_pipeline_of_sat_is_read_through_its_transformer(tmp_path, model, state_dict):
    write_sat(tmp_path / "sat" / "transformer", model)
    assert same(loaded(read_source(tmp_path / "sat")), state_dict)


def test_fine_tuned_sat_file_is_read_without_its_other_parts(tmp_path, model, state_dict):
    path = write_fine_tuned_sat(tmp_path / "5" / "mp_rank_00_model_states.pt", model)
    assert same(loaded(read_source(path)), state_dict)
    assert same(loaded(read_source(path.parent)), state_dict)


def test_sat_file_of_the_old_format_and_without_prefix_is_read(tmp_path, model, state_dict):
    plain = {name.removeprefix("model.diffusion_model."): t for name, t in transformer_to_sat(state_dict).items()}
    path = tmp_path / "a.pt"
    torch.save({"module": plain}, path, _use_new_zipfile_serialization=False)
    assert same(loaded(read_source(path)), state_dict)


def test_average_of_a_sat_folder_is_found_without_renaming(tmp_path, model):
    average = tiny_transformer(1)
    folder = write_sat(tmp_path / "sat", model, "100", "100")
    with pytest.raises(ValueError, match=r"there is no .*100-ema.*weights=raw"):
        read_source(folder, "ema")
    assert same(loaded(read_source(folder)), model.state_dict())
    write_sat(folder, average, "100-ema", None)
    for weights, expected in ((None, average), ("ema", average), ("raw", model)):
        assert same(loaded(read_source(folder, weights)), expected.state_dict())
    assert same(loaded(read_source(folder / "100-ema")), average.state_dict())
    with pytest.raises(ValueError, match="holds one set only"):
        read_source(folder / "100-ema", "ema")


@pytest.mark.parametrize("shard_size", ["10GB", "20KB"])
def test_diffusers_folder_is_read_whole_or_in_shards(tmp_path, model, state_dict, shard_size):
    model.save_pretrained(tmp_path / "t", max_shard_size=shard_size)
    assert len(list((tmp_path / "t").glob("*.safetensors"))) == 1 or shard_size == "20KB"
    source = read_source(tmp_path / "t")
    assert same(loaded(source), state_dict)
    assert has_settings_of(source, model)


@pytest.mark.parametrize("convert", [dict, transformer_to_sat])
def test_safetensors_file_of_either_naming_is_read(tmp_path, model, state_dict, convert):
    save_file({name: tensor.contiguous() for name, tensor in convert(state_dict).items()}, tmp_path / "a.safetensors")
    source = read_source(tmp_path / "a.safetensors")
    assert same(loaded(source), state_dict)
    assert has_settings_of(source, model)


def test_vae_is_read_from_sat_and_from_diffusers(tmp_path):
    vae = tiny_vae()
    vae.save_pretrained(tmp_path / "vae")
    for place in (write_sat_vae(tmp_path / "3d-vae.pt", vae), tmp_path / "vae"):
        source = read_source(place)
        assert source.is_vae
        assert same(loaded(source), vae.state_dict())
        assert {name: source.config[name] for name in ("layers_per_block", "latent_channels", "scaling_factor")} == {
            "layers_per_block": 1,
            "latent_channels": 4,
            "scaling_factor": 0.7,
        }


def test_settings_of_the_full_size_networks_follow_from_their_shapes():
    lists = json.loads((REPOSITORY / "tests" / "golden" / "concat_id" / "full_keys.json").read_text())

    def on_meta(entries):
        return {name: torch.empty(shape, device="meta") for name, shape in entries}

    for part, convert, revert, derive, name in (
        ("transformer", transformer_from_sat, transformer_to_sat, transformer_config, "CogVideoXTransformer3DModel"),
        ("vae", vae_from_sat, vae_to_sat, vae_config, "AutoencoderKLCogVideoX"),
    ):
        tensors = convert(on_meta(lists[part]["reference"]))
        config = derive(tensors, lambda key, tensors=tensors: tuple(tensors[key].shape))
        model = empty_model(find_class(name), config)
        shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
        assert shapes == dict(map(tuple, lists[part]["diffusers"]))
        back = {key: list(tensor.shape) for key, tensor in revert(model.state_dict()).items()}
        assert back == dict(map(tuple, lists[part]["reference"]))
    assert len(lists["transformer"]["reference"]) == 773 and len(lists["transformer"]["diffusers"]) == 1024
    assert config["block_out_channels"] == [128, 256, 256, 512] and config["layers_per_block"] == 3


@pytest.mark.parametrize("place", ["sat", "sat/1/mp_rank_00_model_states.pt", "a.safetensors", "pipeline"])
def test_training_starts_from_any_of_them(tmp_path, model, state_dict, place):
    half = tiny_transformer().to(torch.bfloat16)
    write_sat(tmp_path / "sat", half)
    save_file(half.state_dict(), tmp_path / "a.safetensors")
    half.save_pretrained(tmp_path / "pipeline" / "transformer")
    denoiser = load_denoiser(architecture=CLASS, pretrained=str(tmp_path / place))
    assert same(denoiser.state_dict(), {name: t.float() for name, t in half.state_dict().items()})
    assert all(parameter.requires_grad for parameter in denoiser.parameters())
    shutil.rmtree(tmp_path / "sat")
    with torch.no_grad():
        denoiser.proj_out.weight.zero_()  # no page of the file is behind it


def test_settings_beside_a_published_file_are_refused(tmp_path, model):
    folder = str(write_sat(tmp_path / "sat", model))
    with pytest.raises(ValueError, match="config be left out"):
        load_denoiser(architecture=CLASS, pretrained=folder, config={"num_layers": 2})
    with pytest.raises(ValueError, match="holds a CogVideoXTransformer3DModel"):
        load_denoiser(architecture="diffusers.AutoencoderKLCogVideoX", pretrained=folder)


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_truncated_files_are_named(tmp_path, model, state_dict, share):
    save_file(state_dict, tmp_path / "a.safetensors")
    sat = write_sat(tmp_path / "sat", model)
    old = tmp_path / "old.pt"
    torch.save({"module": transformer_to_sat(state_dict)}, old, _use_new_zipfile_serialization=False)
    for path in (tmp_path / "a.safetensors", sat / "1" / "mp_rank_00_model_states.pt", old):
        with pytest.raises(ValueError, match=rf"{path.name} is cut off"):
            read_source(cut(path, share))


def change(**changes):
    """Return what a SAT state dict becomes with these tensors in place of its own; None takes one away."""

    def apply(state_dict):
        sat = {name.removeprefix("model.diffusion_model."): t for name, t in transformer_to_sat(state_dict).items()}
        sat |= changes
        return {name: tensor for name, tensor in sat.items() if tensor is not None}

    return apply


MODULATION = "mixins.adaln_layer.adaLN_modulations.1.1.weight"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            change(**{"transformer.layers.1.attention.dense.bias": None}),
            r"layers\.1\.attention\.dense\.bias is missing",
        ),
        (change(**{MODULATION: None}), r"adaLN_modulations\.1\.1\.weight is missing"),
        (change(**{MODULATION: torch.zeros(6 * 32, 8)}), r"1\.1\.weight has shape \(192, 8\) instead of \(384, 8\)"),
        (change(**{MODULATION: torch.zeros(10, 8)}), r"1\.1\.weight has shape \(10, 8\): its rows must be 12 parts"),
        (change(**{"mixins.patch_embed.text_proj.weight": None}), r"mixins\.patch_embed\.text_proj\.weight is missing"),
        (change(**{"mixins.patch_embed.proj.weight": torch.zeros(32, 16)}), r"\(32, 16\).*4 dimensions"),
        (change(**{"time_embed.2.bias": torch.zeros(9)}), r"time_embed\.2\.bias has shape \(9,\) instead of \(8,\)"),
        (change(**{"mixins.pos_embed.pos_embedding": torch.zeros(1, 9, 32)}), "CogVideoX-2B or an image-to-video"),
        (change(**{"mixins.lora.0.weight": torch.zeros(1)}), r"mixins\.lora\.0 is not a tensor of a SAT CogVideoX"),
    ],
)
def test_sat_file_that_is_not_whole_is_refused_in_its_own_names(tmp_path, state_dict, changed, message):
    torch.save({"module": changed(state_dict)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=rf"a\.pt.*{message}"):
        read_source(tmp_path / "a.pt")


def test_bare_file_of_the_2b_model_is_refused(tmp_path):
    model = tiny_transformer(num_attention_heads=30, attention_head_dim=64, num_layers=1)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors .*1920 channels are those of CogVideoX-2B"):
        read_source(tmp_path / "a.safetensors")


def test_shards_that_are_missing_are_named(tmp_path, model):
    model.save_pretrained(tmp_path / "t", max_shard_size="20KB")
    gone = sorted((tmp_path / "t").glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ValueError, match=rf"index\.json names {gone.name}, which is not there"):
        read_source(tmp_path / "t")


def test_folder_whose_weights_do_not_fit_its_settings_is_refused(tmp_path, model):
    model.save_pretrained(tmp_path / "t")
    config = json.loads((tmp_path / "t" / "config.json").read_text())
    (tmp_path / "t" / "config.json").write_text(json.dumps(config | {"time_embed_dim": 9}))
    with pytest.raises(ValueError, match=r"has shape .* instead of"):
        read_source(tmp_path / "t")


def test_foreign_files_and_folders_are_refused(tmp_path, model):
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        cross_attention_dim=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match=r"unet holds a UNet2DConditionModel; read are"):
        read_source(tmp_path / "unet")
    with pytest.raises(
        ValueError, match=r"neither a CogVideoX transformer nor its VAE \(first tensor: conv_in\.bias\)"
    ):
        read_source(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    torch.save({"state_dict": unet.state_dict()}, tmp_path / "unet.pt")
    with pytest.raises(ValueError, match="neither a CogVideoX transformer nor its VAE"):
        read_source(tmp_path / "unet.pt")
    model.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(ValueError, match=r"\.bin is a pickle"):
        read_source(tmp_path / "pickled")
    with pytest.raises(ValueError, match=r"\.bin is a pickle"):
        read_source(tmp_path / "pickled" / "diffusion_pytorch_model.bin")
    (tmp_path / "a.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"neither a file of torch\.save nor"):
        read_source(tmp_path / "a.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list"):
        read_source(tmp_path / "list.pt")
    torch.save({"iteration": 3}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="iteration is a int"):
        read_source(tmp_path / "other.pt")
    (tmp_path / "sat").mkdir()
    (tmp_path / "sat" / "latest").write_text("newest")
    with pytest.raises(ValueError, match="must hold the number of an iteration or `release`, not 'newest'"):
        read_source(tmp_path / "sat")
    (tmp_path / "sat" / "latest").write_text("7")
    with pytest.raises(ValueError, match=r"names 7, but there is no .*mp_rank_00_model_states\.pt"):
        read_source(tmp_path / "sat")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.pt").touch()
    with pytest.raises(ValueError, match=r"none of the folders that are known \(a\.pt"):
        read_source(tmp_path / "other")


def test_a_pickle_that_runs_code_is_refused_without_running_it(tmp_path, state_dict):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    for is_zip in (True, False):
        content = {"module": transformer_to_sat(state_dict), "attack": Attack()}
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
        with pytest.raises(ValueError, match="objects are never unpickled"):
            read_source(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def write_run(path, denoiser, pretrained, state_dict, **more):
    backbone = {"architecture": CLASS, "pretrained": pretrained}
    content = {
        "state_dict": {f"denoiser.{name}": tensor for name, tensor in state_dict.items()} | more,
        "config": {"backbone": {"denoiser": backbone}, "model": {}, "paths": {}},
        "global_step": 7,
    }
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path


@pytest.mark.parametrize("base", ["sat", "folder"])
def test_run_takes_settings_and_frozen_parts_from_where_it_started(tmp_path, base):
    start, trained = tiny_transformer(0, max_text_seq_length=30), tiny_transformer(1)
    write_sat(tmp_path / "sat", start)
    start.save_pretrained(tmp_path / "folder")
    attention = {name: tensor for name, tensor in trained.state_dict().items() if ".attn1." in name}
    source = read_source(write_run(tmp_path / "a.ckpt", trained, str(tmp_path / base), attention))
    assert source.step == 7 and not source.is_sat
    assert same(loaded(source), start.state_dict() | attention)
    assert source.config.get("max_text_seq_length") == (30 if base == "folder" else None)


def test_settings_of_a_run_whose_start_is_gone_come_from_its_shapes(tmp_path, model, state_dict, caplog):
    path = write_run(tmp_path / "a.ckpt", model, "/gone", state_dict)
    source = read_source(path, "raw")
    assert same(loaded(source), state_dict)
    assert has_settings_of(source, model)
    assert "/gone is not here" in caplog.text
    with pytest.raises(ValueError, match="has no weight average: give weights=raw"):
        read_source(path, "ema")


def test_denoiser_of_a_methods_own_is_built_as_in_training(tmp_path):
    from likeness.models.denoisers.wan import ReferenceWanTransformer, load_wan

    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "num_layers": 1}
    settings = {"config": {**sizes, "text_dim": 8, "freq_dim": 8, "ffn_dim": 16}, "reference_modulation": "own"}
    trained = {name: tensor + 1 for name, tensor in load_wan(**settings).state_dict().items()}
    content = {
        "state_dict": {f"denoiser.{name}": tensor for name, tensor in trained.items()},
        "config": {
            "backbone": {"denoiser": {"_target_": "likeness.models.denoisers.wan.load_wan", **settings}},
            "model": {},
        },
        "global_step": 1,
    }
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "a.ckpt")
    source = read_source(tmp_path / "a.ckpt")
    assert source.model_class is ReferenceWanTransformer
    write_network(tmp_path / "t", source, None, "5GB")
    assert same(load_wan(pretrained=str(tmp_path / "t"), reference_modulation="own").state_dict(), trained)


def test_run_that_trained_more_than_the_denoiser_is_refused(tmp_path, model, state_dict):
    path = write_run(tmp_path / "a.ckpt", model, "/gone", state_dict, **{"face_encoder.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"trained face_encoder\.weight, which is not part of the denoiser"):
        read_source(path)
