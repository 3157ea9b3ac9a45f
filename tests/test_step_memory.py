"""Predicted memory: against the tensors that autograd keeps, and against what torch's allocator was asked for."""

import json
import re

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from likeness.config import CONF_DIR
from likeness.models.draws import Draws
from likeness.models.lora import LoRA
from likeness.step_memory import LiveBytes, norms_as_on_cuda, predict_memory

from .conftest import REPOSITORY
from .models.test_svd_xtend import ATTENTION, batch_of, build

CHECKPOINTED = {"lora": LoRA(**ATTENTION), "gradient_checkpointing": True}
RUNS = [
    CHECKPOINTED | {"checkpoint_temporal": True},
    *(
        pytest.param(settings, marks=pytest.mark.slow)
        for settings in ({}, {"trained": ["*temporal_transformer_block*"]}, {"lora": LoRA(**ATTENTION)}, CHECKPOINTED)
    ),
]


def saved_bytes(model) -> int:
    """The bytes that autograd keeps of a forward pass, without those of the weights."""
    kept, weights = {}, {value.untyped_storage().data_ptr() for value in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch, draws = batch_of(), Draws([0, 1])
    latents, conditioning = model.encode(batch, draws), model.condition(batch, draws, augment=True)
    noise, timesteps = model.draw_noise(draws, latents.shape[1:]), model.draw_timesteps(draws)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss(latents, conditioning, noise, timesteps).mean()
        assert loss.requires_grad
    return sum(kept.values())


def allocated_peak(model) -> int:
    """The most that torch's allocator held at once over two steps, beyond what was there before."""
    optimizer, live, peak = model.optimizer_factory(model.optimizer_groups(), foreach=True), 0, 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        for _ in range(2):
            loss = model.step_losses(batch_of(), Draws([0, 1])).mean()
            optimizer.zero_grad()
            loss.backward()
            del loss
            optimizer.step()
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize("settings", RUNS)
def test_prediction_without_values_is_what_a_step_takes(settings):
    predicted = predict_memory(lambda: build(**settings), batch_of, has_average=True)
    model = build(**settings).train()
    trained = sum(value.numel() for value in model.trained_parameters().values())
    assert predicted.average == 4 * trained
    assert 0 <= predicted.optimizer - 8 * trained <= 8 * len(model.trained_parameters())  # and the number of steps
    assert predicted.activations == pytest.approx(saved_bytes(model), rel=0.01)
    moving = predicted.peak - predicted.weights - predicted.average
    assert moving == pytest.approx(allocated_peak(build(**settings).train()), rel=0.01)


def test_a_view_and_a_change_in_place_take_no_memory_and_what_is_gone_counts_no_more():
    weight = torch.zeros(8)
    with LiveBytes(iter([weight])) as live:
        made = torch.ones(100)
        view = made[:50].add_(1)
        assert (live.current, live.peak) == (400, 400)
        weight.mul_(2).view(2, 4)
        assert live.current == 400
        del made
        assert live.current == 400 and view.sum() == 100
        del view
        assert live.current == 0 and live.start_peak() >= 400 and live.peak == 0


@pytest.mark.parametrize("experiment", ["svd_xtend", "svd_xtend_lora", "svd_xtend_lora_576x1024", "tracklet2video"])
def test_recipes_say_what_was_predicted_for_them(experiment):
    rows = json.loads((REPOSITORY / "benchmarks" / "results" / "memory.json").read_text())["rows"]
    recipe = (CONF_DIR / "experiment" / f"{experiment}.yaml").read_text()
    (line,) = [line for line in recipe.splitlines() if "benchmarks/memory.py" in line]
    predicted = {f"{row['predicted GB']:.0f} GB" for row in rows if row["run"].split()[0] == experiment}
    assert set(re.findall(r"\d+ GB", line)) == predicted


def test_norms_are_taken_in_float32_as_on_cuda():
    norm, inputs = torch.nn.GroupNorm(2, 4), torch.zeros(1, 4, 3, dtype=torch.bfloat16)
    with norms_as_on_cuda(), torch.autocast("cpu", torch.bfloat16):
        assert norm(inputs).dtype == torch.float32
        assert torch.nn.Linear(3, 3)(torch.zeros(1, 3)).dtype == torch.bfloat16
    assert norm.to(torch.bfloat16)(inputs).dtype == torch.bfloat16
