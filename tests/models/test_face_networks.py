import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from likeness.metrics.model_files import MODEL_FILES, MissingModel
from likeness.models.identity.analyzer import ARCFACE_TEMPLATE
from likeness.models.identity.curricularface import CurricularFace, CurricularFaceEmbedder, aligned_face
from likeness.models.identity.sphere20 import FFHQ_TEMPLATE, Sphere20, Sphere20Embedder, arcface_from_ffhq
from likeness.models.identity.weights import load_network

SMALL = {"units": (1, 2), "widths": (4, 4, 8), "embedding_dim": 6, "input_size": (16, 16)}


def small() -> CurricularFace:
    return CurricularFace(**SMALL)


def picture(seed: int = 0) -> np.ndarray:
    """A picture of 300 x 260 pixels that changes slowly, as photographs do."""
    rows, columns = np.mgrid[:300, :260]
    waves = [np.sin(rows / (17 + seed) + phase) + np.cos(columns / 23 + phase) for phase in (0, 1, 2)]
    return ((np.stack(waves, -1) + 2) * 63).astype(np.uint8)


KEYPOINTS = ARCFACE_TEMPLATE * 1.7 + [40, 60]


def test_weights_survive_both_kinds_of_file(tmp_path):
    network = small().eval()
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "face.safetensors")
    torch.save(state, tmp_path / "face.bin")
    faces = torch.randn(2, 3, 16, 16)
    for name in ("face.safetensors", "face.bin"):
        other = load_network(small, tmp_path / name)
        torch.testing.assert_close(other(faces), network(faces))
        assert not other.training
        assert not any(parameter.requires_grad for parameter in other.parameters())


@pytest.mark.parametrize("embedder", [CurricularFaceEmbedder, Sphere20Embedder])
def test_missing_weights_are_told_with_their_place_licence_and_source(embedder, tmp_path):
    with pytest.raises(MissingModel, match=r"are not at .*/metrics/.* Get them with(.|\n)*licence: trained on"):
        embedder(weights_dir=str(tmp_path))


def test_foreign_file_says_which_names_are_expected(tmp_path):
    network = small()
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.bin")
    with pytest.raises(ValueError, match=r"1 are unknown \(conv1.weight\).*expected names are input_layer.0.weight"):
        load_network(small, tmp_path / "other.bin")
    state = network.state_dict() | {"output_layer.3.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "wide.bin")
    with pytest.raises(ValueError, match=r"1 have another shape \(output_layer.3.bias\)"):
        load_network(small, tmp_path / "wide.bin")


def test_nothing_is_unpickled_but_tensors(tmp_path):
    torch.save({"network": small()}, tmp_path / "module.bin")
    with pytest.raises(ValueError, match="never unpickled"):
        load_network(small, tmp_path / "module.bin")


def test_widths_must_name_the_stem():
    with pytest.raises(ValueError, match="must have one entry more"):
        CurricularFace(units=(1, 2), widths=(4, 8))


def test_aligned_face_equals_opencvs_warp_and_resize():
    cv2 = pytest.importorskip("cv2")
    from likeness.models.identity.analyzer import similarity_transform

    matrix = similarity_transform(KEYPOINTS, 2 * ARCFACE_TEMPLATE)
    expected = cv2.resize(cv2.warpAffine(picture(), matrix, (224, 224), borderValue=0.0), (112, 112))
    difference = np.abs(aligned_face(picture(), KEYPOINTS).astype(int) - expected)
    # OpenCV warps with 5 bits of a pixel: its picture is the coarser one.
    assert difference.max() <= 2
    assert difference.mean() < 0.2


def test_sphere20_has_the_published_size():
    assert sum(parameter.numel() for parameter in Sphere20().parameters()) == 24_501_952


def test_celeb_basis_warp_zooms_out_as_published():
    faces = torch.zeros(1, 3, 512, 512)
    eyes = FFHQ_TEMPLATE[:2].round().astype(int)
    for x, y in eyes:
        faces[0, :, y - 3 : y + 4, x - 3 : x + 4] = 1
    columns = np.nonzero(arcface_from_ffhq(faces)[0, 0].numpy() > 0.3)[1]
    left, right = columns[columns < 56].mean(), columns[columns > 56].mean()
    assert right - left == pytest.approx(25.4, abs=0.6)  # ArcFace's template has 35.2


def test_embedders_find_the_same_face_wherever_it_is(tmp_path):
    state = {name: 0.02 * torch.randn(value.shape) for name, value in Sphere20().state_dict().items()}
    path = tmp_path / MODEL_FILES["sphere20_vggface2"].path
    path.parent.mkdir()
    torch.save(state, path)
    embedder = Sphere20Embedder(weights_dir=str(tmp_path))
    image = picture()
    moved = np.zeros((400, 400, 3), np.uint8)
    moved[50:350, 70:330] = image
    one, two = embedder(image, [KEYPOINTS]), embedder(moved, [KEYPOINTS + np.array([70, 50])])
    assert one.shape == (1, 512)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(one, two, atol=1e-4)
