import numpy as np
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from likeness.metrics.frechet import FrechetVideoDistance
from likeness.metrics.i3d import InceptionI3D
from likeness.metrics.inception import InceptionV3
from likeness.metrics.model_files import MODEL_FILES, MissingModel
from likeness.metrics.protocols import RULES, Protocol, bytes_as_float, short_side_and_crop, stretched_unit
from likeness.metrics.video_features import RENAMED, SmallVideoFeatures, VideoMAEFeatures

torch.set_num_threads(1)


class I3DStub(torch.nn.Module):
    """Has the interface of StyleGAN-V's TorchScript file, and 400 features that tell what it was given."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        facts = torch.tensor([float(rescale), float(resize), float(x.shape[2]), float(x.shape[3]), float(x.shape[4])])
        range_of = torch.stack([x.min(), x.max()])
        row = torch.cat([facts, range_of, torch.zeros(393)])
        return row[None].repeat(x.shape[0], 1)


@pytest.fixture
def weights_dir(tmp_path):
    path = tmp_path / MODEL_FILES["i3d_torchscript"].path
    path.parent.mkdir(parents=True)
    torch.jit.script(I3DStub()).save(str(path))
    return str(tmp_path)


def clip(num_frames: int = 20, height: int = 60, width: int = 80) -> np.ndarray:
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), np.uint8)
    frames[0, 0, 0], frames[0, 0, 1] = 0, 255
    return frames


def test_styleganv_leaves_pixels_to_the_network_and_takes_16_frames(weights_dir):
    protocol = Protocol(name="styleganv_2048_16f", weights_dir=weights_dir)
    chosen = protocol.choose(20)
    rescale, resize, *size, low, high = protocol(clip()[chosen])[:7].tolist()
    assert (rescale, resize, size, low, high) == (1, 1, [16, 60, 80], 0, 255)
    assert protocol.choose(15) is None  # short clips are discarded
    assert protocol.choose(20, start=7) == slice(2, 18)  # real clips begin anywhere
    assert protocol.ddof == 0


def test_common_metrics_takes_all_frames_scaled_and_cropped_by_itself(weights_dir):
    protocol = Protocol(name="common_metrics", weights_dir=weights_dir)
    rescale, resize, *size, low, high = protocol(clip()[protocol.choose(20)])[:7].tolist()
    assert (rescale, resize, size) == (0, 0, [20, 224, 224])
    assert -1 <= low < -0.9 and 0.9 < high <= 1
    assert protocol.choose(9) is None  # I3D needs 10
    assert protocol.ddof == 1


def test_pixels_of_each_protocol():
    frames = clip()
    assert bytes_as_float(frames).shape == (1, 3, 20, 60, 80)
    stretched = stretched_unit(frames)
    assert stretched.shape == (1, 3, 20, 224, 224) and stretched.min() >= 0 and stretched.max() <= 1
    cropped = short_side_and_crop(frames)
    assert cropped.shape == (1, 3, 20, 224, 224)
    wide = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    wide = torch.nn.functional.interpolate(wide, (224, 299), mode="bilinear", align_corners=False)
    torch.testing.assert_close(cropped[0].transpose(0, 1), wide[..., 37 : 37 + 224] * 2 - 1)
    flat = np.full((10, 30, 30, 3), 51, np.uint8)
    torch.testing.assert_close(short_side_and_crop(flat), torch.full((1, 3, 10, 224, 224), 51 / 127.5 - 1))


def test_another_number_of_frames_is_another_protocol(weights_dir):
    names = {Protocol(name="common_metrics", weights_dir=weights_dir, num_frames=n).name for n in (None, 12, 16)}
    assert names == {"common_metrics", "common_metrics_12f", "common_metrics_16f"}
    metric = FrechetVideoDistance(protocol=Protocol(name="common_metrics", weights_dir=weights_dir, num_frames=12))
    assert metric.name == "fvd_common_metrics_12f" and metric.features.startswith("i3d_torchscript@")


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.weights])
def test_missing_weights_are_named_with_how_to_get_them(name, tmp_path):
    with pytest.raises(MissingModel, match=r"Get them with\n"):
        Protocol(name=name, weights_dir=str(tmp_path))


def test_unknown_protocol_and_too_few_frames_are_refused(weights_dir):
    with pytest.raises(ValueError, match="protocol fvd is not one of styleganv"):
        Protocol(name="fvd")
    with pytest.raises(ValueError, match="needs at least 10 frames"):
        Protocol(name="common_metrics", weights_dir=weights_dir, num_frames=4)


def test_published_networks_have_the_published_number_of_parameters():
    """I3D of arXiv 1705.07750 with 400 classes, and torchvision's Inception v3 without AuxLogits."""
    assert sum(weights.numel() for weights in InceptionI3D().parameters()) == 12_697_264
    classifier = 2048 * 1000 + 1000
    assert sum(weights.numel() for weights in InceptionV3().parameters()) + classifier == 23_834_568


def test_i3d_takes_ten_frames():
    with torch.inference_mode():
        assert InceptionI3D().eval()(torch.zeros(1, 3, 10, 224, 224)).shape == (1, 400)


def videomae(**settings) -> VideoMAEForVideoClassification:
    config = VideoMAEConfig(
        image_size=28,
        patch_size=14,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        layer_norm_eps=1e-6,
        **settings,
    )
    model = VideoMAEForVideoClassification(config).eval()
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3, generator=torch.Generator().manual_seed(weights.numel()))
    return model


def test_videomae_features_are_the_normed_mean_of_tokens(tmp_path):
    model = videomae(use_mean_pooling=True)
    model.save_pretrained(tmp_path / "folder")
    pixels = torch.rand(1, 3, 4, 28, 28)
    features = VideoMAEFeatures(path=tmp_path / "folder")
    with torch.inference_mode():
        expected = model.classifier(features(pixels))
        torch.testing.assert_close(model(pixels.transpose(1, 2)).logits, expected)
    videomae(use_mean_pooling=False).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="without mean pooling"):
        VideoMAEFeatures(path=tmp_path / "other")


def test_weights_of_videomae_v2_are_read(tmp_path):
    model = videomae(use_mean_pooling=True)
    model.fc_norm.eps = 1e-6
    names = {new: old for old, new in RENAMED.items() if "q_bias" not in old and "v_bias" not in old}
    published = {"head.weight": torch.zeros(3, 16), "head.bias": torch.zeros(3)}
    for name, tensor in model.state_dict().items():
        for new, old in names.items():
            name = f".{name}.".replace(f".{new}.", f".{old}.").strip(".")
        if "attention.attention" not in name and not name.startswith("classifier"):
            published[name] = tensor
    for number, layer in enumerate(model.videomae.encoder.layer):
        attention, stem = layer.attention.attention, f"blocks.{number}.attn"
        parts = [attention.query.weight, attention.key.weight, attention.value.weight]
        published[f"{stem}.qkv.weight"] = torch.cat(parts).detach()
        published |= {f"{stem}.q_bias": attention.query.bias.detach(), f"{stem}.v_bias": attention.value.bias.detach()}
    torch.save({"module": published}, tmp_path / "videomae.pth")
    features = VideoMAEFeatures(path=tmp_path / "videomae.pth", num_heads=2, image_size=28, num_frames=4)
    pixels = torch.rand(1, 3, 4, 28, 28)
    with torch.inference_mode():
        expected = model.fc_norm(model.videomae(pixels.transpose(1, 2)).last_hidden_state.mean(dim=1))
        torch.testing.assert_close(features(pixels), expected)


def test_own_features_are_the_same_everywhere_and_see_order_and_stillness():
    frames = bytes_as_float(np.linspace(0, 255, 12 * 16 * 16 * 3).astype(np.uint8).reshape(12, 16, 16, 3))
    features = SmallVideoFeatures()
    values = features(frames)[0]
    assert values.shape == (64,)
    torch.testing.assert_close(values[:3], torch.tensor(EXPECTED), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(features(frames.flip(2))[0], values, atol=1e-2)
    assert not torch.allclose(features(frames[:, :, :1].expand_as(frames))[0], values, atol=1e-2)


EXPECTED = [-0.507671, -2.982931, 4.324243]
