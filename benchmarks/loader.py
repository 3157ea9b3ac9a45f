"""How fast clips come out of their files, and what they leave in memory.

    python benchmarks/loader.py decode      # clips/s on one core against a plain loop, alternating in one process
    python benchmarks/loader.py memory      # growth of resident memory over 2,000 clips, for each reader
    python benchmarks/loader.py wait        # the share of its time that the toy training waits for data, with 2 workers

The plain loop is how the published loaders do it: decord's batch of the wanted frames, torch's bicubic resize of the
clip in floats, centre crop. (Resized in bytes, as later torchvision does it, edges lie several grey levels off.)
"""

import argparse
import io
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import REPOSITORY, report, run

from likeness.datamodules.images import CoverAndCrop
from likeness.datamodules.video import VideoReader, get_reader
from likeness.loggers import read_metrics

READERS = ("pyav", "decord", "torchcodec")
NUM_FRAMES, STRIDE, HEIGHT, WIDTH = 49, 3, 480, 720


def footage(num_frames: int, height: int, width: int, gop: int) -> bytes:
    """Return an H.264 mp4 at 30 fps: a camera pans over a textured gradient, an object crosses, the sensor is noisy."""
    import av

    rng, margin, buffer = np.random.default_rng(0), num_frames + 1, io.BytesIO()
    coarse = torch.from_numpy(rng.integers(0, 100, (1, 3, (height + margin) // 4, (width + margin) // 4)))
    texture = F.interpolate(coarse.float(), (height + margin, width + margin), mode="bicubic").clamp(0, 100)
    scene = (texture + torch.linspace(0, 130, width + margin)).byte()[0].permute(1, 2, 0).numpy()
    side = height // 4
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=30, options={"crf": "23", "preset": "veryfast", "g": str(gop)})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index in range(num_frames):
            frame = scene[index // 3 : index // 3 + height, index : index + width].copy()
            top, left = side + int(side / 2 * np.sin(index / 20)), index * (width - side) // num_frames
            frame[top : top + side, left : left + side] = scene[:side, :side] // 2 + 90
            frame += rng.integers(0, 12, (height, width, 1), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


def plain_loop(path: Path, indices: list[int], in_bytes: bool = False) -> torch.Tensor:
    import decord

    frames = decord.VideoReader(str(path), num_threads=1).get_batch(indices).asnumpy()
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    size = (HEIGHT, int(pixels.shape[3] * HEIGHT / pixels.shape[2]))
    pixels = F.interpolate(pixels if in_bytes else pixels.float(), size, mode="bicubic", antialias=True)
    left = (size[1] - WIDTH) // 2
    return pixels.clamp(0, 255).round().byte()[..., left : left + WIDTH].transpose(0, 1).contiguous()


def our_loop(reader: VideoReader, path: Path, indices: list[int]) -> torch.Tensor:
    frames = reader.read(path.read_bytes(), indices)
    return CoverAndCrop()(frames, HEIGHT, WIDTH, np.random.default_rng(0))[0]


def existing_readers() -> dict[str, VideoReader]:
    readers = {}
    for name in READERS:
        try:
            readers[name] = get_reader(name)
        except ValueError as error:
            print(f"left out: {error}")
    return readers


def decode(rounds: int) -> None:
    one_core()
    loops: dict[str, Callable[[Path, list[int]], torch.Tensor]] = {
        "plain: decord, float resize": plain_loop,
        "plain: decord, resize in bytes": lambda path, indices: plain_loop(path, indices, in_bytes=True),
    }
    for name, reader in existing_readers().items():
        loops[f"likeness: {name}"] = lambda path, indices, reader=reader: our_loop(reader, path, indices)
    rows = []
    for gop in (250, 30):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            path.write_bytes(footage(300, 720, 1280, gop))
            rows += [{"group of pictures": gop, **row} for row in alternating(loops, path, rounds)]
    report("loader_decode", rows, rounds=rounds, clip=f"{NUM_FRAMES} x {HEIGHT} x {WIDTH} of 720p, stride {STRIDE}")


def alternating(loops: dict[str, Callable], path: Path, rounds: int) -> list[dict]:
    """Return the rows for `loops`, each of which decodes the same random clip in every round."""
    rng, times = np.random.default_rng(0), {name: [] for name in loops}
    for number in range(rounds + 1):
        start = int(rng.integers(300 - (NUM_FRAMES - 1) * STRIDE))
        indices = list(range(start, start + (NUM_FRAMES - 1) * STRIDE + 1, STRIDE))
        clips = []
        for name, loop in loops.items():
            begin = time.perf_counter()
            clips.append(loop(path, indices))
            if number > 0:  # the first round warms up
                times[name].append(time.perf_counter() - begin)
        assert all((clip.int() - clips[0].int()).abs().max() <= 1 for clip in clips[2:]), "the loops show other pixels"
    median = {name: statistics.median(values) for name, values in times.items()}
    plain = next(iter(median.values()))
    return [
        {"loop": name, "median_s": seconds, "clips_per_s": 1 / seconds, "ratio": plain / seconds}
        for name, seconds in median.items()
    ]


def memory(rounds: int) -> None:
    """`rounds` is for others: it takes 2,000 clips to see a leak."""
    one_core()
    clips = [footage(length, height, 160, 12) for length, height in ((30, 120), (60, 96), (45, 90))]
    rows = []
    for name, reader in existing_readers().items():
        for number in range(2200):
            if number == 200:
                before = resident()
            indices = list(range(number % 20, number % 20 + 9, 2))
            CoverAndCrop()(reader.read(clips[number % 3], indices), 64, 96, np.random.default_rng(0))
        rows.append({"reader": name, "clips": 2000, "growth_mb": (resident() - before) / 1e6})
    report("loader_memory", rows)


def one_core() -> None:
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def wait(rounds: int) -> None:
    """Train the toy experiment for 20 steps a round, and read what it logs of itself."""
    shutil.rmtree(REPOSITORY / "outputs" / "wait", ignore_errors=True)
    settings = ["datamodule.num_workers=2", f"trainer.max_steps={20 * rounds}", "trainer.val_check_interval=null"]
    run("train.py", "experiment=concat_id_toy", *settings, "run_name=wait")
    logged = [
        row for row in read_metrics(REPOSITORY / "outputs" / "wait" / "metrics.csv") if row.get("train/data_wait")
    ]
    row = {"workers": 2, "steps": int(logged[-1]["step"]) + 1, "waiting": float(logged[-1]["train/data_wait"])}
    report("loader_wait", [row], what="share of the training time, the start of the workers included")


QUESTIONS: dict[str, Callable[[int], None]] = {"decode": decode, "memory": memory, "wait": wait}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    QUESTIONS[arguments.question](arguments.rounds)


if __name__ == "__main__":
    main()
