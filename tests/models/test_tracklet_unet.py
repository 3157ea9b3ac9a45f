"""The network with boxes: the stock one until gates open, and each rule of how it looks at them."""

import copy
import gzip
import json
import math

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention import TemporalBasicTransformerBlock
from omegaconf import OmegaConf

from likeness.config import CONF_DIR
from likeness.models.checkpointing import checkpoint_blocks
from likeness.models.denoisers.instance_enhancer import box_features
from likeness.models.denoisers.position_net import PositionNet, fourier
from likeness.models.denoisers.tracklet_unet import TrackletUNet, load_tracklet_unet
from likeness.models.loading import load_denoiser
from likeness.models.lora import LoRA
from likeness.models.trained import select

from ..conftest import REPOSITORY
from .tracklets import STOCK, boxes_of, inputs_of, tiny

ENHANCERS = pytest.mark.parametrize("enhancer", ["none", "decoder"])
PUBLISHED = OmegaConf.load(CONF_DIR / "trained" / "tracklets.yaml").trained


def outputs(denoiser, *told: dict) -> list[torch.Tensor]:
    with torch.no_grad():
        return [denoiser(**inputs_of(), **one).sample for one in told]


@pytest.fixture
def stock_folder(tmp_path):
    """The stock network in diffusers layout, and the network itself."""
    torch.manual_seed(3)
    stock = UNetSpatioTemporalConditionModel(**STOCK)
    stock.save_pretrained(tmp_path / "unet")
    return str(tmp_path / "unet"), stock.eval()


def test_the_stock_class_does_not_drop_what_a_network_with_boxes_has_learned(stock_folder, tmp_path):
    tiny().save_pretrained(tmp_path / "boxes")
    architecture = "diffusers.UNetSpatioTemporalConditionModel"
    with pytest.raises(ValueError, match=r"holds a network with boxes, which this method would leave out: choose"):
        load_denoiser(architecture=architecture, pretrained=str(tmp_path / "boxes"))
    assert (
        type(load_denoiser(architecture=architecture, pretrained=stock_folder[0])) is UNetSpatioTemporalConditionModel
    )


@ENHANCERS
def test_from_stock_weights_it_is_the_stock_network_whatever_the_boxes(stock_folder, enhancer):
    folder, stock = stock_folder
    ours, (expected,) = load_tracklet_unet(pretrained=folder, instance_enhancer=enhancer).eval(), outputs(stock, {})
    for told in ({}, boxes_of(), boxes_of(num_slots=0)):
        assert torch.equal(*outputs(ours, told), expected)
    again = load_tracklet_unet(pretrained=folder, instance_enhancer=enhancer).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in ours.state_dict().items())
    assert not any(value.is_meta for value in again.values())
    half = load_tracklet_unet(pretrained=folder, instance_enhancer=enhancer, dtype="bfloat16")
    assert {value.dtype for value in half.state_dict().values()} == {torch.bfloat16}


def test_gates_open_at_once_only_where_nothing_was_learned(stock_folder):
    gates = [value for name, value in tiny(gate=0.5).named_parameters() if "alpha_" in name]
    assert gates
    assert all(float(value) == 0.5 for value in gates)
    with pytest.raises(ValueError, match=r"initial_gate=0.5 would change .*backbone\.denoiser\.initial_gate"):
        load_tracklet_unet(pretrained=stock_folder[0], initial_gate=0.5)


@ENHANCERS
def test_open_gates_see_boxes_and_no_box_is_not_no_boxes(enhancer):
    denoiser, told = tiny(gate=1.0, instance_enhancer=enhancer), boxes_of()
    with_boxes, masked, nothing = outputs(denoiser, told, {**told, "masks": 0 * told["masks"]}, {})
    for left, right in ((with_boxes, masked), (masked, nothing), (with_boxes, nothing)):
        assert (left - right).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3
    elsewhere = {**told, "boxes": torch.where(told["masks"][..., None] > 0, told["boxes"], 0.5)}
    assert torch.equal(*outputs(denoiser, told, elsewhere))  # the boxes of free slots are nobody's
    assert torch.equal(*outputs(denoiser, boxes_of(num_slots=0), {}))


@ENHANCERS
def test_a_clip_of_a_batch_is_predicted_as_alone(enhancer):
    denoiser, given = tiny(gate=0.7, instance_enhancer=enhancer), inputs_of() | boxes_of()
    with torch.no_grad():
        together = denoiser(**given).sample
        for row in range(2):
            alone = denoiser(**{name: value[row : row + 1] for name, value in given.items()}).sample
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def gradients(denoiser, losses: int = 1) -> dict[str, torch.Tensor]:
    """Gradients after so many forward passes, each with other boxes, and one backward pass."""
    told = boxes_of()
    total = torch.zeros(())
    for number in range(losses):
        shifted = {**told, "boxes": told["boxes"].roll(number, dims=0)}
        total = total + (denoiser(**inputs_of(), **shifted).sample ** 2).mean()
    total.backward()
    return {name: value.grad for name, value in denoiser.named_parameters() if value.grad is not None}


@ENHANCERS
def test_gradient_checkpointing_changes_no_gradient(enhancer):
    plain, checkpointed = (tiny(gate=0.7, instance_enhancer=enhancer) for _ in range(2))
    checkpointed.enable_gradient_checkpointing()
    assert checkpoint_blocks(checkpointed, TemporalBasicTransformerBlock) == 4
    # Of two passes the second has shown its own boxes before the first is computed again.
    found, expected = gradients(checkpointed, losses=2), gradients(plain, losses=2)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_gates_are_the_first_to_learn_and_nothing_is_out_of_reach():
    closed = gradients(tiny(instance_enhancer="decoder"))
    assert all(float(closed[name].abs().sum()) > 0 for name in closed if "alpha_" in name)
    opened = gradients(tiny(gate=0.7, instance_enhancer="decoder"))
    new = [name for name, _ in tiny(instance_enhancer="decoder").named_parameters() if is_new(name)]
    assert not [name for name in new if name not in opened or not opened[name].abs().sum()]


def is_new(name: str) -> bool:
    return any(part in name for part in ("fuser", "position_net", "injector", "null_track_feat"))


@ENHANCERS
def test_sixteen_bits_are_close(enhancer):
    denoiser, told = tiny(gate=0.7, instance_enhancer=enhancer), boxes_of()
    (expected,) = outputs(denoiser, told)
    with torch.autocast("cpu", torch.bfloat16):
        (mixed,) = outputs(denoiser, told)
    half = copy.deepcopy(denoiser).to(torch.bfloat16)
    given = {name: value.bfloat16() for name, value in inputs_of().items()}
    with torch.no_grad():
        whole = half(**given, **told).sample
    for found in (mixed, whole):
        assert found.dtype == torch.bfloat16
        assert float((found - expected).norm() / expected.norm()) < 0.03
    assert torch.equal(*outputs(denoiser, told), expected)  # the copy has its own boxes and weights


def test_fourier_features_alternate_sines_and_cosines_of_all_numbers():
    values = torch.tensor([[0.1, 0.7]])
    features = fourier(values)[0]
    assert features.shape == (32,)
    for index in range(8):
        angles = [float(value) * 100 ** (index / 8) for value in values[0]]
        expected = [*map(math.sin, angles), *map(math.cos, angles)]
        torch.testing.assert_close(features[4 * index : 4 * index + 4], torch.tensor(expected), rtol=1e-5, atol=1e-5)


def slow_box_features(feature_map: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """RoIAlign of one picture (c h w) and one box in cells, one bin, as its loops are written down."""
    height, width = feature_map.shape[-2:]
    (x0, y0, x1, y1), total = box.tolist(), torch.zeros(len(feature_map))
    box_width, box_height = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
    columns, rows = math.ceil(box_width), math.ceil(box_height)
    for row in range(rows):
        for column in range(columns):
            y, x = y0 + (row + 0.5) * box_height / rows, x0 + (column + 0.5) * box_width / columns
            if not (-1 <= y <= height and -1 <= x <= width):
                continue
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            down, across = y - top, x - left
            upper = feature_map[:, top, left] * (1 - across) + feature_map[:, top, right] * across
            lower = feature_map[:, bottom, left] * (1 - across) + feature_map[:, bottom, right] * across
            total += upper * (1 - down) + lower * down
    return total / (rows * columns)


def test_features_under_boxes_are_those_of_roi_align():
    generator = torch.Generator().manual_seed(4)
    feature_map = torch.randn(2, 3, 5, 7, generator=generator)
    corners = torch.rand(2, 12, 2, 2, generator=generator) * 1.4 - 0.2  # some leave the picture
    boxes = corners.sort(dim=-2).values.flatten(-2)
    boxes[:, 0], boxes[:, 1], boxes[:, 2] = torch.zeros(4), torch.tensor([0.0, 0, 1, 1]), torch.tensor([1.0, 1, 1, 1])
    boxes[:, 3] = torch.tensor([1.5, 0.2, 1.9, 0.8])  # beyond the border: nothing is there
    found = box_features(feature_map, boxes)
    for row in range(2):
        for slot in range(12):
            expected = slow_box_features(feature_map[row], boxes[row, slot] * torch.tensor([7, 5, 7, 5]))
            torch.testing.assert_close(found[row, slot], expected, rtol=1e-5, atol=1e-5)
    assert not found[:, 3].any()
    assert box_features(feature_map, boxes[:, :0]).shape == (2, 0, 3)


def published() -> dict:
    path = REPOSITORY / "tests" / "golden" / "svd_xtend" / "full_keys.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))


def test_full_network_has_the_published_tensors_and_trains_the_published_ones():
    lists = published()
    with torch.device("meta"):
        denoiser = TrackletUNet(**lists["unet_config"])
    shapes = {name: list(value.shape) for name, value in denoiser.state_dict().items()}
    assert shapes == dict(lists["unet"]) | dict(lists["tracklet_extra"])
    parameters = {f"denoiser.{name}": value for name, value in denoiser.named_parameters()}
    trained = select(parameters, PUBLISHED)
    assert {name.removeprefix("denoiser.") for name in trained} == set(lists["tracklet_trainable"])
    assert sum(parameters[name].numel() for name in trained) == 212_094_010


def test_enhancer_adds_to_the_decoder_of_the_full_network_alone():
    with torch.device("meta"):
        denoiser = TrackletUNet(**published()["unet_config"], instance_enhancer="decoder")
    injectors = [name for name, _ in denoiser.named_parameters() if name.endswith("injector.alpha_attn")]
    assert len(injectors) == 9 and all(name.startswith("up_blocks.") for name in injectors)
    nulls = {name: tuple(value.shape) for name, value in denoiser.named_parameters() if "null_track" in name}
    assert nulls == {f"up_blocks.{i}.null_track_feat.weight": (1, c) for i, c in ((1, 1280), (2, 640), (3, 320))}
    assert denoiser.position_net.instance_embedding.weight.shape == (20, 1024)
    patterns = OmegaConf.load(CONF_DIR / "trained" / "enhancer.yaml").trained
    chosen = select([f"denoiser.{name}" for name, _ in denoiser.named_parameters()], patterns)
    new = {f"denoiser.{name}" for name, _ in denoiser.named_parameters() if is_new(name)}
    assert new <= chosen and len(chosen - new) == 42  # time mixers, conv_in and conv_out


def test_adapters_stay_out_of_the_fusers_unless_they_are_asked_for():
    targets = OmegaConf.load(CONF_DIR / "lora" / "svd.yaml").targets
    excluded = LoRA(targets=targets, rank=2, alpha=2).apply(tiny(instance_enhancer="decoder"))
    everywhere = LoRA(targets=["to_q", "to_k", "to_v", "to_out.0"], rank=2, alpha=2)
    stock, asked = everywhere.apply(UNetSpatioTemporalConditionModel(**STOCK)), everywhere.apply(tiny())
    assert excluded.keys() == stock.keys()
    assert asked.keys() > stock.keys() and all(".fuser." in name for name in asked.keys() - stock.keys())


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (boxes_of(box_dim=8), r"box_dim=7: they must be \(clips, frames, slots, 7\)"),
        (boxes_of(num_frames=2), "do not fit a clip of 3 frames"),
        ({"boxes": boxes_of()["boxes"]}, r"need masks of shape \(2, 3, 4\)"),
    ],
)
def test_boxes_that_do_not_fit_are_refused(told, message):
    with pytest.raises(ValueError, match=message):
        outputs(tiny(), told)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"box_dim": 5}, "box_dim=5 is not one of 4, 7, 8: backbone.denoiser.box_dim"),
        ({"instance_enhancer": "all"}, "instance_enhancer='all' is not one of none, decoder"),
    ],
)
def test_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


def test_position_net_says_what_it_lacks():
    net = PositionNet(out_dim=8, box_dim=4, label_dim=3)
    with pytest.raises(ValueError, match="was made for labels"):
        net(torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 3))
    with pytest.raises(
        ValueError, match="4 slots were given, the instance enhancer has 3: backbone.denoiser.num_slots"
    ):
        outputs(tiny(instance_enhancer="decoder", num_slots=3), boxes_of())


@pytest.mark.parametrize("box_dim", [4, 8])
def test_boxes_may_say_less_or_more(box_dim):
    denoiser, told = tiny(gate=1.0, box_dim=box_dim), boxes_of(box_dim=box_dim)
    changed = told["boxes"].clone()
    changed[..., -1] += 0.5
    before, after = outputs(denoiser, told, {**told, "boxes": changed})
    assert denoiser.position_net.null_position_feature.shape == (16 * box_dim,)
    assert not torch.equal(before, after)
