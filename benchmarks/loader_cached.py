"""Cached samples a second in one process, through the datamodule as training has it.

    python benchmarks/loader_cached.py

A sample has what Concat-ID stores of a clip of 49 x 480 x 720 in bfloat16: latents 16 x 13 x 60 x 90 and T5 embeddings
226 x 4096, 4.1 MB, without the video. Every sample is found, read, checked (recipe, caption, checksums) and collated;
files are in the page cache. `plain read` reads the same tars with nothing but webdataset and safetensors.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from common import report

from likeness.datamodules.cache import (
    MEMBER,
    CachePlan,
    ClipView,
    Made,
    clip_sources,
    dump_cache,
    full_recipe,
    without_video,
)
from likeness.datamodules.clips import ClipDataModule
from likeness.datamodules.frames import ConcatIDFrames
from likeness.datamodules.samples import Sample
from likeness.datamodules.shards import ShardWriter, list_shards

SIZE = {"num_frames": 49, "height": 480, "width": 720}
SHAPES = {"latents": (16, 13, 60, 90), "prompt_embeds": (226, 4096)}
INPUTS = {"latents": ("pixel_values",), "prompt_embeds": ("caption",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        module = data(Path(folder))
        write(module, Path(folder), arguments.samples)
        loaders = {"plain read": lambda: plain_read(Path(folder)), "likeness": module.train_dataloader}
        best = dict.fromkeys(loaders, (0.0, 0.0))
        for _ in range(arguments.rounds):
            for name, loader in loaders.items():  # in turn, so that both meet the same machine
                best[name] = max(best[name], rates(loader(), arguments.samples))
    megabytes = sum(2 * torch.Size(shape).numel() for shape in SHAPES.values()) / 1e6
    rows = [
        {
            "loader": name,
            "samples_per_s": value,
            "samples_per_cpu_s": of_cpu,
            "megabytes_per_s": value * megabytes,
            "ratio": value / best["plain read"][0],
        }
        for name, (value, of_cpu) in best.items()
    ]
    report("loader_cached", rows, megabytes_per_sample=megabytes, samples=arguments.samples)


def data(folder: Path) -> ClipDataModule:
    module = ClipDataModule(**SIZE, frames=ConcatIDFrames(), conditions={}, train=str(folder), shuffle_buffer=0)
    computed = {name: {"parts": {"autoencoder": {"settings": {str(i): i for i in range(20)}}}} for name in SHAPES}
    recipes = {
        name: recipe | {"inputs": {one: module.input_recipe(one) for one in INPUTS[name]}}
        for name, recipe in computed.items()
    }
    module.cache_plans["train"] = CachePlan(recipes, INPUTS, frozenset({"pixel_values"}))
    return module


def write(module: ClipDataModule, folder: Path, count: int) -> None:
    """Write shards of `count` samples that `module` takes for its own."""
    plan, writer = module.cache_plans["train"], ShardWriter(folder, max_samples=100)
    for number in range(count):
        info = {"caption": f"clip {number}", "num_frames": 100, "fps": 16.0, "height": 480, "width": 720}
        members = {"json": json.dumps(info).encode(), "mp4": b"left out"}
        sample = Sample.parse({"__key__": f"{number:06d}", "__url__": "", **members})
        shape = module.shape_of(sample)
        view = ClipView.of(module.clip(sample, shape, np.random.default_rng(0)).chosen, shape)
        made = {
            name: Made(
                {name: torch.randn(shape, dtype=torch.bfloat16)},
                full_recipe(plan.recipes[name], INPUTS[name], view.size),
                clip_sources(sample, view, INPUTS[name]),
            )
            for name, shape in SHAPES.items()
        }
        stored = without_video(sample, info)
        writer.write(sample.key, {"json": json.dumps(stored.info).encode(), MEMBER: dump_cache(made)})
    writer.close()

    return np.random.default_rng(0)


def plain_read(folder: Path) -> Iterable:
    from safetensors.torch import load
    from webdataset.tariterators import tarfile_samples

    for sample in tarfile_samples([{"url": shard.url} for shard in list_shards(folder)]):
        yield {name: tensor[None].clone() for name, tensor in load(sample[MEMBER]).items()}


def rates(batches: Iterable, count: int) -> tuple[float, float]:
    """Return samples a second and samples a second of the processor, from batches of one."""
    seen, start, cpu = 0, time.perf_counter(), time.process_time()
    for batch in islice(batches, count):
        assert batch["latents"].shape == (1, *SHAPES["latents"])
        seen += 1
    assert seen == count
    return seen / (time.perf_counter() - start), seen / (time.process_time() - cpu)


if __name__ == "__main__":
    main()
