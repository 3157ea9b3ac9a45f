from types import SimpleNamespace

import lightning
import pytest
import torch

from likeness.callbacks.log_samples import ClipListener, LogSamples
from likeness.datamodules.video import get_reader
from likeness.inputs import read_picture

from ..models.test_base import Loader
from ..models.test_concat_id import batch_of, build

pytestmark = pytest.mark.filterwarnings("ignore")


SAMPLING = {"num_inference_steps": 3, "guidance_scale": 2.0}


def trainer_with(*callbacks) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def validate(tmp_path, model, times: int = 1, **settings) -> lightning.Trainer:
    settings = {"num_clips": 2, "sampling": SAMPLING, **settings}
    trainer = trainer_with(LogSamples(folder=str(tmp_path), fps=8, **settings))
    for _ in range(times):
        trainer.validate(model, Loader([batch_of(2), batch_of(2, seed=1)]), verbose=False)
    return trainer


def sampling_calls(tmp_path, times: int = 1, **settings) -> list[int]:
    """Return the denoiser's batch sizes in sampling; validation's loss takes two calls of two clips first."""
    model, sizes = build(), []
    model.denoiser.register_forward_hook(
        lambda module, inputs, arguments, output: sizes.append(len(arguments["hidden_states"])), with_kwargs=True
    )
    validate(tmp_path, model, times, **settings)
    return sizes[2:] if times == 1 else sizes


def test_samples_follow_the_runs_settings(tmp_path):
    assert sampling_calls(tmp_path) == [4] * 3
    assert {path.name for path in (tmp_path / "step_0000000").iterdir()} == {
        *("000.mp4", "000.txt", "000_reference_0.png", "001.mp4", "001.txt", "001_reference_0.png", "sheet.png")
    }


def test_validation_can_sample_with_fewer_steps(tmp_path):
    assert sampling_calls(tmp_path, num_inference_steps=1) == [4]


def test_clips_can_be_made_one_at_a_time_and_keep_their_places(tmp_path):
    assert sampling_calls(tmp_path / "one", batch_size=1) == [2] * 6
    assert sampling_calls(tmp_path / "all", num_clips=3) == [4] * 3 + [2] * 3
    captions = [[path.read_text() for path in sorted((tmp_path / name).rglob("*.txt"))] for name in ("one", "all")]
    assert captions[0] == captions[1][:2]


@pytest.mark.parametrize("settings", [{"every_n_validations": 0}, {"num_clips": 0}])
def test_validation_can_do_without_samples(tmp_path, settings):
    assert sampling_calls(tmp_path, **settings) == []
    assert not list(tmp_path.iterdir())


def test_every_nth_validation_samples(tmp_path):
    calls = sampling_calls(tmp_path, times=3, every_n_validations=2)
    assert calls == [2, 2, 4, 4, 4, 2, 2, 2, 2, 4, 4, 4]


@pytest.mark.parametrize("num_clips", [0, 1, 3, 4])
def test_ranks_together_make_as_many_clips_as_asked_for(tmp_path, num_clips):
    callback = LogSamples(folder=str(tmp_path), fps=8, num_clips=num_clips)
    ranks = [SimpleNamespace(global_rank=rank, world_size=2, callbacks=[]) for rank in range(2)]
    for count in (callback._wanted, callback._num_written):
        assert sum(map(count, ranks)) == num_clips


class EndsInItsReference:
    """Put before a method, whose `generate` then shows the failure that users of Concat-ID reported."""

    def generate(self, batch, draws, *, num_frames, **settings):
        clips = torch.rand(len(draws.seeds), 3, 8, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        clips[:1, :, -2:] = batch["reference_pixel_values"][:1]
        return clips


def test_clips_that_end_in_their_reference_are_named(tmp_path, caplog):
    model = build()
    model.__class__ = type("Copying", (EndsInItsReference, type(model)), {})
    trainer = validate(tmp_path, model)
    assert trainer.callback_metrics["val/reference_copy"] == 0.5
    assert "the last frames of" in caplog.text
    assert "000.mp4 become its reference picture" in caplog.text
    assert "001.mp4" not in caplog.text


def test_honest_clips_are_not_named(tmp_path, caplog):
    trainer = validate(tmp_path, build())
    assert trainer.callback_metrics["val/reference_copy"] == 0
    assert "become its reference" not in caplog.text


@pytest.mark.parametrize("setting", ["num_clips", "every_n_validations", "batch_size"])
def test_impossible_settings_are_refused(tmp_path, setting):
    with pytest.raises(ValueError, match=rf"{setting}=-1 must be at least .: callbacks\.log_samples\.{setting}"):
        LogSamples(folder=str(tmp_path), fps=8, **{setting: -1})


def boxed_batch(size: int, seed: int = 0) -> dict:
    """A batch of two slots, of which the second is empty: the first has a red box on the left half."""
    batch = batch_of(size, seed=seed)
    num_frames = batch["pixel_values"].shape[2]
    masks = torch.tensor([1.0, 0.0]).repeat(size, num_frames, 1)
    return batch | {
        "boxes": torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.0] * 4]).repeat(size, num_frames, 1, 1),
        "track_masks": masks,
        "track_colours": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).repeat(size, 1, 1),
        "track_ids": torch.tensor([7, -1]).repeat(size, 1),
    }


class Listening(ClipListener):
    """Keeps the boxes that it is shown."""

    num_clips = 3

    def __init__(self):
        self.shown = []

    def on_clip_sampled(self, place, frames, references, prompt, boxes=None):
        self.shown.append(boxes)


def test_boxes_are_drawn_into_what_is_made_and_into_the_real_clip(tmp_path):
    listening = Listening()
    trainer = trainer_with(LogSamples(folder=str(tmp_path), fps=8, num_clips=2, sampling=SAMPLING), listening)
    trainer.validate(build(), Loader([boxed_batch(2), boxed_batch(2, seed=1)]), verbose=False)
    folder = tmp_path / "step_0000000"
    assert {path.stem for path in folder.glob("*.mp4")} == {
        f"{number}{view}" for number in ("000", "001") for view in ("", "_boxes", "_real_boxes")
    }
    made, boxed, real = (
        get_reader("pyav").read_all((folder / f"000{view}.mp4").read_bytes())[0].astype(int)
        for view in ("", "_boxes", "_real_boxes")
    )
    width = made.shape[2]
    for shown in (boxed, real):
        assert (shown[:, 0, : width // 2, 0] - shown[:, 0, : width // 2, 1:].mean(axis=-1)).mean() > 60
    assert len(listening.shown) == 3
    assert listening.shown[0].ids == ("7",)
    assert listening.shown[0].colours.tolist() == [[255, 0, 0]]
    sheet = read_picture(folder / "sheet.png")
    assert sheet.shape[0] >= 6 * made.shape[1]
