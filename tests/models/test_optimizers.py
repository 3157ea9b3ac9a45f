import sys

import pytest
import torch

from likeness.checkpoints.lightning import read_checkpoint
from likeness.models.optimizers import adamw_8bit

from ..commands import call


def parameter(size: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(size))


def test_missing_package_is_told_with_how_to_get_it(monkeypatch, capfd, tmp_path, toy_settings):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    arguments = ["experiment=svd_xtend", "debug=tiny", *toy_settings, f"paths.output_root={tmp_path}"]
    outcome = call(capfd, "train", *arguments, "optimizer=adamw_8bit")
    assert outcome.code == 1
    assert "optimizer=adamw_8bit needs bitsandbytes" in outcome.error
    assert "pip install 'likeness[bitsandbytes]'" in outcome.error


def test_states_take_a_byte_a_value_where_a_tensor_is_large_enough():
    pytest.importorskip("bitsandbytes")
    small, large = parameter(4095), parameter(4096)
    optimizer = adamw_8bit([{"params": [large]}, {"params": [small], "weight_decay": 0.0}], lr=0.1)
    for value in (small, large):
        value.grad = torch.ones_like(value)
    optimizer.step()
    assert [optimizer.state[value]["state1"].dtype for value in (small, large)] == [torch.float32, torch.uint8]
    assert small[0].item() == pytest.approx(1 - 0.1)
    assert large[0].item() == pytest.approx(1 - 0.1 * (1 + 1e-2), abs=1e-3)
    with pytest.raises(ValueError, match=r"would change nothing: the largest trained tensor has 4095 values"):
        adamw_8bit([{"params": [small]}], lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_resumed_run_has_the_weights_of_one_run(tmp_path, capfd, toy_settings):
    pytest.importorskip("bitsandbytes")

    def train(name: str, max_steps: int, *arguments: str) -> dict[str, torch.Tensor]:
        settings = ["experiment=svd_xtend", "debug=tiny", "optimizer=adamw_8bit", *toy_settings, *arguments]
        settings += ["datamodule.num_frames=2", "datamodule.height=32", "datamodule.width=32", f"run_name={name}"]
        settings += [f"paths.output_root={tmp_path}", "callbacks.log_samples.num_clips=0", "model.trained=null"]
        settings += ["callbacks.checkpoint.every_n_train_steps=2", f"trainer.max_steps={max_steps}"]
        outcome = call(capfd, "train", *settings)
        assert outcome.code == 0, outcome.error
        return read_checkpoint(tmp_path / name / "checkpoints" / f"step_{max_steps:07d}.ckpt")

    whole, first = train("whole", 4), train("half", 2)
    states = first["optimizer_states"][0]["state"].values()
    assert any(state["__bnb_optimizer_quant_state__"]["state1"].dtype == torch.uint8 for state in states)
    resumed = train("half", 4, "ckpt=last")
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
        assert not torch.equal(first["state_dict"][name], value), name


@pytest.mark.filterwarnings("ignore")
def test_states_of_another_optimizer_are_refused(tmp_path, capfd, toy_settings):
    arguments = ["experiment=svd_xtend", "debug=tiny", *toy_settings, f"paths.output_root={tmp_path}", "run_name=x"]
    arguments += ["callbacks.log_samples.num_clips=0", "datamodule.num_frames=2", "datamodule.height=32"]
    assert call(capfd, "train", *arguments, "trainer.max_steps=1").code == 0
    arguments += ["ckpt=last", "trainer.max_steps=2", "model.optimizer._target_=torch.optim.RAdam"]
    outcome = call(capfd, "train", *arguments)
    assert outcome.code == 1
    assert "holds the states of AdamW, which RAdam cannot go on with" in outcome.error
