"""Checkpoints of the network with boxes: TrackDiffusion's folders and ours in, a run out, and what is refused."""

import json

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, UNetSpatioTemporalConditionModel
from safetensors.torch import load_file, save_file

from likeness.checkpoints.lightning import find_checkpoint, read_checkpoint
from likeness.checkpoints.sources import read_source
from likeness.models.denoisers.tracklet_unet import TrackletUNet, load_tracklet_unet

from ..commands import call
from ..models.tracklets import STOCK, boxes_of, inputs_of, tiny

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def published(tmp_path):
    """A checkpoint folder as TrackDiffusion's training writes it, of the stock class's name; its network."""
    denoiser = tiny(gate=0.5, seed=4)
    folder = tmp_path / "checkpoint-1000" / "unet"
    UNetSpatioTemporalConditionModel(**STOCK).save_config(folder)
    save_file(denoiser.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})
    (folder.parent / "optimizer.bin").write_bytes(b"")
    return folder, denoiser


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_trackdiffusions_folder_is_known_by_its_tensors(published):
    folder, expected = published
    for place in (folder, folder.parent):
        assert same(load_tracklet_unet(pretrained=str(place)), expected)
    source = read_source(folder)
    assert source.model_class is TrackletUNet and source.part == "unet"
    assert (source.config["box_dim"], source.config["label_dim"]) == (7, 0)


@pytest.mark.parametrize("settings", [{}, {"box_dim": 8, "instance_enhancer": "decoder", "num_slots": 6}])
def test_our_own_folder_comes_back_with_its_settings(tmp_path, settings):
    denoiser = tiny(gate=0.5, **settings)
    denoiser.save_pretrained(tmp_path / "unet")
    again = load_tracklet_unet(pretrained=str(tmp_path / "unet"), **settings).eval()
    assert same(again, denoiser)
    assert {name: again.config[name] for name in settings} == settings
    told = boxes_of(box_dim=settings.get("box_dim", 7))
    with torch.no_grad():
        assert torch.equal(again(**inputs_of(), **told).sample, denoiser(**inputs_of(), **told).sample)


def test_an_enhancer_can_join_a_trained_network_and_changes_nothing_at_first(published):
    folder, trained = published
    enhanced = load_tracklet_unet(pretrained=str(folder), instance_enhancer="decoder", num_slots=4).eval()
    kept = trained.state_dict()
    assert all(torch.equal(enhanced.state_dict()[name], value) for name, value in kept.items())
    assert enhanced.state_dict().keys() - kept.keys()
    with torch.no_grad():
        expected = trained(**inputs_of(), **boxes_of()).sample
        assert torch.equal(enhanced(**inputs_of(), **boxes_of()).sample, expected)


def change(folder, **values: torch.Tensor | None) -> None:
    tensors = load_file(folder / WEIGHTS)
    for name, value in values.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({f"{BLOCK}.fuser.linear.weight": None}, r"fuser\.linear\.weight is missing"),
        ({"position_net.null_position_feature": None}, r"position_net\.null_position_feature is missing"),
        ({"conv_out.weight": None}, r"conv_out\.weight is missing"),
        ({"box_controller.weight": torch.zeros(1)}, r"box_controller\.weight is none of it"),
        (
            {f"{BLOCK}.fuser.linear.weight": torch.zeros(32, 16)},
            r"fuser\.linear\.weight has shape \(32, 16\) instead of",
        ),
        ({"position_net.null_position_feature": torch.zeros(80)}, "box_dim=5 is not one of 4, 7, 8"),
    ],
)
def test_partial_and_foreign_checkpoints_are_refused_by_the_name_of_a_tensor(published, values, message):
    folder, _ = published
    change(folder, **values)
    with pytest.raises(ValueError, match=message):
        load_tracklet_unet(pretrained=str(folder))


def test_half_a_stock_network_is_refused(tmp_path):
    UNetSpatioTemporalConditionModel(**STOCK).save_pretrained(tmp_path)
    change(tmp_path, **{f"{BLOCK}.attn1.to_q.weight": None})
    with pytest.raises(ValueError, match=r"attn1\.to_q\.weight is missing"):
        load_tracklet_unet(pretrained=str(tmp_path))


def test_other_settings_than_the_folder_has_are_refused(published, tmp_path):
    folder, _ = published
    with pytest.raises(ValueError, match=r"was trained with box_dim=7: set backbone\.denoiser\.box_dim"):
        load_tracklet_unet(pretrained=str(folder), box_dim=8)
    tiny(instance_enhancer="decoder").save_pretrained(tmp_path / "enhanced")
    with pytest.raises(ValueError, match="was trained with instance_enhancer=decoder"):
        load_tracklet_unet(pretrained=str(tmp_path / "enhanced"))
    with pytest.raises(ValueError, match="was trained with num_slots=20"):
        load_tracklet_unet(pretrained=str(tmp_path / "enhanced"), instance_enhancer="decoder", num_slots=5)
    with pytest.raises(ValueError, match="needs either `pretrained`"):
        load_tracklet_unet(pretrained=str(folder), config=STOCK)


def test_another_network_is_refused(tmp_path):
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, text_embed_dim=8
    )
    transformer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a CogVideoXTransformer3DModel, not the network of Stable Video"):
        load_tracklet_unet(pretrained=str(tmp_path))


def train(capfd, outputs, experiment: str, *arguments: str):
    outcome = call(
        capfd,
        "train",
        f"experiment={experiment}",
        "debug=tiny",
        *arguments,
        f"paths.output_root={outputs}",
        f"run_name={experiment}",
        "datamodule.num_frames=2",
        "datamodule.height=32",
        "datamodule.width=32",
        "datamodule.batch_size=1",
        "trainer.limit_val_batches=1",
        "callbacks.log_samples.num_clips=0",
        "callbacks.checkpoint.every_n_train_steps=2",
        "trainer.val_check_interval=2",
        "trainer.max_steps=2",
    )
    assert outcome.code == 0, outcome.error
    return outputs / experiment


@pytest.mark.filterwarnings("ignore")
def test_stage_two_goes_on_from_stage_one_and_its_export_is_a_start_of_its_own(tmp_path, capfd, toy_settings):
    first = train(capfd, tmp_path, "tracklet2video_stage1", *toy_settings)
    second = train(capfd, tmp_path, "tracklet2video_stage2", *toy_settings, f"init_from={first}")
    assert call(capfd, "export", f"from={second}", "weights=raw", f"to={tmp_path}/unet").code == 0
    settings = json.loads((tmp_path / "unet" / "config.json").read_text())
    assert settings["_class_name"] == "TrackletUNet" and settings["box_dim"] == 7
    exported = load_tracklet_unet(pretrained=str(tmp_path / "unet")).state_dict()
    trained = read_checkpoint(find_checkpoint(second))["state_dict"]
    assert all(torch.equal(exported[name.removeprefix("denoiser.")], value) for name, value in trained.items())
    assert any(float(value.abs()) > 0 for name, value in trained.items() if "alpha_" in name)
    assert load_tracklet_unet(pretrained=str(second)).state_dict().keys() == exported.keys()
    outcome = call(capfd, "export", f"from={second}", f"base={tmp_path}", f"to={tmp_path}/pipeline")
    assert outcome.code == 1 and "has boxes, which no stock pipeline knows" in outcome.error
    assert not (tmp_path / "pipeline").exists()
