"""Tracklet2Video: a first frame and the boxes of its objects, out of which they move along the boxes.

Source: TrackDiffusion, arXiv 2312.00651, code of branch SVD; drawn boxes as targets: Boximator, arXiv 2402.01566, 3.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .base import Batch, OnStep, OptimizerFactory, ScheduleFactory
from .diffusion.parameterization import expand_like
from .draws import Draws
from .image_encoders import ImageEncoder
from .lora import LoRA
from .svd_xtend import SVDConditioning, SVDXtend


@dataclass(frozen=True)
class TrackletConditioning(SVDConditioning):
    """And `boxes` (b f k n): xyxy in [0, 1] and, as `box_dim` says, the colour of the object and whether the box is
    hard. `track_masks` (b f k): 1 where a slot has a box. Without slots (k = 0) nothing is known of boxes at all.
    """

    boxes: Tensor
    track_masks: Tensor


class TrackletToVideo(SVDXtend):
    """SVD Xtend, told where its objects are: a box a frame in a slot a object, which gated attention reads.

    The colour of a slot is the identity of its object. `target`: `drawn`, the clip with the boxes drawn in those
    colours, first frame excepted, so that the model learns which box is which object's (stage 1); or `clean`, the clip
    itself, so that it stops drawing them (stage 2). The picture that it starts from is clean in both. Cached latents
    serve `clean` alone: colours change in each epoch, and with them drawn boxes, which are encoded in every step.

    `box_dropout`: share of clips that are told no box, since guidance compares with that. `foreground_weight`: what the
    squared error inside of boxes counts, against 1 outside; divided by its mean, so that the loss keeps its size.
    `compat=original`: the authors' code, which has no box dropout, beside what it is for `SVDXtend`.
    """

    def __init__(
        self,
        *,
        denoiser: Any,
        autoencoder: Any,
        image_encoder: ImageEncoder,
        optimizer: OptimizerFactory,
        lr_schedule: ScheduleFactory | None = None,
        seed: int = 42,
        target: str = "clean",
        box_dropout: float = 0.1,
        foreground_weight: float = 1.0,
        sigmas: Sequence[float] = (0.7, 1.6),
        sigma_sampler: str = "lognormal",
        image_noise: Sequence[float] = (-3.0, 0.5),
        conditioning_dropout: float | None = 0.1,
        loss_form: str = "v",
        compat: str = "corrected",
        gradient_checkpointing: bool = False,
        checkpoint_temporal: bool = False,
        lora: LoRA | None = None,
        trained: Sequence[str] | None = None,
    ):
        super().__init__(
            denoiser=denoiser,
            autoencoder=autoencoder,
            image_encoder=image_encoder,
            optimizer=optimizer,
            lr_schedule=lr_schedule,
            seed=seed,
            sigmas=sigmas,
            sigma_sampler=sigma_sampler,
            image_noise=image_noise,
            conditioning_dropout=conditioning_dropout,
            loss_form=loss_form,
            compat=compat,
            gradient_checkpointing=gradient_checkpointing,
            checkpoint_temporal=checkpoint_temporal,
            lora=lora,
            trained=trained,
        )
        if denoiser.config.get("box_dim") is None:
            raise ValueError(
                f"TrackletToVideo cannot tell a {type(denoiser).__name__} where objects are: choose "
                "backbone=svd_tracklets"
            )
        if denoiser.config["label_dim"]:
            raise ValueError(
                f"the network of backbone.denoiser was trained with labels of its objects (label_dim="
                f"{denoiser.config['label_dim']}), which no data here have: choose another"
            )
        if target not in ("clean", "drawn"):
            raise ValueError(f"target={target!r} is not one of clean, drawn: model.target")
        if not 0 <= box_dropout <= 1:
            raise ValueError(f"box_dropout={box_dropout} must lie in [0, 1]: model.box_dropout")
        if foreground_weight <= 0:
            raise ValueError(f"foreground_weight={foreground_weight} must be positive: model.foreground_weight")
        self.target, self.foreground_weight = target, foreground_weight
        self.box_dropout = 0.0 if self.is_original else box_dropout
        self.box_dim: int = denoiser.config["box_dim"]

    def encode(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the latents (b c f h w) of the target: of the clip, or of `drawn_pixel_values` (b 3 f h w)."""
        if self.target == "clean":
            return super().encode(batch, draws)
        if "drawn_pixel_values" not in batch:
            raise ValueError("model.target=drawn needs drawn boxes: datamodule.conditions.tracklets.draw=true")
        return super().encode({"pixel_values": batch["drawn_pixel_values"]}, draws)

    @torch.no_grad()
    def condition(
        self,
        batch: Batch,
        draws: Draws,
        *,
        augment: bool,
        fps: float | None = None,
        motion_bucket_id: float | None = None,
        noise_aug_strength: float = 0.02,
    ) -> TrackletConditioning:
        """`batch`: as for `SVDXtend`, and `boxes` (b f k 4), `track_masks` (b f k), `track_colours` (b k 3) and, for
        `box_dim` 8, `box_hardness` (b f k), 1 where it is not there. Without boxes, which training does not accept,
        the network is used as if it had no fusers.
        """
        conditioning = super().condition(
            batch,
            draws,
            augment=augment,
            fps=fps,
            motion_bucket_id=motion_bucket_id,
            noise_aug_strength=noise_aug_strength,
        )
        if "boxes" not in batch:
            if augment:
                raise ValueError("the clips have no boxes: choose conditions=tracklets, and shards with tracks")
            nowhere = conditioning.time_ids.new_zeros(len(conditioning.time_ids), 1, 0, self.box_dim)
            return _with_boxes(conditioning, nowhere, nowhere[..., 0])
        masks = batch["track_masks"]
        if augment:
            masks = masks * expand_like(draws.uniform("box_dropout") >= self.box_dropout, masks)
        return _with_boxes(conditioning, self._boxes(batch), masks)

    def told(self, conditioning: TrackletConditioning) -> dict[str, Tensor]:
        told = super().told(conditioning)
        if not conditioning.boxes.shape[2]:
            return told
        return told | {"boxes": conditioning.boxes, "masks": conditioning.track_masks}

    def emphasize(self, error: Tensor, conditioning: TrackletConditioning) -> Tensor:
        if self.foreground_weight == 1:
            return error
        inside = box_cells(conditioning.boxes[..., :4], conditioning.track_masks, *error.shape[-2:])
        weights = 1 + (self.foreground_weight - 1) * inside.to(error.dtype)
        return error * (weights / weights.mean(dim=(1, 2, 3), keepdim=True))[:, None]

    def unconditional(self, conditioning: TrackletConditioning) -> TrackletConditioning:
        """Neither picture nor boxes: those of every clip are masked, in every slot."""
        return without_boxes(super().unconditional(conditioning))

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        conditioning: TrackletConditioning,
        noise: Tensor,
        draws: Draws,
        *,
        num_inference_steps: int = 25,
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float = 3.0,
        drop_image: bool = False,
        drop_boxes: bool = False,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """As `SVDXtend.sample`. `drop_boxes`: the whole clip without, as guidance's unconditional half."""
        return super().sample(
            without_boxes(conditioning) if drop_boxes else conditioning,
            noise,
            draws,
            num_inference_steps=num_inference_steps,
            min_guidance_scale=min_guidance_scale,
            max_guidance_scale=max_guidance_scale,
            drop_image=drop_image,
            on_step=on_step,
        )

    def _boxes(self, batch: Batch) -> Tensor:
        """Return the boxes (b f k n) with all that the network is to know of them."""
        boxes = batch["boxes"]
        parts = [boxes, batch["track_colours"][:, None].expand(*boxes.shape[:3], 3)]
        if self.box_dim == 8:
            parts.append(batch.get("box_hardness", torch.ones_like(boxes[..., 0]))[..., None])
        return torch.cat(parts, dim=-1)[..., : self.box_dim]


def without_boxes(conditioning: TrackletConditioning) -> TrackletConditioning:
    return replace(conditioning, track_masks=torch.zeros_like(conditioning.track_masks))


def box_cells(boxes: Tensor, masks: Tensor, height: int, width: int) -> Tensor:
    """Return which cells (b f h w) of a grid lie in a box. `boxes` (b f k 4) in [0, 1]; corners are cut to integers."""
    sides = []
    for axis, length in ((1, height), (0, width)):
        cells = torch.arange(length, device=boxes.device)
        first, last = ((boxes[..., side, None] * length).int() for side in (axis, axis + 2))
        sides.append((cells >= first) & (cells < last))
    rows, columns = sides
    inside = rows[..., :, None] & columns[..., None, :] & (masks[..., None, None] > 0)
    return inside.any(dim=2)


def _with_boxes(conditioning: SVDConditioning, boxes: Tensor, masks: Tensor) -> TrackletConditioning:
    return TrackletConditioning(
        conditioning.image_embeds, conditioning.image_latents, conditioning.time_ids, boxes, masks
    )
