"""Tracklet2Video's network, sampling and instance enhancer against numbers of the original implementation."""

import torch

from likeness.models.denoisers.instance_enhancer import InstanceInjector, box_features
from likeness.models.denoisers.position_net import PositionNet, fourier
from likeness.models.denoisers.tracklet_unet import TrackletUNet
from likeness.models.image_encoders import CLIP_MEAN, CLIP_STD
from likeness.models.tracklet2video import TrackletToVideo

from .checks_svd import GivenDraws, build, channels_first, given
from .golden import Case, fill


def tracklet_unet_of(case: Case, field: str = "state_dict") -> TrackletUNet:
    boxes = case.expected["boxes"]
    unet = TrackletUNet(**case.config["unet"], box_dim=boxes.shape[-1])
    unet.load_state_dict(case.weights(field))
    return unet.eval()


def boxes_and_masks(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return boxes (b f k n) and masks (b f k), which some manifests store of one clip without its batch axis."""
    boxes, masks = (torch.from_numpy(case.expected[name]) for name in ("boxes", "masks"))
    return boxes.reshape(-1, *boxes.shape[-3:]), masks.reshape(-1, *masks.shape[-2:])


@torch.no_grad()
def check_tracklet_unet(case: Case) -> None:
    boxes, masks = boxes_and_masks(case)
    unet = tracklet_unet_of(case)
    case.check(fourier(boxes).flatten(1, 2), "fourier")
    case.check(unet.position_net(boxes, masks)[0].flatten(1, 2), "objs")
    inputs = {
        "sample": given(case, "input.sample"),
        "timestep": given(case, "timestep"),
        "encoder_hidden_states": given(case, "input.image_embeds"),
        "added_time_ids": given(case, "added_time_ids"),
    }
    case.check(unet(**inputs, boxes=boxes, masks=masks).sample, "out")
    case.check(unet(**inputs, boxes=boxes, masks=torch.zeros_like(masks)).sample, "out_all_null")
    case.check(unet(**inputs).sample, "out_no_boxes")


def check_tracklet_sampling(case: Case) -> None:
    boxes, masks = boxes_and_masks(case)
    model = build(case, TrackletToVideo, tracklet_unet_of(case, "state_dict_unet"))
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    batch = {
        "image_pixel_values": given(case, "input.image")[:, :, None],
        "clip_pixel_values": (given(case, "input.clip_pixels") * std + mean) * 2 - 1,
        "boxes": boxes[..., :4],
        "track_masks": masks,
        "track_colours": boxes[:, 0, :, 4:7],
    }
    if boxes.shape[-1] == 8:
        batch["box_hardness"] = boxes[..., 7]
    latents = []
    clips = model.generate(
        batch,
        GivenDraws({}, [given(case, "input.aug_noise"), given(case, "input.init_latents")]),
        on_step=lambda step, state, clean: latents.append(state),
        **case.config["call"],
    )
    case.check(channels_first(latents[-1]), "latents")
    case.expected["decoded"] = case.expected["decoded"].clip(-1, 1)  # as ours is
    case.check(clips, "decoded")


@torch.no_grad()
def check_instance_enhancer(case: Case) -> None:
    config = case.config
    shape = tuple(config[name] for name in ("batch", "frames", "objects"))
    boxes = torch.from_numpy(case.expected["boxes"]).reshape(*shape, -1)
    masks = torch.from_numpy(case.expected["masks"]).reshape(shape)
    has_labels = any(entry["name"] == "input.positive" for entry in case.inputs)
    labels = given(case, "input.positive").reshape(*shape, -1) if has_labels else None
    label_dim = labels.shape[-1] if has_labels else 0
    net = PositionNet(out_dim=config["context_dim"], box_dim=boxes.shape[-1], label_dim=label_dim)
    net.add_instances(config["objects"])
    net.load_state_dict(case.weights("state_dict_position_net"))
    tokens, paths = net(boxes, masks, labels)
    case.check(tokens.flatten(1, 2), "objs")
    case.check(paths, "track_embedding")
    hidden, is_there = given(case, "input.hidden"), masks.flatten(0, 1)[..., None] > 0
    features = box_features(hidden, boxes.flatten(0, 1)[..., :4])
    case.check(features[is_there[..., 0]], "roi_features")
    injector = InstanceInjector(config["query_dim"], config["heads"], config["head_dim"])
    injector.load_state_dict(case.weights("state_dict_injector"))
    null = torch.from_numpy(fill("null_track_feat.weight", (1, config["query_dim"]), case.seed))
    features = torch.where(is_there, features, null)
    case.check(injector(hidden.flatten(2).transpose(1, 2), features, paths), "injector_out")


TRACKLET_KINDS = {
    "tracklet_unet": check_tracklet_unet,
    "tracklet_sampling": check_tracklet_sampling,
    "instance_enhancer": check_instance_enhancer,
}
