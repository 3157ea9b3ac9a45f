import lightning
import pytest
import torch

from likeness.models.base import parameter_groups
from likeness.models.loading import fingerprint, parse_dtype

from .test_concat_id import batch_of, build


class Loader:
    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def fit(model, batches, **settings):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=len(batches),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(model, Loader(batches))
    return trainer


@pytest.mark.filterwarnings("ignore")
def test_a_step_with_a_loss_that_is_not_finite_changes_nothing_and_training_goes_on():
    broken = batch_of()
    broken["pixel_values"] = broken["pixel_values"] * torch.nan
    before, after = [], []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            before.append(module.denoiser.proj_out.weight.detach().clone())

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            after.append(module.denoiser.proj_out.weight.detach().clone())

    model = build()
    fit(model, [batch_of(), broken, batch_of(seed=2)], callbacks=[Watch()])
    assert model.num_skipped_steps == 1
    changed = [not torch.equal(first, second) for first, second in zip(before, after, strict=True)]
    assert changed == [True, False, True]
    assert torch.isfinite(after[-1]).all()


@pytest.mark.filterwarnings("ignore")
def test_two_runs_with_one_seed_are_equal_and_another_seed_differs():
    weights = []
    for seed in (1, 1, 2):
        model = build(seed=seed)
        fit(model, [batch_of(), batch_of(seed=3)])
        weights.append(model.denoiser.proj_out.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_checkpoint_of_another_network_is_refused():
    model, checkpoint = build(), {"state_dict": {}}
    checkpoint["state_dict"] = {name: value for name, value in model.state_dict().items()}
    model.on_save_checkpoint(checkpoint)
    missing = dict(checkpoint, state_dict=dict(list(checkpoint["state_dict"].items())[1:]))
    with pytest.raises(ValueError, match="1 trained tensors differ, the first is denoiser"):
        model.on_load_checkpoint(missing)
    model.on_load_checkpoint(checkpoint)


def test_parameters_without_matrices_make_one_group():
    bias = torch.nn.Parameter(torch.zeros(3))
    assert parameter_groups({"bias": bias}) == [{"params": [bias], "weight_decay": 0.0}]


def test_fingerprint_tells_weights_apart():
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    assert fingerprint(first) != fingerprint(second)
    second.load_state_dict(first.state_dict())
    assert fingerprint(first) == fingerprint(second)


def test_unknown_dtype_lists_the_known_ones():
    with pytest.raises(ValueError, match="float32, bfloat16, float16"):
        parse_dtype("int8")
