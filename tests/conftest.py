import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory) -> Path:
    """The folder of a small toy world: 12 people for training, 6 held out, 2 clips each."""
    from likeness.toy.world import ToyShards

    folder = tmp_path_factory.mktemp("data") / "toy"
    ToyShards(folder=str(folder), num_people=12, num_held_out=6).prepare()
    return folder


@pytest.fixture(scope="session")
def toy_settings(toy_world) -> list[str]:
    """Overrides that make a command use `toy_world` instead of drawing its own."""
    source = f"datamodule.source.folder={toy_world}"
    return [source, "datamodule.source.num_people=12", "datamodule.source.num_held_out=6"]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, toy_settings) -> Path:
    """The folder of a finished run of `experiment=concat_id debug=tiny`, made by the command itself."""
    outputs = tmp_path_factory.mktemp("outputs")
    done = run_command(
        "train", "experiment=concat_id", "debug=tiny", *toy_settings, f"paths.output_root={outputs}", "run_name=tiny"
    )
    assert done.returncode == 0, done.stderr
    return outputs / "tiny"


def run_command(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run `python NAME.py ARGUMENTS` in the repository, as a user does."""
    return subprocess.run(
        [sys.executable, str(REPOSITORY / f"{name}.py"), *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def drawn_video(num_frames: int = 12, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Return frames (f h w 3) with a square that moves one pixel a frame, so that every frame is another one."""
    rng = np.random.default_rng(seed)
    frames = np.full((num_frames, height, width, 3), rng.integers(40, 200, 3), np.uint8)
    for index in range(num_frames):
        frames[index, 10:26, 4 + index : 20 + index] = [250, 250, 30]
    return frames


def write_mp4(path: Path, frames: np.ndarray | None = None, fps: float = 8) -> Path:
    from likeness.media import encode_mp4

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_mp4(drawn_video() if frames is None else frames, fps))
    return path


def write_picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_shards(folder: Path, samples: list[tuple[str, dict[str, bytes]]], per_shard: int = 4) -> Path:
    from likeness.datamodules.shards import ShardWriter

    shutil.rmtree(folder, ignore_errors=True)
    writer = ShardWriter(folder, max_samples=per_shard)
    for key, members in samples:
        writer.write(key, members)
    writer.close()
    return folder


def read_shard(shard) -> list[tuple[int, dict]]:
    """Return (position, sample) of the samples of a shard, as webdataset gives them: members by suffix, `__key__`."""
    from webdataset.tariterators import tarfile_samples

    return list(enumerate(tarfile_samples([{"url": shard.url}])))


def clip_sample(key: str, seed: int = 0, num_frames: int = 12, **info) -> tuple[str, dict[str, bytes]]:
    """Return (key, members) of a sample with a drawn video, a reference picture and whatever `info` changes."""
    from likeness.media import encode_mp4, encode_png

    frames = drawn_video(num_frames, seed=seed)
    description = {
        "caption": f"clip {seed}",
        "fps": 8.0,
        "num_frames": num_frames,
        "height": 48,
        "width": 64,
        "identities": [{"id": str(seed), "face": ["face.0.png"]}],
        **info,
    }
    picture = np.random.default_rng(seed).integers(0, 255, (20, 20, 3), np.uint8)
    members = {
        "mp4": encode_mp4(frames, 8),
        "json": json.dumps(description).encode(),
        "face.0.png": encode_png(picture),
    }
    return key, members
