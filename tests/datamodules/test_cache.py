"""Cached tensors are the run's own or refused: training on them equals training without them."""

import json
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors.torch import load

from likeness.config import compose_config
from likeness.datamodules.cache import MEMBER, ClipView, StoredTensors
from likeness.datamodules.samples import BadSample, Sample
from likeness.datamodules.tensors import TensorFile
from likeness.models.concat_id import ConcatID
from likeness.models.frozen import Cacheable, FrozenPart, content_hash
from likeness.preparation.stages.cache import Cache
from likeness.toy.world import ToyWorld, draw_group

from ..conftest import write_shards

pytestmark = pytest.mark.filterwarnings("ignore")

TINY = ["debug=tiny", "datamodule=shards", "datamodule.height=32", "datamodule.width=32", "datamodule.batch_size=2"]
TINY += ["datamodule.num_workers=0", "trainer.val_check_interval=null", "datamodule.num_frames=5"]
TWO = "+datamodule.conditions.references.min_references=2", "+datamodule.conditions.references.max_references=2"


def clips(people: int, num_people: int = 2, num_frames: int = 12) -> list[Sample]:
    world = ToyWorld(num_frames=num_frames, seed=5, width=64 * people, people_per_clip=people)
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


def view_of(data, sample: Sample) -> ClipView:
    shape = data.shape_of(sample)
    return ClipView.of(data.clip(sample, shape, np.random.default_rng(0)).chosen, shape)


@pytest.fixture(scope="module")
def plain() -> list[Sample]:
    return clips(people=1)


@pytest.fixture(scope="module")
def stage() -> Cache:
    return Cache(experiment="concat_id", overrides=TINY, device="cpu")


@pytest.fixture(scope="module")
def ready(plain, stage) -> list[Sample]:
    return stage.run(plain)


@pytest.fixture(scope="module")
def folder(ready, tmp_path_factory) -> Path:
    return store(tmp_path_factory.mktemp("cached"), ready)


def build(folder: Path, *overrides: str, steps: int = 1):
    """Return model, datamodule and trainer of a run on the shards in `folder`, and what it will say of its steps."""
    words = ["experiment=concat_id", *TINY, f"datamodule.train={folder}", *overrides]
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
        max_steps=steps,
        precision=config.trainer.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[watch],
    )
    return model, data, trainer, losses, watch


def train(folder: Path, *overrides: str, steps: int = 1):
    model, data, trainer, losses, watch = build(folder, *overrides, steps=steps)
    trainer.fit(model, datamodule=data)
    return model, data, torch.stack(losses), watch.names


@pytest.mark.parametrize(
    ("people", "overrides", "keep_video"),
    [(1, (), True), (2, TWO, False), (1, ("trainer.precision=bf16-mixed",), False)],
    ids=["one reference", "two references", "mixed precision"],
)
def test_training_on_cached_tensors_equals_training_without(tmp_path, people, overrides, keep_video):
    samples = clips(people)
    online = store(tmp_path / "online", samples)
    offline = store(tmp_path / "offline", cached(samples, *overrides, batch_size=2, keep_video=keep_video))
    first, _, expected, seen = train(online, *overrides, "datamodule.cache=never", steps=2)
    assert {"pixel_values"} <= seen and "latents" not in seen
    second, data, losses, seen = train(offline, *overrides, "datamodule.cache=required", steps=2)
    assert {"latents", "latents_std", "prompt_embeds"} <= seen
    assert "pixel_values" not in seen
    assert not data.skipped
    assert torch.equal(losses, expected)
    weights = second.trained_parameters()
    assert all(torch.equal(value, weights[name]) for name, value in first.trained_parameters().items())


BUCKETS = "sizes:[[32,32]],lengths:[5,9],token_budget:80,text_tokens:32"
BUCKETS = f"++datamodule.buckets={{_target_:likeness.datamodules.buckets.Buckets,{BUCKETS}}}"


def test_clips_of_every_length_are_cached_in_their_own(tmp_path):
    samples = [*clips(1), *(replace(one, key=f"long_{one.key}") for one in clips(1, num_frames=16))]
    online, offline = store(tmp_path / "online", samples), store(tmp_path / "offline", cached(samples, BUCKETS))
    _, _, expected, _ = train(online, BUCKETS, steps=2)
    _, data, losses, seen = train(offline, BUCKETS, "datamodule.cache=required", steps=2)
    assert "pixel_values" not in seen
    assert not data.skipped
    assert torch.equal(losses, expected)
    shapes = {tuple(load(one.members[MEMBER])["latents"].shape) for one in cached(samples, BUCKETS)}
    assert len(shapes) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("datamodule.height=48", "clip.height is 32, not 48"),
        ("datamodule.num_frames=9", "clip.num_frames is 5, not 9"),
        ("+datamodule.frames.skip=2", "inputs.pixel_values.frames.skip is 3, not 2"),
        ("+backbone.autoencoder.config.scaling_factor=0.5", "parts.autoencoder.config.vae.scaling_factor is"),
        ("+backbone.autoencoder.num_frames_per_encode=8", "settings.num_frames_per_encode is 49, not 8"),
        ("+backbone.autoencoder.tiling=true", "parts.autoencoder.settings.tiling is False, not True"),
        ("backbone.autoencoder.dtype=bfloat16", "parts.autoencoder.settings.dtype is float32, not bfloat16"),
        ("trainer.precision=bf16-mixed", "precision is 32-true, not bf16-mixed"),
    ],
)
def test_tensors_of_other_settings_end_the_run_and_say_what_differs(folder, change, message):
    with pytest.raises(ValueError, match="were made with other settings than this run has") as caught:
        train(folder, change)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "datamodule.cache=never" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("autoencoder", "cached latents were made .*parts.autoencoder.weights is"),
        ("text_encoder", "cached prompt_embeds were made .*parts.text_encoder.weights is"),
    ],
)
def test_one_other_value_amid_the_weights_is_enough(folder, part, message):
    model, data, trainer, _, _ = build(folder)
    weight = max(getattr(model, part).parameters(), key=lambda one: one.numel())
    before = content_hash(getattr(model, part))
    with torch.no_grad():
        weight.view(-1)[weight.numel() // 2] += 1e-6
    assert content_hash(getattr(model, part)) != before
    with pytest.raises(ValueError, match=message):
        trainer.fit(model, datamodule=data)


def test_other_rules_of_the_tokenizer_end_the_run(folder):
    model, data, trainer, _, _ = build(folder)
    model.text_encoder.tokenizer.add_tokens(["clip"])
    with pytest.raises(ValueError, match="parts.text_encoder.tokenizer is"):
        trainer.fit(model, datamodule=data)


def test_what_is_trained_and_how_has_no_part_in_it(folder, stage):
    changes = [
        "lora=attention",
        "backbone.denoiser.seed=7",
        "model.prompt_dropout=0.3",
        "model.optimizer.lr=1",
        "seed=3",
    ]
    _, data, _, seen = train(folder, *changes, "datamodule.cache=required")
    assert "latents" in seen
    assert data.cache_plans["train"].recipes == stage.plan.recipes
    assert not data.skipped


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def changed(sample: Sample, what: str) -> Sample:
    member = sample.members[MEMBER]
    header = int.from_bytes(member[:8], "little")
    members, info = dict(sample.members), dict(sample.info)
    if what == "video":
        members["mp4"] = flipped(members["mp4"], len(members["mp4"]) // 2)
    elif what == "caption":
        info["caption"] = "Now " + info["caption"]
    elif what == "frames":
        info["fps"] = 16.0
    elif what == "no member":
        del members[MEMBER]
    else:
        members[MEMBER] = {
            "truncated": member[: len(member) // 2],
            "garbage": b"garbage" * 1000,
            "empty": b"",
            "a tensor's byte": flipped(member, (8 + header + len(member)) // 2),
            "huge header": (2**62).to_bytes(8, "little") + member[8:],
            "header": member[:8] + b"[" * header + member[8 + header :],
        }[what]
    return replace(sample, members=members, info=info)


SAMPLES = {
    "video": ("stale cache", "of another video than it has now"),
    "caption": ("stale cache", "prompt_embeds of the sample were made of another caption"),
    "frames": ("stale cache", "latents of the sample were made of other frames"),
    "no member": ("no cached tensors", "no member latents.safetensors"),
    "truncated": ("broken cache", ""),
    "garbage": ("broken cache", ""),
    "empty": ("broken cache", ""),
    "a tensor's byte": ("broken cache", "have changed since they were written"),
    "huge header": ("broken cache", "header of 4611686018427387904 bytes"),
    "header": ("broken cache", ""),
}


@pytest.mark.parametrize("what", SAMPLES)
def test_tensors_that_are_not_the_samples_own_are_refused(ready, stage, what):
    sample = changed(ready[0], what)
    view = view_of(stage.datamodule, sample)
    assert stage.plan.load(ready[0], view_of(stage.datamodule, ready[0]))
    with pytest.raises(BadSample) as caught:
        stage.plan.load(sample, view)
    reason, detail = SAMPLES[what]
    assert caught.value.reason == reason
    assert detail in caught.value.detail


def test_refused_samples_are_counted_and_the_others_train(tmp_path, ready):
    samples = [replace(changed(ready[0], what), key=what.replace(" ", "_")) for what in SAMPLES]
    _, data, losses, seen = train(store(tmp_path / "mixed", [*samples, *ready]), steps=7)
    assert len(losses) == 7
    assert "latents" in seen
    assert {skip.key: skip.reason for skip in data.skipped.values()} == {
        what.replace(" ", "_"): reason for what, (reason, _) in SAMPLES.items()
    }


def test_members_that_changed_places_are_refused_without_the_videos_too(plain):
    stage = Cache(experiment="concat_id", overrides=TINY, device="cpu", tensors=["latents"], keep_video=False)
    first, second = stage.run(plain[:2])
    assert "mp4" not in first.members
    view = view_of(stage.datamodule, first)
    assert stage.plan.load(first, view)
    with pytest.raises(BadSample, match="made of another video"):
        stage.plan.load(replace(first, members=second.members), view)
    again = stage.run([first])[0]
    assert again == first


class FirstFrame(FrozenPart):
    """Stands for an image encoder of another method."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return pixel_values[:, :, 0].mean(dim=(2, 3))[:, None]


class WithImageEmbeds(ConcatID):
    """A method that brings one more thing that can be cached."""

    def __init__(self, *, image_encoder: FirstFrame, **settings):
        super().__init__(**settings)
        self.image_encoder = image_encoder

    @classmethod
    def cacheable(cls):
        added = Cacheable(("image_encoder",), ("pixel_values",), embed_image)
        return super().cacheable() | {"image_embeds": added}


def embed_image(image_encoder: FirstFrame, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"image_embeds": image_encoder(pixel_values)}


def test_a_method_adds_what_it_can_cache_without_a_change_elsewhere(tmp_path, plain):
    words = [f"model._target_={__name__}.WithImageEmbeds", f"+model.image_encoder._target_={__name__}.FirstFrame"]
    folder = store(tmp_path / "all", cached(plain, *words))
    *_, seen = train(folder, *words, "datamodule.cache=required")
    assert {"latents", "prompt_embeds", "image_embeds"} <= seen
    assert "pixel_values" not in seen
    folder = store(tmp_path / "some", cached(plain, *words, tensors=["latents"]))
    *_, seen = train(folder, *words)
    assert {"latents", "pixel_values"} <= seen  # the image encoder has yet to see the clip


def test_no_bytes_do_more_than_be_refused(ready, stage):
    sample, view = ready[0], view_of(stage.datamodule, ready[0])
    member, rng = ready[0].members[MEMBER], np.random.default_rng(0)
    header = int.from_bytes(member[:8], "little")
    good = stage.plan.load(sample, view)
    for _ in range(500):
        data = bytearray(member)
        for place in rng.integers(0, 8 + header, rng.integers(1, 4)):
            data[place] = rng.integers(256)
        try:
            loaded = stage.plan.load(replace(sample, members=sample.members | {MEMBER: bytes(data)}), view)
        except BadSample:
            continue
        assert all(torch.equal(value, good[name]) for name, value in loaded.items())


def test_stored_tensors_are_what_safetensors_reads(ready):
    member = ready[0].members[MEMBER]
    theirs, ours = load(member), TensorFile.parse(member)
    assert set(theirs) == {"latents", "latents_std", "prompt_embeds"}
    assert all(torch.equal(value, ours.tensor(name)) for name, value in theirs.items())


def test_a_second_run_computes_nothing_and_a_new_caption_only_its_prompt(ready, stage, monkeypatch):
    again = stage.run(ready)
    assert [one.members for one in again] == [one.members for one in ready]
    computed = []
    compute = stage._compute
    monkeypatch.setattr(stage, "_compute", lambda name, rows: computed.append((name, len(rows))) or compute(name, rows))
    stage.run(ready)
    assert computed == []
    (renamed,) = stage.run([changed(ready[0], "caption")])
    assert computed == [("prompt_embeds", 1)]
    view = view_of(stage.datamodule, renamed)
    assert not torch.equal(
        stage.plan.load(renamed, view)["prompt_embeds"], load(ready[0].members[MEMBER])["prompt_embeds"]
    )
    assert StoredTensors.parse(renamed).entry("latents") == StoredTensors.parse(ready[0]).entry("latents")


def test_samples_that_cannot_be_seen_are_dropped_with_the_reason(plain, stage):
    broken = replace(plain[0], members=plain[0].members | {"mp4": b"garbage"})
    good, bad = stage.run([plain[1], broken])
    assert MEMBER in good.members
    assert bad.reason == "unreadable video"


def test_frames_that_are_drawn_at_random_are_not_stored(plain):
    words = ["datamodule.frames._target_=likeness.datamodules.frames.StridedFrames", "+datamodule.frames.start=random"]
    stage = Cache(experiment="concat_id", overrides=[*TINY, *words], device="cpu")
    with pytest.raises(ValueError, match="draws frames, flips or pictures at random"):
        stage.run(plain)
    stage = Cache(experiment="concat_id", overrides=[*TINY, *words], device="cpu", tensors=["prompt_embeds"])
    assert set(StoredTensors.parse(stage.run(plain)[0]).entries) == {"prompt_embeds"}


def test_prompts_alone_may_be_cached(tmp_path, plain):
    folder = store(tmp_path / "prompts", cached(plain, tensors=["prompt_embeds"]))
    *_, seen = train(folder)
    assert {"pixel_values", "prompt_embeds"} <= seen
    with pytest.raises(ValueError, match="datamodule.cache=required, but .* has no cached latents"):
        train(folder, "datamodule.cache=required")


def test_rounded_tensors_make_a_close_loss(tmp_path, plain):
    rounded = cached(plain, dtype="bfloat16")
    assert load(rounded[0].members[MEMBER])["latents"].dtype == torch.bfloat16
    _, _, expected, _ = train(store(tmp_path / "online", plain))
    _, _, losses, _ = train(store(tmp_path / "rounded", rounded))
    torch.testing.assert_close(losses, expected, rtol=0.02, atol=0)
    assert not torch.equal(losses, expected)


def test_an_encoder_with_nothing_to_do_stays_off_the_device(folder):
    model, data, trainer, _, _ = build(folder)
    trainer.fit(model, datamodule=data)
    assert "text_encoder" not in dict(model.named_children())
    assert "autoencoder" in dict(model.named_children())
    model.to(torch.float64)  # as it would to another device
    assert next(model.text_encoder.parameters()).dtype == torch.float32
    assert set(model.frozen_fingerprints()) >= {"text_encoder", "autoencoder"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tensors": ["latent"]}, "stages.cache.tensors: latent is nothing that is cached: did you mean latents"),
        ({"dtype": "int8"}, "dtype='int8' is not one of"),
        ({"overrides": [*TINY, "trainer.precision=bf16-true"]}, "trainer.precision=bf16-true cannot be cached for"),
        ({"overrides": ["datamodule.height=1"]}, "hf download"),
    ],
)
def test_what_cannot_be_cached_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Cache(**{"experiment": "concat_id", "overrides": TINY, "device": "cpu", **settings})


def test_unknown_mode_is_refused(folder):
    with pytest.raises(InstantiationException, match="cache='always' is not one of auto, required, never"):
        build(folder, "datamodule.cache=always")
