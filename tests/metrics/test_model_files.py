import json
import re

import pytest
from omegaconf import OmegaConf

from likeness.config import compose_config
from likeness.metrics.building import build_metrics, update
from likeness.metrics.model_files import MODEL_FILES, RECORD, MissingModel, checksum, find, how_to_get
from likeness.metrics.motion import Flicker, Motion

from ..conftest import drawn_video


def put(weights_dir, name: str, content: bytes = b"weights"):
    path = weights_dir / MODEL_FILES[name].path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", MODEL_FILES)
def test_missing_weights_are_told_with_place_command_and_licence(name, tmp_path):
    with pytest.raises(MissingModel, match=re.escape(str(tmp_path / MODEL_FILES[name].path))) as raised:
        find(name, tmp_path)
    assert MODEL_FILES[name].licence in str(raised.value)
    assert str(tmp_path) in how_to_get(name, tmp_path)
    assert isinstance(raised.value, ValueError)


def test_face_packs_are_marked_non_commercial():
    assert all("non-commercial" in file.licence for name, file in MODEL_FILES.items() if "insightface" in name)


@pytest.mark.parametrize("metrics", ["default", "consisid", "opens2v", "celeb_basis", "all"])
def test_settings_look_for_face_models_where_the_table_says(metrics, tmp_path):
    overrides = [f"metrics={metrics}", "analyzer=insightface", "videos=x", f"paths.weights_dir={tmp_path}"]
    config = OmegaConf.to_container(compose_config("evaluate", overrides).metrics, resolve=True)
    places = {str(tmp_path / file.path) for file in MODEL_FILES.values()}
    for node in filter(None, config.values()):
        if "analyzer" in node:
            assert f"{node['analyzer']['root']}/models/{node['analyzer']['pack']}" in places
        if "embedder" in node:
            assert node["embedder"]["weights"] in MODEL_FILES
            assert node["embedder"]["weights_dir"] == str(tmp_path)


def test_checksum_is_recorded_on_first_use_and_a_changed_file_refused(tmp_path):
    path = put(tmp_path, "i3d_torchscript")
    assert find("i3d_torchscript", tmp_path) == path
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["metrics/i3d_torchscript.pt"]["sha256"] == checksum(path)
    path.write_bytes(b"weights")  # written again, the same
    assert find("i3d_torchscript", tmp_path) == path
    put(tmp_path, "i3d_torchscript", b"others!")
    with pytest.raises(ValueError, match="is not the file it was"):
        find("i3d_torchscript", tmp_path)


def test_file_with_another_than_the_published_checksum_is_refused(tmp_path):
    put(tmp_path, "inception_torchvision")
    with pytest.raises(ValueError, match="is not the published file: its sha256 begins with .* expected 0cc3c7bd"):
        find("inception_torchvision", tmp_path)


def test_folders_have_a_checksum_of_names_and_contents(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    assert checksum(first) == checksum(second)
    (second / ".cache" / "huggingface").mkdir(parents=True)
    (second / ".cache" / "huggingface" / "config.json.metadata").write_text("when it was downloaded")
    assert checksum(first) == checksum(second)
    (second / "config.json").rename(second / "other.json")
    assert checksum(first) != checksum(second)


def test_unknown_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="clip is not one of the evaluators' weights"):
        find("clip", tmp_path)


def config(weights_dir) -> dict:
    nodes = {
        "flicker": {"_target_": "likeness.metrics.motion.Flicker"},
        "clip_score": {
            "_target_": "likeness.metrics.clip_score.CLIPScore",
            "features": {
                "_target_": "likeness.metrics.image_features.CLIPFeatures",
                "weights_dir": str(weights_dir),
            },
        },
    }
    return OmegaConf.create(nodes)


def test_metrics_without_their_weights_are_disabled_by_name_or_fail_when_asked_for(tmp_path):
    metrics, disabled = build_metrics(config(tmp_path))
    assert list(metrics) == ["flicker"]
    assert list(disabled) == ["clip_score"] and "hf download" in disabled["clip_score"]
    with pytest.raises(MissingModel, match=r"metrics\.clip_score: the weights clip_vit_b32"):
        build_metrics(config(tmp_path), asked_for=["clip_score"])


@pytest.mark.parametrize(
    ("key", "settings", "message"),
    [
        ("face", {"num_frames": 0, "_target_": "FaceSimilarity"}, "metrics.face: num_frames=0 must be at least 1"),
        (
            "fid",
            {"num_frames": 0, "_target_": "FID", "name": "fid_own"},
            "metrics.fid: num_frames=0 must be at least 1",
        ),
        ("fid", {"real": "gone", "_target_": "FID"}, "metrics.fid: real=gone: there is no such file"),
    ],
)
def test_what_a_metric_refuses_is_said_under_the_name_that_it_has_in_the_settings(key, settings, message):
    analyzer = {"_target_": "likeness.toy.analyzer.ToyFaceAnalyzer"}
    features = {"_target_": "likeness.metrics.image_features.SmallImageFeatures"}
    made = {
        "FaceSimilarity": {"_target_": "likeness.metrics.face_similarity.FaceSimilarity", "analyzer": analyzer},
        "FID": {"_target_": "likeness.metrics.frechet.FrechetInceptionDistance", "features": features},
    }
    node = OmegaConf.create({key: settings | made[settings["_target_"]]})
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build_metrics(node)


@pytest.mark.parametrize(
    "removed", ["face_similarity", "clip_score", "subject_consistency", "box_iou", "fvd", "motion", "opens2v_arc"]
)
def test_a_metric_can_be_left_out_without_the_others(removed):
    group = "opens2v" if removed == "opens2v_arc" else "all"
    config = compose_config("evaluate", [f"metrics={group}", f"~metrics.{removed}", "videos=x"])
    metrics = OmegaConf.to_container(config.metrics, resolve=True)
    assert metrics and removed not in metrics


def test_update_hands_a_metric_what_it_takes():
    class Still:
        name = "still"

        def __call__(self, frames, bgr=False):
            return 0 * frames[1:, ..., :2].astype("float32")

    flicker, motion = Flicker(), Motion(flow=Still())
    for metric in (flicker, motion):
        update(metric, drawn_video(), references=[], prompt="a square", fps=8.0)
        assert len(metric.per_clip()[next(iter(metric.descriptions))]) == 1
