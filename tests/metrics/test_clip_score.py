import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil, CLIPModel

from likeness.metrics.clip_score import AestheticLayers, AestheticPredictor, AestheticScore, CLIPScore
from likeness.metrics.image_features import CLIPFeatures, clip_pixels
from likeness.metrics.model_files import MODEL_FILES

from .tiny_models import write_clip


@pytest.fixture(scope="module")
def weights_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_clip(folder)
    write_clip(folder, "clip_vit_l14", projection_dim=768)
    torch.manual_seed(2)
    torch.save(AestheticLayers().state_dict(), folder / MODEL_FILES["laion_aesthetic"].path)
    return str(folder)


@pytest.fixture(scope="module")
def features(weights_dir):
    return CLIPFeatures(weights_dir=weights_dir)


def clip(num_frames: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 40, 56, 3), np.uint8)


def score(features, frames, prompt, **settings) -> float:
    metric = CLIPScore(features=features, **settings)
    metric.update(frames, prompt)
    return next(iter(metric.compute().values())).item()


def test_pixels_are_those_of_the_librarys_processor():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for frames in (clip(), clip().transpose(0, 2, 1, 3)):
        expected = processor(images=list(frames), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(clip_pixels(frames, 32), expected, atol=1e-5, rtol=0)


def test_score_is_the_models_logit_over_its_scale(features, weights_dir):
    model = CLIPModel.from_pretrained(f"{weights_dir}/{MODEL_FILES['clip_vit_b32'].path}")
    tokens = features.tokenizer(["abc de"], return_tensors="pt")
    with torch.inference_mode():
        logits = model(**tokens, pixel_values=clip_pixels(clip(), 32)).logits_per_image / model.logit_scale.exp()
    expected = 100 * logits.mean().item()
    assert score(features, clip(), "abc de", num_frames=None) == pytest.approx(expected, abs=1e-4)


def test_swapped_colours_have_their_own_name_and_score(features):
    metric = CLIPScore(features=features, bgr=True)
    metric.update(clip(), "abc")
    swapped = metric.compute()
    assert list(swapped) == ["clip_score_bgr"]
    assert swapped["clip_score_bgr"].item() == pytest.approx(score(features, clip()[..., ::-1], "abc"), abs=1e-5)
    assert abs(swapped["clip_score_bgr"].item() - score(features, clip(), "abc")) > 1e-3


def test_frames_are_spaced_as_asked(features):
    assert CLIPScore(features=features)._indices(40).tolist() == [int(i * 40 / 16) for i in range(16)]
    assert CLIPScore(features=features, spacing="ends", num_frames=3)._indices(9).tolist() == [0, 4, 8]
    for wrong in ({"spacing": "random"}, {"num_frames": 0}):
        with pytest.raises(ValueError, match="is not consisid or ends|at least 1"):
            CLIPScore(features=features, **wrong)


def test_long_prompts_are_cut_and_missing_ones_left_out(features):
    assert np.isfinite(score(features, clip(), "abc " * 100))
    metric = CLIPScore(features=features)
    metric.update(clip(), "abc")
    metric.update(clip(seed=1), "  ")
    assert metric.per_clip()["clip_score"].isnan().tolist() == [False, True]
    assert metric.compute()["clip_score"].item() == pytest.approx(score(features, clip(), "abc"), abs=1e-5)
    assert metric.notes() == ["clip_score: 1 of 2 clips are left out, which have no prompt"]


def test_aesthetic_score_is_the_predictors_mean(weights_dir):
    features = CLIPFeatures(weights="clip_vit_l14", weights_dir=weights_dir)
    predictor = AestheticPredictor(features=features, weights_dir=weights_dir)
    metric = AestheticScore(predictor=predictor, num_frames=32)
    metric.update(clip())
    values = metric.compute()
    with torch.inference_mode():
        ratings = predictor.layers(torch.nn.functional.normalize(features(clip()), dim=1))
    expected = ratings[np.linspace(0, len(ratings) - 1, 32).astype(int)].mean().item()  # OpenS2V-Eval's frames
    assert values["aesthetic_score"].item() == pytest.approx(expected, abs=1e-5)
    assert values["aesthetic_share"].item() == 0  # a predictor with random weights says less than 4
    assert "laion_aesthetic@" in metric.features and "clip-vit-large-patch14@" in metric.features
    assert list(AestheticLayers().state_dict())[-2:] == ["layers.7.weight", "layers.7.bias"]
