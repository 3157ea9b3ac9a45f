import lightning
import pytest
import torch

from likeness.callbacks.log_samples import LogSamples

from ..models.test_base import Loader
from ..models.test_concat_id import batch_of, build

pytestmark = pytest.mark.filterwarnings("ignore")


def validate(tmp_path, model, times: int = 1, **settings) -> lightning.Trainer:
    settings = {"num_clips": 2, "sampling": {"num_inference_steps": 3, "guidance_scale": 2.0}, **settings}
    callback = LogSamples(folder=str(tmp_path), fps=8, **settings)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
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
