"""The face parser on a tiny SegFormer with random weights, saved as the published one is."""

import numpy as np
import pytest
import torch

from likeness.models.identity.segformer import SegFormerFaceParser, network_input


def save_segformer(folder, num_labels=19):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        num_labels=num_labels,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=16,
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_segformer(tmp_path_factory.mktemp("weights") / "face-parsing")


def picture(height, width) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(448, 448), (60, 90), (700, 520)])
def test_input_equals_what_transformers_makes_of_it(size):
    pil = pytest.importorskip("transformers.models.segformer.image_processing_pil_segformer")
    expected = pil.SegformerImageProcessorPil()(picture(*size), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(network_input(picture(*size)), expected, atol=1e-5)


def test_labels_are_those_of_the_upsampled_logits(folder):
    from transformers import SegformerForSemanticSegmentation

    image = picture(96, 80)
    labels = SegFormerFaceParser(folder=str(folder))(image)
    model = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(network_input(image))).logits
    expected = torch.nn.functional.interpolate(logits, (96, 80), mode="bilinear").argmax(1)[0]
    assert logits.shape == (1, 19, 128, 128)
    np.testing.assert_array_equal(labels, expected.numpy())
    assert len(np.unique(labels)) > 1


def test_missing_folder_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"hf download jonathandinu/face-parsing --local-dir .*gone\n.*parser=none"):
        SegFormerFaceParser(folder=str(tmp_path / "gone"))


def test_a_model_with_other_labels_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tells 5 labels apart, face parsing has 19"):
        SegFormerFaceParser(folder=str(save_segformer(tmp_path / "other", num_labels=5)))
