import logging
import multiprocessing
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
import torch.distributed as dist

from likeness.callbacks.checkpoint import BestCheckpoint
from likeness.callbacks.log_samples import LogSamples
from likeness.callbacks.video_metrics import VideoMetrics
from likeness.datamodules.box_files import parse_boxes
from likeness.models.identity.analyzer import Face

from ..conftest import drawn_video
from ..models.test_base import Loader
from ..models.test_concat_id import batch_of, build

pytestmark = pytest.mark.filterwarnings("ignore")

FVD = {
    "_target_": "likeness.metrics.frechet.FrechetVideoDistance",
    "protocol": {"_target_": "likeness.metrics.protocols.Protocol", "name": "own"},
    "num_resamples": 5,
}
MISSING = {
    "_target_": "likeness.metrics.face_similarity.FaceSimilarity",
    "analyzer": {"_target_": "likeness.models.identity.insightface.InsightFaceAnalyzer", "root": "/gone"},
}
FLICKER = {"_target_": "likeness.metrics.motion.Flicker"}


def trainer_of(tmp_path, *callbacks, **samples) -> lightning.Trainer:
    settings = {"num_clips": 1, "sampling": {"num_inference_steps": 2}, "batch_size": 1} | samples
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[LogSamples(folder=str(tmp_path), fps=8, **settings), *callbacks],
        enable_checkpointing=any(isinstance(one, BestCheckpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def validate(trainer: lightning.Trainer, model) -> dict[str, float]:
    trainer.validate(model, Loader([batch_of(2), batch_of(2, seed=1)]), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_clips_are_generated_once_for_samples_and_metrics(tmp_path):
    model, calls = build(), []
    generate = model.generate
    model.generate = lambda batch, draws, **settings: (
        calls.append(len(draws.seeds)),
        generate(batch, draws, **settings),
    )[1]
    values = validate(trainer_of(tmp_path, VideoMetrics(metrics={"fvd": FVD, "flicker": FLICKER}, num_clips=3)), model)
    assert calls == [1, 1, 1]
    assert len(list(tmp_path.rglob("*.mp4"))) == 1
    assert values["val/fvd_own"] > 0
    assert 0 < values["val/temporal_flickering"] <= 1
    assert not any(name.endswith(("_low", "_high")) for name in values)


def test_the_same_model_has_the_same_values_at_every_validation(tmp_path):
    trainer, model = trainer_of(tmp_path, VideoMetrics(metrics={"fvd": FVD, "flicker": FLICKER}, num_clips=2)), build()
    first, second = validate(trainer, model), validate(trainer, model)
    assert first == second
    with torch.no_grad():
        model.denoiser.proj_out.weight += 0.1
    assert validate(trainer, model)["val/fvd_own"] != first["val/fvd_own"]


def test_a_time_budget_ends_the_generation_and_says_how_many_clips_there_were(tmp_path, caplog):
    callback = VideoMetrics(metrics={"flicker": FLICKER}, num_clips=4)
    with caplog.at_level(logging.INFO):
        values = validate(trainer_of(tmp_path, callback, time_budget_s=0), build())
    assert values["val/num_sampled"] == 1
    assert "was over after 1 of 4 clips" in caplog.text
    assert "val/temporal_flickering" in values


def test_a_metric_without_its_model_is_left_out_with_one_warning_or_refused_by_name(tmp_path, caplog):
    values = validate(trainer_of(tmp_path, VideoMetrics(metrics={"face": MISSING, "flicker": FLICKER})), build())
    assert "val/temporal_flickering" in values
    assert caplog.text.count("validation goes without face: analyzer=insightface needs the model pack") == 1
    with pytest.raises(ValueError, match=r"metrics\.face: analyzer=insightface needs the model pack"):
        VideoMetrics(metrics={"face": MISSING}, required=["face"])
    with pytest.raises(ValueError, match="required: fvd is not one of flicker"):
        VideoMetrics(metrics={"flicker": FLICKER}, required=["fvd"])


def test_it_needs_the_callback_that_makes_clips(tmp_path):
    trainer = trainer_of(tmp_path, VideoMetrics(metrics={"flicker": FLICKER}), every_n_validations=0)
    with pytest.raises(ValueError, match="keep that, with"):
        validate(trainer, build())


def test_the_best_checkpoint_waits_for_its_value_and_then_follows_it(tmp_path, caplog):
    class Scores(lightning.Callback):
        scores = iter([None, 0.2, 0.9, 0.5])

        def on_validation_epoch_end(self, trainer, module):
            score = None if trainer.sanity_checking else next(self.scores)
            if score is not None:
                module.log("val/score", score)

    best = BestCheckpoint(dirpath=tmp_path / "best", filename="{step}", monitor="val/score", mode="max", save_top_k=1)
    trainer = trainer_of(tmp_path, Scores(), best, every_n_validations=0)
    trainer.fit_loop.epoch_loop.max_steps = 4
    trainer.val_check_interval, trainer.check_val_every_n_epoch = 1, None
    with caplog.at_level(logging.INFO):
        trainer.fit(build(), Loader([batch_of(1)] * 4), Loader([batch_of(1)]))
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step=3.ckpt"]
    assert "val/score is not logged yet" in caplog.text


class Logged(dict):
    """Stands for the model: remembers what is logged."""

    device = torch.device("cpu")

    def log(self, name, value, **settings):
        self[name] = float(value)


def measure(share: list[int]) -> dict[str, float]:
    callback, logged = VideoMetrics(metrics={"fvd": FVD, "flicker": FLICKER}, num_clips=9), Logged()
    for place in share:
        frames = drawn_video(seed=place)
        callback._measure(callback._real, callback._comparing, place, frames[::-1], real=True)
        callback.on_clip_sampled(place, np.roll(frames, place, axis=1), [], "a square")
    callback.on_clips_sampled(None, logged)
    return dict(logged)


def work(rank: int, folder, shares: list[list[int]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(measure(shares[rank]), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("shares", [[[0, 2, 4, 6, 8], [1, 3, 5, 7]], [list(range(9)), []]])
def test_two_processes_log_exactly_what_one_would(tmp_path, shares):
    workers = [multiprocessing.get_context("fork").Process(target=work, args=(k, tmp_path, shares)) for k in range(2)]
    for worker in workers:
        worker.start()
    expected = measure(list(range(9)))
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [expected, expected]
    assert {"val/fvd_own", "val/fvd_own_extrapolated", "val/temporal_flickering"} <= expected.keys()


@pytest.mark.parametrize(("num_real", "sizes"), [(5, (4, 4, 1)), (9, (8, 3)), (6, (4, 2)), (3, (4, 4))])
def test_as_many_real_clips_as_asked_for_are_measured_whatever_the_batches_hold(num_real, sizes):
    callback, places = VideoMetrics(metrics={"fvd": FVD}, num_real=num_real), []
    for rank in range(2):
        trainer = SimpleNamespace(sanity_checking=False, world_size=2, global_rank=rank)
        callback.on_validation_start(trainer, None)
        for index, size in enumerate(sizes):
            clips = torch.from_numpy(np.stack([drawn_video().transpose(3, 0, 1, 2)] * size)).float() / 255
            callback.on_validation_batch_end(trainer, None, None, {"pixel_values": clips}, index)
        places += [place for place, _, _ in callback._real]
    assert sorted(places) == list(range(num_real))


def test_a_clip_that_a_metric_cannot_take_is_left_out_of_it_with_one_warning(caplog):
    node = {
        "_target_": "likeness.metrics.celeb_basis_identity.CelebBasisIdentity",
        "analyzer": {"_target_": f"{__name__}.EverythingIsAFace"},
        "embedder": {"_target_": f"{__name__}.EverythingIsAFace"},
    }
    callback, logged = VideoMetrics(metrics={"identity": node, "flicker": FLICKER}, num_clips=9), Logged()
    for place in range(2):
        callback.on_clip_sampled(place, drawn_video(), [drawn_video()[0]] * 2, "two people")
    callback.on_clips_sampled(None, logged)
    assert logged.keys() == {"val/temporal_flickering"}
    assert caplog.text.count("validation: identity leaves out clip 0") == 1


class EverythingIsAFace:
    """Stands for an analyzer: finds one face that fills the frame."""

    name = "everything"
    embedding_dim = 1

    def __call__(self, image):
        height, width = image.shape[:2]
        return [Face(np.array([0, 0, width, height]), np.zeros((5, 2)), 1.0, np.ones(1))]


def test_boxes_are_measured_where_clips_have_them():
    node = {"_target_": "likeness.metrics.boxes.BoxIoU", "analyzer": {"_target_": f"{__name__}.EverythingIsAFace"}}
    callback, logged = VideoMetrics(metrics={"box_iou": node}, num_clips=9), Logged()
    entry = {"coordinates": "unit", "objects": [{"boxes": [[0, 0, 0, 0.5, 1]], "ends": "hold"}]}
    frames = drawn_video()
    callback.on_clip_sampled(0, frames, [], "", parse_boxes(entry, "boxes").on_picture(1, 1).at(len(frames)))
    callback.on_clip_sampled(1, frames, [], "")
    callback.on_clips_sampled(None, logged)
    assert logged["val/box_iou"] == 0.5
