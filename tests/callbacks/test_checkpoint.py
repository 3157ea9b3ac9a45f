import os
import signal

import lightning
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from likeness.config import CONF_DIR
from likeness.models.svd_xtend import SVDXtend

from ..commands import call
from ..models.test_base import Loader
from ..models.test_concat_id import batch_of, build


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("max_steps", "kept"),
    [(11, ["step_0000008", "step_0000010", "step_0000011"]), (12, ["step_0000010", "step_0000012"])],
)
def test_the_newest_checkpoints_are_kept_and_always_that_of_the_last_step(tmp_path, max_steps, kept):
    config = OmegaConf.load(CONF_DIR / "callbacks" / "default.yaml").checkpoint
    config.dirpath, config.every_n_train_steps = str(tmp_path), 2
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[instantiate(config)],
    )
    trainer.fit(build(), Loader([batch_of()] * max_steps))
    assert sorted(path.stem for path in tmp_path.iterdir()) == kept


@pytest.mark.filterwarnings("ignore")
def test_a_terminated_run_does_not_end_as_if_it_were_done(capfd, tmp_path, toy_settings, monkeypatch):
    step = SVDXtend.training_step

    def terminated(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SVDXtend, "training_step", terminated)
    arguments = ["experiment=svd_xtend", "debug=tiny", *toy_settings, f"paths.output_root={tmp_path}"]
    outcome = call(capfd, "train", *arguments, "datamodule.num_frames=2", "callbacks.log_samples.num_clips=0")
    assert outcome.code == 128 + signal.SIGTERM
    assert "terminated at step 1: run_name=svd_xtend/" in outcome.log


def test_checkpoint_due_at_the_end_of_an_epoch_is_not_put_off(capfd, tmp_path, toy_settings):
    """24 clips in batches of 4 are epochs of 6 steps."""
    outcome = call(
        capfd,
        "train",
        "experiment=concat_id",
        "debug=tiny",
        *toy_settings,
        f"paths.output_root={tmp_path}",
        "run_name=x",
        "trainer.max_steps=7",
        "trainer.val_check_interval=100",
        "callbacks.checkpoint.every_n_train_steps=3",
    )
    assert outcome.code == 0, outcome.error
    saved = sorted(path.name for path in (tmp_path / "x" / "checkpoints").iterdir())
    assert "step_0000006.ckpt" in saved, saved
    assert "step_0000007.ckpt" in saved, saved
