"""Tracklet2Video: what it is told of boxes in training and in both halves of guidance, and what it is to draw."""

from functools import partial

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel

from likeness.models.denoisers.tracklet_unet import TrackletUNet
from likeness.models.draws import Draws
from likeness.models.svd_xtend import SVDXtend
from likeness.models.tracklet2video import TrackletToVideo, box_cells
from likeness.toy.backbone import ToyAutoencoder, ToyImageEncoder

from ..parity.checks_svd import GivenDraws
from .tracklets import STOCK, boxes_of, tiny

NETWORK = {"in_channels": 32, "out_channels": 16}
SAMPLING = {"num_frames": 3, "height": 16, "width": 16, "num_inference_steps": 2}


def build(denoiser=None, method: type[SVDXtend] = TrackletToVideo, **settings) -> SVDXtend:
    return method(
        denoiser=network() if denoiser is None else denoiser,
        autoencoder=ToyAutoencoder(),
        image_encoder=ToyImageEncoder(embed_dim=32),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        **settings,
    )


def network(**settings):
    return tiny(gate=0.8, stock=NETWORK, **settings)


def batch_of(count: int = 2, num_slots: int = 4) -> dict:
    pixels, drawn = torch.rand(2, count, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    boxes = boxes_of(count, num_slots=num_slots)
    return {
        "pixel_values": pixels,
        "drawn_pixel_values": drawn,
        "image_pixel_values": pixels[:, :, :1],
        "fps": torch.tensor([8.0, 25.0])[:count],
        "motion_bucket_id": torch.tensor([127.0, 40.0])[:count],
        "boxes": boxes["boxes"][..., :4],
        "track_masks": boxes["masks"],
        "track_colours": torch.rand(count, num_slots, 3, generator=torch.Generator().manual_seed(3)),
        "caption": [""] * count,
    }


def rows(batch: dict, row: int) -> dict:
    return {name: value[row : row + 1] for name, value in batch.items()}


def told(model) -> list[dict]:
    """What the denoiser is told from now on, a call an entry."""
    calls: list[dict] = []
    model.denoiser.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
    return calls


def uniform(**values: float) -> GivenDraws:
    names = {"image_noise_strength": 0.5, "dropout": 0.9, "box_dropout": 0.9, **values}
    return GivenDraws(
        {name: torch.as_tensor(value).float().expand(2) for name, value in names.items()}, [torch.zeros(2, 3, 16, 16)]
    )


@pytest.mark.parametrize("box_dim", [4, 7, 8])
def test_boxes_are_told_with_the_colour_of_their_slot_and_their_hardness(box_dim):
    model, batch = build(network(box_dim=box_dim)), batch_of()
    boxes = model.condition(batch, uniform(), augment=True).boxes
    assert boxes.shape == (2, 3, 4, box_dim)
    assert torch.equal(boxes[..., :4], batch["boxes"])
    if box_dim > 4:
        assert all(torch.equal(boxes[:, frame, :, 4:7], batch["track_colours"]) for frame in range(3))
    if box_dim == 8:
        assert boxes[..., 7].min() == 1
        hardness = (torch.arange(24).reshape(2, 3, 4) % 2).float()
        told_soft = model.condition({**batch, "box_hardness": hardness}, uniform(), augment=True).boxes
        assert torch.equal(told_soft[..., 7], hardness)


def test_box_dropout_takes_all_boxes_of_a_clip_and_the_original_has_none():
    batch, draws = batch_of(), uniform(box_dropout=torch.tensor([0.19, 0.2]))
    masks = build(box_dropout=0.2).condition(batch, draws, augment=True).track_masks
    assert not masks[0].any() and torch.equal(masks[1], batch["track_masks"][1])
    for settings, augment in (({"box_dropout": 1.0}, False), ({"box_dropout": 1.0, "compat": "original"}, True)):
        draws.values["image_posterior"] = torch.zeros(2, 16, 1, 4, 4)
        masks = build(**settings).condition(batch, draws, augment=augment).track_masks
        assert torch.equal(masks, batch["track_masks"])


def test_guidance_masks_the_boxes_of_every_clip_in_its_unconditional_half():
    model, batch = build().eval(), batch_of()
    calls = told(model)
    model.generate(batch, Draws([1, 2]), **SAMPLING)
    assert len(calls) == 2
    for call in calls:
        masks, boxes = call["masks"].chunk(2), call["boxes"].chunk(2)
        assert not masks[0].any() and torch.equal(masks[1], batch["track_masks"])
        assert torch.equal(*boxes) and torch.equal(boxes[0][..., :4], batch["boxes"])
        assert not call["encoder_hidden_states"].chunk(2)[0].any() and call["encoder_hidden_states"].any()
        assert not call["sample"].chunk(2)[0][:, :, 16:].any()


def test_a_clip_of_a_batch_is_sampled_as_alone():
    model, batch = build().eval(), batch_of()
    together = model.generate(batch, Draws([1, 2]), **SAMPLING)
    for row in range(2):
        alone = model.generate(rows(batch, row), Draws([row + 1]), **SAMPLING)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-3, atol=1e-3)


def test_dropped_boxes_do_not_matter_and_the_picture_still_does():
    model, batch = build().eval(), batch_of()
    sample = partial(model.generate, draws=Draws([1, 2]), max_guidance_scale=1.0, **SAMPLING)
    moved = {**batch, "boxes": 1 - batch["boxes"].flip(-1)}
    other_picture = {**batch, "image_pixel_values": -batch["image_pixel_values"]}
    dropped = sample(batch, drop_boxes=True)
    assert torch.equal(dropped, sample(moved, drop_boxes=True))
    assert torch.equal(dropped, sample({**batch, "track_masks": 0 * batch["track_masks"]}))
    assert not torch.equal(sample(batch), sample(moved)) and not torch.equal(sample(batch), dropped)
    assert not torch.equal(dropped, sample(other_picture, drop_boxes=True))
    assert torch.equal(sample(batch, drop_image=True), sample(other_picture, drop_image=True))
    assert not torch.equal(sample(batch, drop_image=True), sample(moved, drop_image=True))


def test_without_any_boxes_it_samples_as_svd_xtend_and_does_not_train():
    denoiser, batch = network(), batch_of()
    without = {name: value for name, value in batch.items() if name != "boxes"}
    clips = [
        build(denoiser, method).eval().generate(without, Draws([1, 2]), **SAMPLING)
        for method in (TrackletToVideo, SVDXtend)
    ]
    assert torch.equal(*clips)
    with pytest.raises(ValueError, match="the clips have no boxes: choose conditions=tracklets"):
        build().step_losses(without, Draws([1, 2]))


def test_stage_one_draws_boxes_and_starts_from_the_clean_picture():
    batch, draws = batch_of(), Draws([1, 2])
    drawn, clean = (build(target=target) for target in ("drawn", "clean"))
    expected = clean.autoencoder.posterior(batch["drawn_pixel_values"])[0]
    torch.testing.assert_close(drawn.encode(batch, draws), expected)
    torch.testing.assert_close(clean.encode(batch, draws), clean.autoencoder.posterior(batch["pixel_values"])[0])
    conditions = [model.condition(batch, draws, augment=True) for model in (drawn, clean)]
    assert torch.equal(conditions[0].image_latents, conditions[1].image_latents)
    # What is stored of a clip is the clip: colours are drawn anew.
    cached = {**batch, "latents": torch.zeros_like(expected)}
    assert torch.equal(drawn.encode(cached, draws), drawn.encode(batch, draws))
    assert not clean.encode(cached, draws).any()
    del batch["drawn_pixel_values"]
    with pytest.raises(ValueError, match=r"datamodule\.conditions\.tracklets\.draw=true"):
        drawn.encode(batch, draws)


def test_cells_of_a_box_begin_and_end_at_whole_numbers():
    boxes = torch.tensor([[[[0.3, 0.0, 0.8, 0.49], [0.0, 0.9, 0.1, 1.0]]]])
    inside = box_cells(boxes, torch.ones(1, 1, 2), 4, 5)[0, 0]
    expected = torch.zeros(4, 5, dtype=torch.bool)
    expected[:1, 1:4] = True  # columns 1.5 to 4.0, rows 0 to 1.96; the other box ends in the column where it begins
    assert torch.equal(inside, expected)
    assert not box_cells(boxes, torch.zeros(1, 1, 2), 4, 5).any()


@pytest.mark.parametrize("loss_form", ["v", "x0"])
def test_foreground_counts_more_and_an_even_error_counts_the_same(loss_form):
    model = build(foreground_weight=3.0, loss_form=loss_form)
    conditioning = model.condition(batch_of(), uniform(), augment=True)
    inside = box_cells(conditioning.boxes[..., :4], conditioning.track_masks, 4, 4)
    assert 0 < inside.float().mean() < 1
    error = torch.rand(2, 16, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    weighted = model.emphasize(error, conditioning)
    ratio = (weighted / error)[:, 0]
    for row in range(2):
        assert ratio[row][inside[row]].std() < 1e-6
        torch.testing.assert_close(ratio[row][inside[row]].mean(), 3 * ratio[row][~inside[row]].mean())
    torch.testing.assert_close(ratio.mean(dim=(1, 2, 3)), torch.ones(2))
    latents, noise = torch.randn(2, 2, 16, 3, 4, 4, generator=torch.Generator().manual_seed(6))
    losses = [
        build(foreground_weight=weight, loss_form=loss_form).loss(
            latents, conditioning, noise, torch.tensor([0.5, 2.0])
        )
        for weight in (1.0, 3.0)
    ]
    assert not torch.isclose(*losses).any()


def test_trained_are_what_is_new_and_what_binds_it():
    patterns = ["*.fuser.*", "*.position_net.*", "*.time_mixer.*", "*.conv_in.*", "*.conv_out.*"]
    model = build(trained=patterns)
    model.step_losses(batch_of(), Draws([1, 2])).mean().backward()
    words = {pattern.strip("*.") for pattern in patterns}
    for name, value in model.named_parameters():
        assert (value.grad is not None) == bool(words & set(name.split("."))), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "boxes"}, "target='boxes' is not one of clean, drawn: model.target"),
        ({"box_dropout": 1.5}, r"box_dropout=1.5 must lie in \[0, 1\]: model.box_dropout"),
        ({"foreground_weight": 0}, "foreground_weight=0 must be positive"),
    ],
)
def test_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_networks_that_know_no_boxes_are_refused():
    with pytest.raises(ValueError, match="choose backbone=svd_tracklets"):
        build(UNetSpatioTemporalConditionModel(**STOCK, **NETWORK))
    with pytest.raises(ValueError, match=r"labels of its objects \(label_dim=5\)"):
        build(TrackletUNet(**STOCK, **NETWORK, label_dim=5))
