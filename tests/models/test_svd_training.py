"""SVD Xtend: what is trained and decays, on which activations, and on how many processes."""

import copy
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention import TemporalBasicTransformerBlock
from hydra.utils import instantiate

from likeness.config import compose_config
from likeness.models.autoencoders import TemporalDecoderAutoencoder
from likeness.models.draws import Draws
from likeness.models.image_encoders import CLIPImageEncoder
from likeness.models.svd_xtend import SVDXtend, check_parts_fit
from likeness.models.trained import select

from ..metrics.two_processes import in_two_processes
from .test_base import fit
from .test_svd_xtend import CLIP, VAE, batch_of, build


def gradients_of(**settings) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of a step, and how often a temporal transformer block ran in it."""
    model, runs = build(**settings).train(), []
    for block in model.denoiser.modules():
        if isinstance(block, TemporalBasicTransformerBlock):
            block.attn1.register_forward_hook(lambda *_: runs.append(1))
    model.step_losses(batch_of(), Draws([1, 2])).mean().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}, len(runs)


@pytest.mark.parametrize("others", [False, True])
def test_temporal_blocks_computed_again_give_the_same_gradients(others):
    plain, runs = gradients_of()
    again, runs_again = gradients_of(checkpoint_temporal=True, gradient_checkpointing=others)
    assert runs_again == 2 * runs > 0
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


def test_heads_that_the_published_weights_were_not_trained_with_are_refused():
    with torch.device("meta"):
        parts = UNetSpatioTemporalConditionModel(), TemporalDecoderAutoencoder(config=VAE)
        encoder = CLIPImageEncoder(config={**CLIP, "projection_dim": 1024})
        check_parts_fit(*parts, encoder)
        wrong = UNetSpatioTemporalConditionModel(num_attention_heads=(5, 10, 10, 20))
    with pytest.raises(ValueError, match=r"num_attention_heads=\(5, 10, 10, 20\): .*\[5, 10, 20, 20\]"):
        check_parts_fit(wrong, *parts[1:], encoder)


def test_biases_and_norms_do_not_decay_except_in_the_original():
    groups = {compat: build(compat=compat).optimizer_groups() for compat in ("corrected", "original")}
    assert [group.get("weight_decay") for group in groups["corrected"]] == [None, 0.0]
    assert all(value.ndim <= 1 for value in groups["corrected"][1]["params"])
    assert [group.get("weight_decay") for group in groups["original"]] == [None]
    assert sum(len(group["params"]) for group in groups["corrected"]) == len(groups["original"][0]["params"])


class SeededBySample(SVDXtend):
    """Draws by the seeds that the batch brings, so that a clip has the same noise on whichever rank it lies."""

    def _draws(self, purpose, batch, epoch, batch_idx):
        return Draws(batch["seeds"], self.device)


def trained_weights(rows: slice, **trainer) -> dict[str, torch.Tensor]:
    """The weights after three steps on these rows of batches of four clips."""
    torch.manual_seed(0)
    model = build(
        method=SeededBySample, optimizer=partial(torch.optim.SGD, lr=0.3, momentum=0.9), trained=["*temporal*"]
    )
    batches = []
    for step in range(3):
        batch = {name: [*value] * 2 for name, value in batch_of().items()}  # four clips, of two pictures and rates
        batch = {name: torch.stack(value) for name, value in batch.items() if name != "caption"}
        batch |= {"seeds": torch.arange(4) + 10 * step}
        batches.append({name: value[rows] for name, value in batch.items()})
    for batch in batches:
        batch["seeds"] = batch["seeds"].tolist()
    fit(model, batches, gradient_clip_val=0.5, use_distributed_sampler=False, **trainer)
    return {name: value.detach().clone() for name, value in model.trained_parameters().items()}


def on_rank(folder: Path, rank: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "GROUP_RANK": "0"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    weights = trained_weights(slice(2 * rank, 2 * rank + 2), strategy="ddp", devices=2)
    torch.save(weights, folder / f"{rank}.pt")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a forked process cannot go backward once CUDA was used")
def test_two_processes_train_the_weights_of_one_with_the_doubled_batch(tmp_path):
    in_two_processes(partial(on_rank, tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole, half = trained_weights(slice(0, 4)), trained_weights(slice(0, 2))
    differences, halves, moved = [], [], []
    start = build().state_dict()
    for name, value in whole.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        differences.append((ranks[0][name] - value).abs().max())
        halves.append((half[name] - value).abs().max())
        moved.append((start[name] - value).abs().max())
    assert max(differences) < 1e-5, max(differences)
    assert max(halves) > 1e-3 and max(moved) > 5e-3  # what a rank alone would have trained


@pytest.fixture(scope="module")
def full_size_layers():
    """The published network without memory for its weights."""
    with torch.device("meta"):
        return UNetSpatioTemporalConditionModel()


def composed(*arguments: str):
    return compose_config("train", ["experiment=svd_xtend", "datamodule.train=x", *arguments]).model


@pytest.mark.parametrize(
    ("arguments", "count", "tensors"),
    [
        ([], 397_620_480, 416),
        (["trained=temporal"], 397_620_480, 416),
        (["trained=temporal_down"], 138_324_480, 156),
        (["trained=all"], 1_524_623_082, 1428),
    ],
)
def test_presets_train_as_many_parameters_as_the_originals(full_size_layers, arguments, count, tensors):
    parameters = dict(full_size_layers.named_parameters(prefix="denoiser"))
    chosen = select(parameters, composed(*arguments).trained)
    assert (sum(parameters[name].numel() for name in chosen), len(chosen)) == (count, tensors)


@pytest.mark.parametrize(
    ("group", "modules", "count"),
    [
        ("svd", 256, 1_659_904),
        ("attention", 256, 1_659_904),
        ("svd_temporal", 128, 829_952),
        ("svd_spatial", 128, 829_952),
    ],
)
def test_adapters_have_as_many_parameters_as_the_originals(full_size_layers, group, modules, count):
    settings = composed("experiment=svd_xtend_lora", f"lora={group}")
    assert settings.trained is None
    adapters = instantiate(settings.lora, _convert_="all").apply(copy.deepcopy(full_size_layers))
    assert (len(adapters), sum(value.numel() for value in adapters.values())) == (2 * modules, count)
