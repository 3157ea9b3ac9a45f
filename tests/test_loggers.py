import csv

import numpy as np
import pytest

from likeness.loggers import MetricsCSV, log_image, log_videos, read_metrics

from .conftest import drawn_video, write_mp4


def test_values_of_one_step_share_a_row(tmp_path):
    logger = MetricsCSV(path=str(tmp_path / "metrics.csv"))
    logger.log_metrics({"train/loss": 1.0, "epoch": 0}, step=0)
    logger.log_metrics({"train/lr": 0.5}, step=0)
    logger.log_metrics({"train/loss": 2.0}, step=1)
    logger.finalize("success")
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [(row["step"], row["train/loss"], row["train/lr"]) for row in rows] == [
        ("0", "1.0", "0.5"),
        ("1", "2.0", ""),
    ]


def test_new_metric_adds_a_column_to_the_old_rows(tmp_path):
    logger = MetricsCSV(path=str(tmp_path / "metrics.csv"))
    logger.log_metrics({"train/loss": 1.0}, step=0)
    logger.log_metrics({"val/loss": 3.0}, step=1)
    logger.save()
    with open(tmp_path / "metrics.csv", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["epoch", "step", "train/loss", "val/loss"]
    assert all(len(row) == 4 for row in rows)


def test_resumed_run_appends_and_drops_what_it_repeats(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsCSV(path=str(path))
    for step in range(5):
        first.log_metrics({"train/loss": float(step)}, step=step)
    first.save()
    resumed = MetricsCSV(path=str(path))
    resumed.log_metrics({"train/loss": 30.0}, step=3)
    resumed.log_metrics({"train/loss": 40.0}, step=4)
    resumed.save()
    assert [float(row["train/loss"]) for row in read_metrics(path)] == [0, 1, 2, 30, 40]


def test_tensorboard_gets_pictures_and_animations(tmp_path):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path), name="tb", version="")
    clip = write_mp4(tmp_path / "a.mp4")
    log_image([logger], "samples/sheet", np.zeros((8, 8, 3), np.uint8), 5)
    log_videos([logger], "samples/clips", [clip], [drawn_video(4)], 8, 5)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert set(events.Tags()["images"]) == {"samples/sheet", "samples/clips/0"}
    assert events.Images("samples/clips/0")[0].encoded_image_string.startswith(b"GIF89a")


@pytest.mark.slow
def test_wandb_gets_mp4_files_offline(tmp_path):
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(save_dir=str(tmp_path), offline=True)
    clip = write_mp4(tmp_path / "a.mp4")
    log_image([logger], "samples/sheet", np.zeros((8, 8, 3), np.uint8), 5)
    log_videos([logger], "samples/clips", [clip], [drawn_video(4)], 8, 5)
    logger.experiment.finish()
    assert list(tmp_path.rglob("media/videos/samples/*.mp4"))
