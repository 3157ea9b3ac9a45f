"""What only a GPU can show: `pytest -m gpu`."""

import json

import pytest
import torch

from likeness.datamodules.video import get_reader

from .conftest import run_command

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("experiment", ["concat_id", "concat_id_wan"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_and_sampling_on_a_gpu(tmp_path, toy_settings, toy_world, precision, experiment):
    done = run_command(
        "train",
        f"experiment={experiment}",
        "debug=tiny",
        *toy_settings,
        "trainer.accelerator=gpu",
        f"trainer.precision={precision}",
        f"paths.output_root={tmp_path}",
        "run_name=gpu",
    )
    assert done.returncode == 0, done.stderr
    sampled = run_command(
        "sample", f"ckpt={tmp_path / 'gpu'}", f"inputs={toy_world / 'held_out.txt'}", f"output={tmp_path / 's'}"
    )
    assert sampled.returncode == 0, sampled.stderr
    records = [json.loads(line) for line in (tmp_path / "s" / "samples.jsonl").read_text().splitlines()]
    assert len(records) == 6


def test_presets_for_small_cards_make_the_same_clips_on_a_gpu(tiny_run, toy_world, tmp_path):
    pixels = {}
    for memory in ("null", "24gb", "16gb", "8gb"):
        output = tmp_path / memory
        arguments = [f"ckpt={tiny_run}", f"inputs={toy_world / 'held_out.txt'}", "dtype=float32", "batch_size=1"]
        done = run_command("sample", *arguments, f"memory={memory}", f"output={output}")
        assert done.returncode == 0, done.stderr
        data = (output / "clips" / "00000_0.mp4").read_bytes()
        pixels[memory] = get_reader("pyav").read(data, range(9)).astype(float)
    assert (pixels["24gb"] == pixels["null"]).all()
    for memory in ("16gb", "8gb"):
        assert abs(pixels[memory] - pixels["null"]).mean() < 1


def test_gpu_and_cpu_draw_the_same_numbers():
    from likeness.models.draws import Draws

    assert torch.equal(Draws([1], "cuda").normal("noise", (4,)).cpu(), Draws([1]).normal("noise", (4,)))


def test_learning_rate_of_the_toy_world_on_a_gpu(tmp_path):
    """The toy experiment's first 300 steps on the GPU lower the validation loss as they do on a CPU."""
    done = run_command(
        "train",
        "experiment=concat_id_toy",
        "trainer.accelerator=gpu",
        "trainer.max_steps=300",
        "trainer.val_check_interval=300",
        "~callbacks.log_samples",
        f"paths.output_root={tmp_path}",
        f"paths.data_dir={tmp_path / 'data'}",
        "run_name=gpu",
    )
    assert done.returncode == 0, done.stderr
    last = (tmp_path / "gpu" / "metrics.csv").read_text().splitlines()[-1]
    assert 0 < float(last.rsplit(",", 1)[1]) < 0.5
