"""The insightface analyzer on a model pack written here: a detector of bright patches, a random recogniser."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("insightface", exc_type=ImportError)
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from likeness.models.identity.insightface import InsightFaceAnalyzer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def save(path, nodes, initializers, inputs, outputs):
    graph = helper.make_graph(nodes, "pack", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


def tensor(name, values):
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def write_detector(path):
    """An SCRFD-shaped network: scores follow the brightness of a cell, boxes and keypoints have a fixed size."""
    nodes, initializers, outputs = (
        [],
        [tensor_int("flat", [-1, 1]), tensor_int("flat4", [-1, 4]), tensor_int("flat10", [-1, 10])],
        [],
    )
    points = np.array([[-1, -1], [1, -1], [0, 0], [-1, 1], [1, 1]], np.float32).ravel()
    for kind, width, values in (("score", 1, None), ("bbox", 4, [2, 2, 2, 2]), ("kps", 10, points)):
        for stride in (8, 16, 32):
            weight, bias = (
                np.zeros((2 * width, 3, stride, stride), np.float32),
                np.tile(values if values is not None else [0], 2),
            )
            if kind == "score":
                weight[:] = 20 / (3 * stride * stride) if stride == 16 else 0
                bias = np.full(2, -16.0 if stride == 16 else -30.0)
            name = f"{kind}{stride}"
            initializers += [tensor(f"w_{name}", weight), tensor(f"b_{name}", bias)]
            nodes.append(
                helper.make_node(
                    "Conv",
                    ["input", f"w_{name}", f"b_{name}"],
                    [f"c_{name}"],
                    kernel_shape=[stride] * 2,
                    strides=[stride] * 2,
                )
            )
            nodes.append(helper.make_node("Transpose", [f"c_{name}"], [f"t_{name}"], perm=[0, 2, 3, 1]))
            shape = {"score": "flat", "bbox": "flat4", "kps": "flat10"}[kind]
            last = f"r_{name}" if kind == "score" else name
            nodes.append(helper.make_node("Reshape", [f"t_{name}", shape], [last]))
            if kind == "score":
                nodes.append(helper.make_node("Sigmoid", [last], [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]))
    save(
        path,
        nodes,
        initializers,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        outputs,
    )


def tensor_int(name, values):
    return numpy_helper.from_array(np.asarray(values, np.int64), name)


def write_recogniser(path):
    rng = np.random.default_rng(0)
    initializers = [
        tensor("w", rng.normal(size=(8, 3, 16, 16)) / 28),
        tensor("g", rng.normal(size=(8 * 49, 512)) / 20),
        tensor("b", np.zeros(512)),
    ]
    nodes = [
        helper.make_node("Conv", ["input.1", "w"], ["c"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "g", "b"], ["embedding"]),
    ]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 512])
    save(
        path,
        nodes,
        initializers,
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [output],
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("insightface")
    write_detector(root / "models" / "made" / "det.onnx")
    write_recogniser(root / "models" / "made" / "rec.onnx")
    return root


@pytest.fixture(scope="module")
def analyzer(root):
    return InsightFaceAnalyzer(root=str(root), pack="made", det_size=128)


def picture(*corners) -> np.ndarray:
    """A dark picture with bright squares of 16 pixels at (row, column)."""
    image = np.zeros((128, 128, 3), np.uint8)
    for row, column in corners:
        image[row : row + 16, column : column + 16] = 255
    return image


def test_finds_the_bright_patch_and_embeds_it(analyzer):
    (face,) = analyzer(picture((32, 48)))
    np.testing.assert_allclose((face.box[:2] + face.box[2:]) / 2, [48, 32], atol=1)  # columns first: x, y
    assert face.keypoints.shape == (5, 2)
    assert face.score > 0.9
    assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
    assert analyzer.name == "insightface/made"


def test_the_recogniser_sees_the_aligned_crop_in_rgb(analyzer, root):
    import onnxruntime
    from insightface.utils.face_align import norm_crop

    image = picture((32, 48))
    image[36:44, 50:60] = [255, 180, 120]
    (face,) = analyzer(image)
    crop = norm_crop(image, face.keypoints.astype(np.float32)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(root / "models" / "made" / "rec.onnx"))
    (expected,) = session.run(None, {"input.1": ((crop - 127.5) / 127.5).transpose(2, 0, 1)[None]})[0]
    np.testing.assert_allclose(face.embedding, expected / np.linalg.norm(expected), atol=1e-4)


def test_no_face_is_an_empty_list(analyzer):
    assert analyzer(picture()) == []


def test_faces_come_largest_first(analyzer):
    faces = analyzer(picture((16, 16), (80, 80)))
    assert len(faces) == 2
    assert faces[0].area >= faces[1].area


def test_models_keep_to_the_number_of_threads(root):
    limited = InsightFaceAnalyzer(root=str(root), pack="made", det_size=128, num_threads=1)
    for model in limited._analysis.models.values():
        assert model.session.get_session_options().intra_op_num_threads == 1


def test_missing_pack_says_what_to_download_and_where(tmp_path):
    with pytest.raises(ValueError, match=r"antelopev2/\*\.onnx.*non-commercial.*analyzer\.root"):
        InsightFaceAnalyzer(root=str(tmp_path))


def test_published_evaluation_runs_with_it_at_its_detection_size_only(root, analyzer):
    from likeness.metrics.face_similarity import FaceSimilarity

    frames = np.stack([picture((40, 40)), picture((40, 40)), picture((60, 80))])
    metric = FaceSimilarity(
        analyzer=InsightFaceAnalyzer(root=str(root), pack="made", det_size=320), convention="consisid"
    )
    metric.update(frames, [frames[0]])
    assert metric.per_clip()["num_analysed"] == metric.per_clip()["num_found"] == 16
    assert metric.per_frame()[0][0, 0] == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="detects at 320 pixels, not at analyzer.det_size=128"):
        FaceSimilarity(analyzer=analyzer, convention="consisid")
