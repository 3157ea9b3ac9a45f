from omegaconf import OmegaConf

from likeness.config import CONF_DIR
from likeness.metrics.sharing import SharedAnalyzers

ANALYZER = {"_target_": "likeness.toy.analyzer.ToyFaceAnalyzer", "threshold": 0.5}
SIMILARITY, COPY = "likeness.metrics.face_similarity.FaceSimilarity", "likeness.metrics.face_copy.FaceCopy"


def test_metrics_with_the_same_analyzer_share_it():
    config = OmegaConf.create(
        {
            "analyzer": ANALYZER,
            "num_frames": 5,
            "metrics": {
                "one": {"_target_": SIMILARITY, "analyzer": "${analyzer}", "num_frames": "${num_frames}"},
                "two": {"_target_": COPY, "analyzer": "${metrics.one.analyzer}", "num_frames": "${num_frames}"},
                "other": {"_target_": SIMILARITY, "analyzer": {**ANALYZER, "threshold": 0.6}},
                "without": {"_target_": "likeness.metrics.reference_copy.ReferenceCopy"},
            },
        }
    )
    analyzers = SharedAnalyzers()
    metrics = {name: analyzers.build(node) for name, node in config.metrics.items()}
    assert list(metrics) == ["one", "two", "other", "without"]
    assert metrics["one"].analyzer is metrics["two"].analyzer
    assert metrics["other"].analyzer is not metrics["one"].analyzer
    assert metrics["other"].analyzer.threshold == 0.6
    assert metrics["one"].convention.num_frames == metrics["two"].num_frames == 5


def test_groups_of_metrics_share_no_name_so_that_two_of_them_are_both_measured():
    groups = [OmegaConf.load(path) for path in sorted((CONF_DIR / "metrics").glob("*.yaml"))]
    names = [name for group in groups for name in group if name != "defaults"]
    assert len(set(names)) == len(names)


def test_published_evaluations_compose_and_say_what_they_need(tmp_path, capfd):
    from ..commands import call
    from ..conftest import write_mp4, write_picture

    write_mp4(tmp_path / "clips" / "a.mp4")
    picture = write_picture(tmp_path / "me.png")
    for name, message in (
        ("consisid", "needs the model pack buffalo_l"),
        ("opens2v", "needs the model pack buffalo_l"),
        ("celeb_basis", "sphere20"),
    ):
        arguments = [f"videos={tmp_path / 'clips'}", f"references={picture}", f"metrics={name}"]
        outcome = call(capfd, "evaluate", *arguments, f"paths.weights_dir={tmp_path}", f"output={tmp_path / 'e'}")
        assert outcome.code == 1
        assert message in outcome.error
        assert "Traceback" not in outcome.error
