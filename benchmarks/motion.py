"""How much faster the motion metric is when frames are shrunk first, and how far its values move.

    python benchmarks/motion.py                      # a drawn camera movement of 49 x 480 x 720
    python benchmarks/motion.py --video CLIP.mp4     # the first 49 frames of a clip, scaled to 480 x 720

One thread, one process; `times_faster` is against whole frames in the same run.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import report

FRAMES, HEIGHT, WIDTH, SPEED = 49, 480, 720, 4
SETTINGS: dict[str, dict[str, Any]] = {
    "whole frames": {},
    "max_width=360": {"max_width": 360},
    "max_width=256": {"max_width": 256},
    "max_width=256 opens2v=false": {"max_width": 256, "opens2v": False},
}


def drawn() -> np.ndarray:
    """Return a camera that moves over a soft random picture, SPEED pixels a frame."""
    coarse = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (1, 3, 40, 120)).astype(np.float32))
    wide = F.interpolate(coarse, (HEIGHT, WIDTH + FRAMES * SPEED), mode="bicubic").clamp(0, 255)[0]
    picture = wide.permute(1, 2, 0).byte().numpy()
    return np.stack([picture[:, SPEED * index : SPEED * index + WIDTH] for index in range(FRAMES)])


def read(path: Path) -> tuple[np.ndarray, float]:
    from likeness.datamodules.video import get_reader

    frames, fps = get_reader("pyav").read_all(path.read_bytes())
    pixels = torch.from_numpy(frames[:FRAMES]).permute(0, 3, 1, 2).float()
    return F.interpolate(pixels, (HEIGHT, WIDTH), mode="area").round().byte().permute(0, 2, 3, 1).numpy(), fps


def main() -> None:
    import cv2

    from likeness.metrics.flow import FarnebackFlow
    from likeness.metrics.motion import Motion

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path)
    video = parser.parse_args().video
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    frames, fps = (drawn(), 8.0) if video is None else read(video)
    rows: list[dict[str, Any]] = []
    for name, settings in SETTINGS.items():
        metric, start = Motion(flow=FarnebackFlow(), **settings), time.process_time()
        metric.update(frames, fps)
        seconds = time.process_time() - start
        values = {key: value.item() for key, value in metric.compute().items()}
        faster = rows[0]["cpu_seconds"] / seconds if rows else 1.0
        amplitude, warping = values["motion_amplitude"], values["warping_error"]
        rows.append({"setting": name, "cpu_seconds": seconds, "times_faster": faster, "motion_amplitude": amplitude})
        rows[-1]["dynamic"], rows[-1]["warping_error_1e6"] = values["dynamic_degree"], 1e6 * warping
    report("motion", rows, frames=f"{len(frames)} x {HEIGHT} x {WIDTH}", clip="drawn" if video is None else video.name)


if __name__ == "__main__":
    main()
