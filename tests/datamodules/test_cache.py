"""Cached tensors are the run's own or refused: training on them equals training without them, whatever changed since."""

import json
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load

from likeness.config import compose_config
from likeness.datamodules.cache import MEMBER, ClipView, StoredTensors
from likeness.datamodules.samples import BadSample, Sample
from likeness.datamodules.shards import list_shards, read_shard
from likeness.datamodules.tensors import TensorFile, dump_tensors
from likeness.models.frozen import content_hash
from likeness.preparation.stages.cache import Cache
from likeness.toy.world import ToyWorld, draw_group

from ..conftest import write_shards

TINY = ["debug=tiny", "datamodule=shards", "datamodule.height=32", "datamodule.width=32", "datamodule.batch_size=2"]
TINY += ["datamodule.num_workers=0", "trainer.val_check_interval=null", "datamodule.num_frames=5"]
TWO = "+datamodule.conditions.references.min_references=2", "+datamodule.conditions.references.max_references=2"


def clips(people: int, num_people: int = 2) -> list[Sample]:
    world = ToyWorld(num_frames=12, seed=5, width=64 * people, people_per_clip=people)
    groups = [tuple(range(first, first + people)) for first in range(0, num_people * people, people)]
    made = [sample for group in groups for sample in draw_group(world, group)]
    return [Sample.parse({"__key__": key, "__url__": "shard", **members}) for key, members in made]


def store(folder: Path, samples: list[Sample]) -> Path:
    return write_shards(
        folder, [(one.key, {**one.members, "json": json.dumps(one.info).encode()}) for one in samples], per_shard=100
    )


def cached(samples: list[Sample], *overrides: str, **settings) -> list[Sample]:
    stage = Cache(experiment="concat_id", overrides=[*TINY, *overrides], device="cpu", **settings)
    made = stage.run(samples)
    assert not any(isinstance(one, BadSample) for one in made)
    return made


@pytest.fixture(scope="module")
def plain() -> list[Sample]:
    return clips(people=1)


@pytest.fixture(scope="module")
def ready(plain) -> list[Sample]:
    return cached(plain)


def build(folder: Path, *overrides: str):
    """Return model, datamodule and trainer of a run on the shards in `folder`."""
    words = ["experiment=concat_id", *TINY, f"datamodule.train={folder}", *overrides, "trainer.max_steps=2"]
    config = compose_config("train", [*words, "paths.output_dir=out", "run_name=x", "datamodule.skip_log=null"])
    torch.manual_seed(0)
    model, data = (instantiate(config[name], _convert_="all") for name in ("model", "datamodule"))
    losses: list[torch.Tensor] = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            losses.append(outputs["loss"].detach())
            self.names = set(batch)

    watch = Watch()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=2,
        precision=config.trainer.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[watch],
    )
    return model, data, trainer, losses, watch


def train(folder: Path, *overrides: str):
    model, data, trainer, losses, watch = build(folder, *overrides)
    trainer.fit(model, datamodule=data)
    return model, data, torch.stack(losses), watch.names


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("people", "overrides", "keep_video"),
    [(1, (), True), (2, TWO, False), (1, ("trainer.precision=bf16-mixed",), False)],
    ids=["one reference", "two references", "mixed precision"],
)
def test_training_on_cached_tensors_equals_training_without(tmp_path, people, overrides, keep_video):
    samples = clips(people)
    online = store(tmp_path / "online", samples)
    offline = store(tmp_path / "offline", cached(samples, *overrides, batch_size=2, keep_video=keep_video))
    first, _, expected, seen = train(online, *overrides, "datamodule.cache=never")
    assert {"pixel_values"} <= seen and "latents" not in seen
    second, data, losses, seen = train(offline, *overrides, "datamodule.cache=required")
    assert {"latents", "latents_std", "prompt_embeds"} <= seen
    assert "pixel_values" not in seen
    assert not data.skipped
    assert torch.equal(losses, expected)
    weights = second.trained_parameters()
    assert all(torch.equal(value, weights[name]) for name, value in first.trained_parameters().items())
