"""The commands, as a user calls them: train, kill, resume, sample, evaluate, prepare."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from likeness.checkpoints.lightning import read_checkpoint
from likeness.datamodules.video import get_reader
from likeness.loggers import read_metrics

from .commands import call
from .conftest import REPOSITORY, drawn_video, run_command, write_mp4, write_picture

SIZE = ["num_frames=9", "height=64", "width=64"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Shards of six videos with a reference picture each, made by `prepare.py`."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        write_mp4(folder / f"clip{number}.mp4", drawn_video(20, 72, 96, seed=number), fps=8)
        (folder / f"clip{number}.txt").write_text(f"a square before a wall, number {number}")
        write_picture(folder / "faces" / f"clip{number}.png", seed=number)
    done = run_command(
        "prepare",
        "source=video_folder",
        f"source.folder={folder}",
        f"source.references={folder / 'faces'}",
        f"output={folder / 'shards'}",
    )
    assert done.returncode == 0, done.stderr
    assert "kept 6 of 6 clips" in done.stdout
    return folder / "shards"


def test_a_run_leaves_everything_that_it_promises(tiny_run):
    assert {path.name for path in (tiny_run / "checkpoints").iterdir()} == {"step_0000010.ckpt", "step_0000020.ckpt"}
    assert (tiny_run / "config.yaml").is_file()
    rows = read_metrics(tiny_run / "metrics.csv")
    assert len([row for row in rows if row["train/loss"]]) == 20
    assert len([row for row in rows if row["val/loss"]]) == 2
    samples = tiny_run / "samples" / "step_0000020"
    assert {"000.mp4", "000_reference_0.png", "000.txt", "001.mp4", "sheet.png"} <= {
        path.name for path in samples.iterdir()
    }


def test_a_checkpoint_holds_trained_tensors_only_and_can_be_read_without_unpickling(tiny_run):
    checkpoint = read_checkpoint(tiny_run / "checkpoints" / "step_0000020.ckpt")
    assert all(name.startswith("denoiser.") for name in checkpoint["state_dict"])
    assert checkpoint["ema"]["state_dict"].keys() == checkpoint["state_dict"].keys()
    assert checkpoint["config"]["experiment_name"] == "concat_id"
    assert set(checkpoint["frozen"]) == {"autoencoder", "text_encoder"}
    assert checkpoint["global_step"] == checkpoint["ema"]["num_updates"] == 20


def same(first: dict, second: dict) -> bool:
    """True if two checkpoints hold the same weights, averages, optimizer state and loader position."""
    parts = [("state_dict",), ("ema", "state_dict")]
    for keys in parts:
        a, b = first, second
        for key in keys:
            a, b = a[key], b[key]
        if a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a):
            return False
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (first, second)]
    return all(
        torch.equal(torch.as_tensor(states[0][index][name]), torch.as_tensor(states[1][index][name]))
        for index in states[0]
        for name in states[0][index]
    )


def train(folder: Path, toy_settings, *arguments: str) -> list[str]:
    return [
        "experiment=concat_id",
        "debug=tiny",
        *toy_settings,
        f"paths.output_root={folder.parent}",
        f"run_name={folder.name}",
        "~callbacks.log_samples",
        *arguments,
    ]


def test_a_killed_run_resumes_to_the_same_weights_as_an_uninterrupted_one(tiny_run, tmp_path, toy_settings):
    folder = tmp_path / "killed"
    command = [
        sys.executable,
        str(REPOSITORY / "train.py"),
        *train(folder, toy_settings, "callbacks.checkpoint.every_n_train_steps=7"),
    ]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = folder / "checkpoints" / "step_0000007.ckpt"
    deadline = time.monotonic() + 120
    while not first.is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for later in folder.glob("checkpoints/*.ckpt"):
        if later != first:
            later.unlink()  # the run was faster than the signal: what counts is to go on from step 7
    done = run_command("train", *train(folder, toy_settings, "ckpt=last"))
    assert done.returncode == 0, done.stderr
    assert f"resuming from {first}" in done.stdout
    resumed, whole = (read_checkpoint(place / "checkpoints" / "step_0000020.ckpt") for place in (folder, tiny_run))
    assert resumed["global_step"] == 20
    assert same(resumed, whole)
    losses = [
        {int(row["step"]): row["train/loss"] for row in read_metrics(place / "metrics.csv") if row["train/loss"]}
        for place in (folder, tiny_run)
    ]
    # The kill may have cost the row of the step that was just saved.
    assert all(losses[0][step] == losses[1][step] for step in range(7, 20))


def test_a_truncated_last_checkpoint_is_passed_over(tiny_run, tmp_path, toy_settings):
    folder = tmp_path / "cut"
    shutil.copytree(tiny_run, folder)
    last = folder / "checkpoints" / "step_0000020.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    done = run_command("train", *train(folder, toy_settings, "ckpt=last"))
    assert done.returncode == 0, done.stderr
    assert "passing over a damaged checkpoint" in done.stdout
    assert "resuming from" in done.stdout
    assert "step_0000010.ckpt" in done.stdout
    assert same(read_checkpoint(last), read_checkpoint(tiny_run / "checkpoints" / "step_0000020.ckpt"))


def test_last_starts_from_scratch_where_there_is_nothing_yet(capfd, tmp_path, toy_settings):
    outcome = call(capfd, "train", *train(tmp_path / "new", toy_settings, "ckpt=last", "trainer.max_steps=1"))
    assert outcome.code == 0, outcome.error
    assert "starting from scratch" in outcome.log


def test_a_sweep_returns_the_metric_that_it_optimises(tmp_path, toy_settings):
    done = run_command(
        "train",
        "-m",
        *train(tmp_path / "x", toy_settings, "trainer.max_steps=2", "trainer.val_check_interval=2"),
        "model.optimizer.lr=1e-3,1e-2",
        "optimized_metric=val/loss",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )
    assert done.returncode == 0, done.stderr
    folders = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert len(folders) == 2
    assert all((folder / "metrics.csv").is_file() for folder in folders)


def test_sampling_writes_clips_references_records_and_sheet(tiny_run, toy_world, tmp_path, capfd):
    arguments = [
        f"ckpt={tiny_run}",
        f"inputs={toy_world / 'held_out.txt'}",
        f"output={tmp_path / 's'}",
        "num_videos=2",
        "batch_size=5",
    ]
    outcome = call(capfd, "sample", *arguments)
    assert outcome.code == 0, outcome.error
    records = [json.loads(line) for line in (tmp_path / "s" / "samples.jsonl").read_text().splitlines()]
    assert len(records) == 12
    assert [record["seed"] for record in records] == list(range(42, 54))
    for record in records:
        info = get_reader("pyav").probe((tmp_path / "s" / record["video"]).read_bytes())
        assert (info.num_frames, info.height, info.width, info.fps) == (9, 64, 64, 8.0)
        assert all((tmp_path / "s" / name).is_file() for name in record["references"])
    assert (tmp_path / "s" / "sheet.png").is_file()


def test_an_interrupted_sampling_goes_on_and_makes_the_same_clips(tiny_run, toy_world, tmp_path, capfd):
    # Three of six clips are left, one batch: with other batches the network would round differently.
    arguments = [f"ckpt={tiny_run}", f"inputs={toy_world / 'held_out.txt'}", "batch_size=3"]
    assert call(capfd, "sample", *arguments, f"output={tmp_path / 'whole'}").code == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    lines = (tmp_path / "cut" / "samples.jsonl").read_text().splitlines()
    (tmp_path / "cut" / "samples.jsonl").write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    for number in (3, 4, 5):
        (tmp_path / "cut" / "clips" / f"0000{number}_0.mp4").unlink()
    outcome = call(capfd, "sample", *arguments, f"output={tmp_path / 'cut'}")
    assert outcome.code == 0, outcome.error
    assert "3 clips are in" in outcome.log
    records = [json.loads(line) for line in (tmp_path / "cut" / "samples.jsonl").read_text().splitlines()]
    assert [record["seed"] for record in records] == list(range(42, 48))
    for number in range(6):
        name = f"clips/0000{number}_0.mp4"
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_one_prompt_with_a_picture_and_another_size(tiny_run, tmp_path, capfd):
    picture = write_picture(tmp_path / "me.png")
    outcome = call(
        capfd,
        "sample",
        f"ckpt={tiny_run}",
        "prompt='a person, waving'",
        f"references=[{picture}]",
        "num_frames=5",
        "height=32",
        "width=48",
        "fps=12",
        "sampling.num_inference_steps=3",
        "weights=raw",
        f"output={tmp_path / 's'}",
    )
    assert outcome.code == 0, outcome.error
    info = get_reader("pyav").probe((tmp_path / "s" / "clips" / "00000_0.mp4").read_bytes())
    assert (info.num_frames, info.height, info.width, info.fps) == (5, 32, 48, 12)


def test_one_list_may_have_lines_with_no_one_and_several_references(tiny_run, tmp_path, capfd):
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, seed=len(name))
    lines = [{"prompt": "one", "references": ["a.png"]}, {"prompt": "none"}]
    lines += [{"prompt": "two", "references": ["a.png", "b.png"]}, {"prompt": "one more", "references": ["b.png"]}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = [f"ckpt={tiny_run}", f"inputs={tmp_path / 'list.jsonl'}", "memory=16gb", "batch_size=4"]
    outcome = call(capfd, "sample", *arguments, f"output={tmp_path / 's'}")
    assert outcome.code == 0, outcome.error
    records = [json.loads(line) for line in (tmp_path / "s" / "samples.jsonl").read_text().splitlines()]
    assert [record["prompt"] for record in records] == ["one", "none", "two", "one more"]
    assert [len(record["references"]) for record in records] == [1, 0, 2, 1]
    assert all((tmp_path / "s" / record["video"]).is_file() for record in records)


def test_processes_that_share_a_list_make_what_one_would(tiny_run, toy_world, tmp_path, capfd, monkeypatch):
    arguments = [f"ckpt={tiny_run}", f"inputs={toy_world / 'held_out.txt'}", "batch_size=1"]
    assert call(capfd, "sample", *arguments, f"output={tmp_path / 'one'}").code == 0
    assert call(capfd, "sample", *arguments, f"output={tmp_path / 'two'}", "share=0/2").code == 0
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "give all of them the same output=FOLDER" in call(capfd, "sample", *arguments).error
    assert call(capfd, "sample", *arguments, f"output={tmp_path / 'two'}").code == 0
    records = [json.loads(line) for line in (tmp_path / "two" / "samples.jsonl").read_text().splitlines()]
    assert [record["seed"] for record in records] == list(range(42, 48))
    for record in records:
        assert (tmp_path / "two" / record["video"]).read_bytes() == (tmp_path / "one" / record["video"]).read_bytes()


def test_adapters_are_trained_resumed_and_sampled_on_their_own_base(tmp_path, toy_settings, toy_world, capfd):
    folder = tmp_path / "lora"
    arguments = train(folder, toy_settings, "experiment=concat_id_lora", "trainer.val_check_interval=2")[1:]
    assert call(capfd, "train", *arguments, "trainer.max_steps=2").code == 0
    outcome = call(capfd, "train", *arguments, "trainer.max_steps=4", "ckpt=last")
    assert outcome.code == 0, outcome.error
    checkpoint = read_checkpoint(folder / "checkpoints" / "step_0000004.ckpt")
    assert all(".lora_" in name for name in checkpoint["state_dict"])
    lora = checkpoint["config"]["model"]["lora"]
    assert (lora["rank"], lora["alpha"], lora["targets"]) == (128, 1, ["to_q", "to_k", "to_v", "to_out.0"])
    outcome = call(capfd, "sample", f"ckpt={folder}", "prompt=x", f"output={tmp_path / 's'}")
    assert outcome.code == 0, outcome.error
    outcome = call(capfd, "train", *arguments, "trainer.max_steps=5", "ckpt=last", "seed=7")
    assert "was trained with another denoiser" in outcome.error


def test_the_2b_backbone_trains_and_samples(tmp_path, toy_settings, capfd):
    arguments = train(tmp_path / "two", toy_settings, "backbone=cogvideox_2b", "+model.process.snr_shift_scale=3")
    outcome = call(capfd, "train", *arguments, "trainer.max_steps=2", "model.trained=['*attn1*']")
    assert outcome.code == 0, outcome.error
    picture = write_picture(tmp_path / "me.png")
    outcome = call(
        capfd, "sample", f"ckpt={tmp_path / 'two'}", "prompt=x", f"references=[{picture}]", f"output={tmp_path / 's'}"
    )
    assert outcome.code == 0, outcome.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ckpt must name a checkpoint"),
        (["ckpt=gone", "prompt=x"], "there is no checkpoint at gone"),
        (["ckpt=RUN"], "give either prompt"),
        (["ckpt=RUN", "prompt=x", "references=[gone.png]"], "there is no picture gone.png"),
        (["ckpt=RUN", "inputs=gone.txt"], "inputs=gone.txt does not exist"),
        (["ckpt=RUN", "prompt=x", "references=[PICTURE]", "num_frames=6"], "num_frames=6 does not fit"),
        (["ckpt=RUN", "prompt=x", "references=[PICTURE]", "weights=emma"], "weights=emma is not one of ema, raw"),
        (
            ["ckpt=RUN", "prompt=x", "references=[PICTURE]", "sampling.steps=3"],
            "sampling.steps is not a setting of ConcatID.sample",
        ),
        (["ckpt=RUN", "prompt=x", "references=[PICTURE]", "device=tpu"], "device=tpu is not one of"),
        (["ckpt=RUN", "prompt=x", "references=[PICTURE]", "dtype=int8"], "dtype='int8' is not one of"),
        (["ckpt=RUN", "prompt=x", "memory=12gb"], "memory=12gb is not a preset"),
        (["ckpt=RUN", "prompt=x", "share=2/2"], "share=2/2 is neither auto nor I/N"),
        (["ckpt=PICTURE", "prompt=x", "references=[PICTURE]"], "is not a checkpoint, or it is cut off"),
    ],
)
def test_wrong_sampling_commands_end_in_one_message(tiny_run, tmp_path, capfd, arguments, message):
    picture = write_picture(tmp_path / "me.png")
    arguments = [argument.replace("RUN", str(tiny_run)).replace("PICTURE", str(picture)) for argument in arguments]
    outcome = call(capfd, "sample", *arguments, f"output={tmp_path / 's'}")
    assert outcome.code == 1
    assert message in outcome.error
    assert "Traceback" not in outcome.error


def test_evaluating_real_clips_of_drawn_people_finds_them_all(toy_world, tmp_path, capfd):
    outcome = call(
        capfd,
        "evaluate",
        f"videos={toy_world / 'clips'}",
        f"references={toy_world / 'references'}",
        f"output={tmp_path}",
    )
    assert outcome.code == 0, outcome.error
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert result["metrics"]["retrieval_top1"] == 1
    assert result["metrics"]["detection_rate"] == 1
    assert result["metrics"]["retrieval_chance"] == pytest.approx(1 / 6)
    assert result["metrics"]["reference_copy"] == 0
    assert result["features"] == {
        "face_similarity": "toy",
        "face_copy": "keypoints of toy, pixels",
        "reference_copy": "pixels at 32 x 32",
    }
    assert len(result["clips"]) == 6
    assert "retrieval_top1" in outcome.log
    page = (tmp_path / "report.html").read_text()
    assert page.count("<video") == page.count("<img") == 6
    assert "src='http" not in page


def test_evaluating_a_sampled_folder_shows_the_training(tiny_run, toy_world, tmp_path, capfd):
    call(capfd, "sample", f"ckpt={tiny_run}", f"inputs={toy_world / 'held_out.txt'}", f"output={tmp_path / 's'}")
    (tmp_path / "s" / "clips" / "00002_0.mp4").write_bytes(b"broken")
    outcome = call(capfd, "evaluate", f"videos={tmp_path / 's'}", f"training={tiny_run}")
    assert outcome.code == 0, outcome.error
    result = json.loads((tmp_path / "s" / "evaluation" / "metrics.json").read_text())
    assert (result["num_clips"], len(result["failed"])) == (5, 1)
    assert any("could not be read" in note for note in result["notes"])
    assert "<polyline" in (tmp_path / "s" / "evaluation" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "videos must name a folder"),
        (["videos=gone"], "videos=gone is not a folder"),
        (["videos=EMPTY"], "holds no video"),
        (["videos=CLIPS"], "references must be given"),
        (["videos=CLIPS", "references=EMPTY"], "there is no reference picture for p00012_c0.mp4"),
        (["videos=CLIPS", "references=REFERENCES", "analyzer=insightface"], "needs the model pack antelopev2"),
        (
            ["videos=CLIPS", "references=REFERENCES", "metrics.face_similarity.num_frames=0"],
            "num_frames=0 must be at least 1",
        ),
    ],
)
def test_wrong_evaluation_commands_end_in_one_message(toy_world, tmp_path, capfd, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": tmp_path / "empty", "CLIPS": toy_world / "clips", "REFERENCES": toy_world / "references"}
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    outcome = call(capfd, "evaluate", *arguments, f"output={tmp_path / 'e'}")
    assert outcome.code == 1
    assert message in outcome.error
    assert "Traceback" not in outcome.error


def test_prepared_videos_train_with_falling_loss_and_can_be_sampled(shards, tmp_path, capfd):
    arguments = [
        "experiment=concat_id",
        "debug=tiny",
        "datamodule=shards",
        f"datamodule.train={shards}",
        f"paths.output_root={tmp_path}",
        "run_name=mine",
        "~callbacks.log_samples",
    ]
    outcome = call(capfd, "train", *arguments)
    assert outcome.code == 0, outcome.error
    losses = [float(row["train/loss"]) for row in read_metrics(tmp_path / "mine" / "metrics.csv") if row["train/loss"]]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    picture = write_picture(tmp_path / "me.png")
    outcome = call(
        capfd, "sample", f"ckpt={tmp_path / 'mine'}", "prompt=x", f"references=[{picture}]", f"output={tmp_path / 's'}"
    )
    assert outcome.code == 0, outcome.error
    info = get_reader("pyav").probe((tmp_path / "s" / "clips" / "00000_0.mp4").read_bytes())
    assert (info.num_frames, info.height, info.width) == (9, 64, 64)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_on_damaged_data_ends_and_tells_what_it_skipped(shards, tmp_path, capfd, num_workers):
    data = tmp_path / "data"
    shutil.copytree(shards, data)
    tar = data / "000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[: int(len(content) * 0.6)])
    outcome = call(
        capfd,
        "train",
        "experiment=concat_id",
        "debug=tiny",
        "datamodule=shards",
        f"datamodule.train={data}",
        "trainer.max_steps=6",
        "datamodule.batch_size=1",
        f"datamodule.num_workers={num_workers}",
        f"paths.output_root={tmp_path}",
        "run_name=x",
        "~callbacks.log_samples",
    )
    assert outcome.code == 0, outcome.error
    assert "damaged shard" in outcome.log
    assert "samples were skipped" in outcome.log
    entries = [json.loads(line) for line in (tmp_path / "x" / "skipped.jsonl").read_text().splitlines()]
    assert {entry["reason"] for entry in entries} == {"damaged shard"}


def test_preparing_twice_does_nothing_and_another_source_in_the_same_folder_is_refused(shards, capfd):
    folder = shards.parent
    source = ["source=video_folder", f"source.folder={folder}", f"output={shards}"]
    outcome = call(capfd, "prepare", *source, f"source.references={folder / 'faces'}")
    assert outcome.code == 0
    assert "nothing to do" in outcome.log and "kept 6 of 6 clips" in outcome.log
    outcome = call(capfd, "prepare", *source)
    assert outcome.code == 1
    assert "holds shards already, made of" in outcome.error


def test_preparing_nothing_usable_is_an_error(tmp_path, capfd):
    (tmp_path / "a.mp4").write_bytes(b"broken")
    (tmp_path / "a.txt").write_text("x")
    outcome = call(capfd, "prepare", "source=video_folder", f"source.folder={tmp_path}", f"output={tmp_path / 'o'}")
    assert outcome.code == 1
    assert "none of the 1 clips could be used" in outcome.error
    assert "unreadable video" in outcome.log
