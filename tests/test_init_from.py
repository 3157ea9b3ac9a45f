"""`train.py init_from=RUN`: the weights of another run at step 0, unlike `ckpt`, which goes on with it."""

import pytest
import torch

from likeness.checkpoints.lightning import read_checkpoint

from .commands import call


def train(capfd, toy_settings, tmp_path, *arguments):
    settings = ["experiment=concat_id_stage2", "debug=tiny", *toy_settings, f"paths.output_root={tmp_path}"]
    return call(
        capfd, "train", *settings, "run_name=x", "~callbacks.log_samples", "trainer.limit_val_batches=0", *arguments
    )


def first_checkpoint(tmp_path) -> dict:
    return read_checkpoint(tmp_path / "x" / "checkpoints" / "step_0000001.ckpt")


ONE_STEP = ["trainer.max_steps=1", "callbacks.checkpoint.every_n_train_steps=1"]


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_run_starts_with_the_weights_of_another_at_step_zero(tiny_run, toy_settings, tmp_path, capfd, weights):
    # At a learning rate of zero, what the first checkpoint holds is what the run started with.
    arguments = [f"init_from={tiny_run}", f"init_weights={weights}", "model.optimizer.lr=0", *ONE_STEP]
    outcome = train(capfd, toy_settings, tmp_path, *arguments)
    assert outcome.code == 0, outcome.error
    assert f"starting from the {weights} weights of step 20" in outcome.log
    assert "from the weights of the backbone" not in outcome.log
    before, after = read_checkpoint(tiny_run / "checkpoints" / "step_0000020.ckpt"), first_checkpoint(tmp_path)
    expected = before["ema"]["state_dict"] if weights == "ema" else before["state_dict"]
    assert after["global_step"] == 1
    assert after["state_dict"].keys() == expected.keys()
    assert all(torch.equal(after["state_dict"][name], expected[name]) for name in expected)
    # The average starts as these weights too (and is an average of equals after one step).
    torch.testing.assert_close(after["ema"]["state_dict"], expected)
    (state, *_) = after["optimizer_states"][0]["state"].values()
    assert float(state["step"]) == 1


def test_a_later_stage_without_init_from_says_that_it_starts_from_the_backbone(toy_settings, tmp_path, capfd):
    outcome = train(capfd, toy_settings, tmp_path, *ONE_STEP)
    assert outcome.code == 0, outcome.error
    assert "concat_id_stage2 starts from the weights of the backbone, not from a run of concat_id_stage1" in outcome.log
    assert "init_from=RUN" in outcome.log


def test_a_run_that_goes_on_does_not_start_again(tiny_run, toy_settings, tmp_path, capfd):
    arguments = [f"init_from={tiny_run}", "ckpt=last", "callbacks.checkpoint.every_n_train_steps=1"]
    first = train(capfd, toy_settings, tmp_path, *arguments, "trainer.max_steps=1")
    assert "starting from the ema weights" in first.log
    second = train(capfd, toy_settings, tmp_path, *arguments, "trainer.max_steps=2")
    assert second.code == 0, second.error
    assert "resuming from" in second.log
    assert "starting from the ema weights" not in second.log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init_from=gone"], "there is no checkpoint at init_from=gone"),
        (["init_from=RUN", "ckpt=RUN"], "goes on with a run, init_from"),
        (["init_from=RUN", "init_weights=both"], "init_weights=both is not one of ema, raw"),
        (
            ["init_from=RUN", "backbone.denoiser.config.num_layers=1"],
            "trained tensors differ, the first is denoiser.transformer_blocks.1",
        ),
        (
            ["init_from=RUN", "backbone.denoiser.config.time_embed_dim=16"],
            "(128, 32) there and (128, 16) here",
        ),
        (["init_from=RUN", "backbone.text_encoder.config.num_layers=1"], "was trained with another text_encoder"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tiny_run, toy_settings, tmp_path, capfd, arguments, message):
    outcome = train(capfd, toy_settings, tmp_path, *(one.replace("RUN", str(tiny_run)) for one in arguments))
    assert outcome.code == 1
    assert message in outcome.error
    assert "Traceback" not in outcome.error
