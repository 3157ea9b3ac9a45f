"""Trains the toy face analyzer that ships with the package: `python -m likeness.toy.train_analyzer`, minutes on a CPU.

People are drawn with seeds that neither the training nor the held-out people of a toy data set use. Frames are
damaged the way that generated clips are (half resolution, blur, noise, shifted colours), so that the detection rate and
the similarity stay meaningful for them.
"""

import argparse
import logging
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from .analyzer import STRIDE, WEIGHTS, ToyFaceDetector, ToyFaceEmbedder, align
from .clips import draw_clip
from .people import make_person

log = logging.getLogger(__name__)
SEED = 7_000_000


def draw_views(person_index: int, num_views: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return frames (v 64 64 3), boxes (v 4) and keypoints (v 5 2) of one person in `num_views` unrelated clips."""
    person = make_person(np.random.default_rng([SEED, person_index]))
    clips = [
        draw_clip([person], np.random.default_rng([SEED, person_index, view]), num_frames=1, height=64, width=64, fps=8)
        for view in range(num_views)
    ]
    return (
        np.concatenate([clip.frames for clip in clips]),
        np.concatenate([clip.boxes[:, 0] for clip in clips]),
        np.concatenate([clip.keypoints[:, 0] for clip in clips]),
    )


def damage(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return `images` (b 3 h w, in [-1, 1]) with the faults of generated frames, another mixture for each image."""
    count, _, height, width = images.shape
    amount = torch.rand(count, 4, 1, 1, 1, generator=generator)
    small = F.interpolate(images, (height // 2, width // 2), mode="bilinear", antialias=True)
    halved = F.interpolate(small, (height, width), mode="bilinear")
    images = torch.where(amount[:, 0] < 0.6, halved, images)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = torch.lerp(images, blurred, amount[:, 1])
    colour = 0.12 * torch.randn(count, 3, 1, 1, generator=generator) * amount[:, 2]
    coarse = torch.randn(count, 3, height // 4, width // 4, generator=generator)
    noise = F.interpolate(coarse, (height, width), mode="bilinear") + 0.5 * torch.randn(
        images.shape, generator=generator
    )
    return (images + colour + 0.12 * amount[:, 3] ** 2 * noise).clamp(-1, 1)


def detector_loss(output: Tensor, boxes: Tensor, keypoints: Tensor, present: Tensor) -> Tensor:
    """Return the loss of the detector's `output` (b 15 h w): one face an image, none where `present` (b) is False."""
    height, width = output.shape[-2:]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / STRIDE
    cells = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")[::-1], -1) + 0.5
    offsets = cells - centres[:, None, None]
    heat = torch.exp(-offsets.square().sum(-1) / 2) * present[:, None, None]
    score = F.binary_cross_entropy_with_logits(output[:, 0], heat, reduction="none")
    near = heat > 0.5
    targets = torch.cat(
        [
            cells - boxes[:, None, None, :2] / STRIDE,
            boxes[:, None, None, 2:] / STRIDE - cells,
            (keypoints[:, None, None] / STRIDE - cells[..., None, :]).flatten(-2),
        ],
        dim=-1,
    )
    geometry = F.smooth_l1_loss(output[:, 1:].permute(0, 2, 3, 1)[near], targets[near])
    return score.mean() * 10 + geometry


def without_faces(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images of the same colours as `images` (b 3 h w) but without a face: patches of 8 x 8 pixels, shuffled."""
    count, _, height, width = images.shape
    patches = F.unfold(images, 8, stride=8)
    order = torch.rand(count, patches.shape[-1], generator=generator).argsort(-1)
    shuffled = patches.gather(2, order[:, None].expand_as(patches))
    return F.fold(shuffled, (height, width), 8, stride=8)


def same_person_loss(first: Tensor, second: Tensor, temperature: float = 0.08) -> Tensor:
    """Symmetric InfoNCE of unit vectors `first`, `second` (b d): row i of both is the same person."""
    logits = first @ second.T / temperature
    target = torch.arange(len(first))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default=str(WEIGHTS))
    parser.add_argument("--people", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=2500)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    with ProcessPoolExecutor() as pool:
        views = list(pool.map(draw_views, range(arguments.people), chunksize=50))
    frames = torch.from_numpy(np.stack([frame for frame, _, _ in views]))
    boxes = torch.from_numpy(np.stack([box for _, box, _ in views])).float()
    keypoints = torch.from_numpy(np.stack([points for _, _, points in views])).float()
    log.info("drew %d people", len(frames))

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    networks = torch.nn.ModuleDict({"detector": ToyFaceDetector(), "embedder": ToyFaceEmbedder()})
    optimizer = torch.optim.AdamW(networks.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=arguments.steps)
    for step in range(arguments.steps):
        people = torch.randint(len(frames), (128,), generator=generator)
        pair = torch.rand(128, frames.shape[1], generator=generator).argsort(-1)[:, :2]
        crops, losses = [], []
        for view in pair.T:
            images = damage(frames[people, view].permute(0, 3, 1, 2) / 127.5 - 1, generator)
            points = keypoints[people, view]
            jitter = points + 0.7 * torch.randn(points.shape, generator=generator)
            crops.append(align(images, jitter.numpy()))
            present = torch.rand(128, generator=generator) < 0.75
            images = torch.where(present[:, None, None, None], images, without_faces(images, generator))
            chosen = slice(0, 48)
            losses.append(
                detector_loss(
                    networks["detector"](images[chosen]), boxes[people, view][chosen], points[chosen], present[chosen]
                )
            )
        identity = same_person_loss(networks["embedder"](crops[0]), networks["embedder"](crops[1]))
        loss = identity + sum(losses) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log.info("step %d: identity %.3f, detection %.3f", step, identity.item(), float(sum(losses)) / 2)
    save_file(
        {name: value.half().float().contiguous() for name, value in networks.state_dict().items()}, arguments.output
    )


if __name__ == "__main__":
    main()
