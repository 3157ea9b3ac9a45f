"""Stable Video Diffusion's network with boxes: gated self-attention beside object tokens in every spatial block.

Source: TrackDiffusion, arXiv 2312.00651, branch SVD; gates: GLIGEN, arXiv 2301.07093, equation 8.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock, GatedSelfAttentionDense
from diffusers.models.unets.unet_3d_blocks import CrossAttnUpBlockSpatioTemporal
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..loading import cast_weights, load_model, parse_dtype
from .instance_enhancer import InstanceInjector, box_features
from .position_net import PositionNet

ENHANCERS = ("none", "decoder")


def load_tracklet_unet(
    *,
    pretrained: str | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    box_dim: int = 7,
    instance_enhancer: str = "none",
    num_slots: int = 20,
    initial_gate: float = 0.0,
) -> "TrackletUNet":
    """Return a `TrackletUNet`; its settings are there.

    `pretrained`: a folder in diffusers layout, of Stable Video Diffusion's network or of one with boxes, ours or
    TrackDiffusion's; what it lacks is new, made with `seed`, and changes nothing before it is trained. Or `config`:
    settings of the stock network, for random weights: with these there is nothing to keep unchanged, and gates may
    begin at tanh(`initial_gate`), since closed ones open slowly. A `dtype` of 16 bits is for a network that is frozen.
    """
    added = {"box_dim": box_dim, "instance_enhancer": instance_enhancer, "num_slots": num_slots}
    if pretrained is None:
        settings = None if config is None else {**config, **added}
        model = load_model(TrackletUNet, config=settings, seed=seed, dtype=dtype)
        model.set_gates(initial_gate)
        return model
    if initial_gate:
        raise ValueError(
            f"initial_gate={initial_gate} would change what {pretrained} has learned: backbone.denoiser.initial_gate "
            "is for random weights"
        )
    if config is not None:
        raise ValueError("TrackletUNet needs either `pretrained` (a folder) or `config` (random weights)")
    from ...checkpoints.sources import read_source

    source = read_source(pretrained)
    if not issubclass(source.model_class, UNetSpatioTemporalConditionModel):
        raise ValueError(
            f"backbone.denoiser.pretrained={pretrained} holds a {source.model_class.__name__}, not the network of "
            "Stable Video Diffusion"
        )
    has_boxes = issubclass(source.model_class, TrackletUNet)
    settings = {**source.config, **({} if has_boxes else {"box_dim": None})}
    model = replace(source, model_class=TrackletUNet, config=settings).load(parse_dtype(dtype))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not has_boxes:
            model.add_fusers(box_dim)
        if instance_enhancer == "decoder" and model.config["instance_enhancer"] == "none":
            model.add_enhancer(num_slots)
    for name, value in added.items():
        if model.config[name] != value and (name != "num_slots" or instance_enhancer == "decoder"):
            raise ValueError(
                f"{pretrained} was trained with {name}={model.config[name]}: set backbone.denoiser.{name} to that"
            )
    cast_weights(model, parse_dtype(dtype))  # what is new, too
    return model


@dataclass(frozen=True)
class Objects:
    """What the blocks are told in a forward pass: `tokens` (b*f k d), and for the instance enhancer `boxes` (b*f k 4),
    `masks` (b*f k), `paths` (b f k 128) and `features` (b*f k c), which are of the block that asks.
    """

    tokens: Tensor
    boxes: Tensor
    masks: Tensor
    paths: Tensor | None
    features: Tensor | None = None


class Shown:
    """The objects that every block of a network looks at. Between the UNet and its blocks stands code of the library,
    which passes nothing on that it does not know.
    """

    objects: Objects | None = None

    @contextmanager
    def showing(self, objects: Objects | None) -> Iterator[None]:
        before, self.objects = self.objects, objects
        try:
            yield
        finally:
            self.objects = before


class GatedBlock(BasicTransformerBlock):
    """The stock spatial block, objects between its self- and its cross-attention. Without any it is the stock one."""

    shown: Shown
    fuser: GatedSelfAttentionDense
    injector: InstanceInjector | None

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        attention_mask: None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: None = None,
    ) -> Tensor:
        objects = self.shown.objects
        hidden_states = hidden_states + self.attn1(self.norm1(hidden_states))
        if objects is not None:
            hidden_states = self.fuser(hidden_states, objects.tokens)
            if self.injector is not None:
                hidden_states = self.injector(hidden_states, objects.features, objects.paths)
        hidden_states = hidden_states + self.attn2(
            self.norm2(hidden_states), encoder_hidden_states=encoder_hidden_states
        )
        return hidden_states + self.ff(self.norm3(hidden_states))


class EnhancedUpBlock(CrossAttnUpBlockSpatioTemporal):
    """The stock block, in which each transformer also sees what its input holds under the boxes."""

    shown: Shown
    null_track_feat: nn.Embedding

    def forward(
        self,
        hidden_states: Tensor,
        res_hidden_states_tuple: tuple[Tensor, ...],
        temb: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        image_only_indicator: Tensor | None = None,
        upsample_size: int | None = None,
    ) -> Tensor:
        skipped = reversed(res_hidden_states_tuple)
        for resnet, transformer, skip in zip(self.resnets, self.attentions, skipped, strict=True):
            hidden_states = torch.cat([hidden_states, skip], dim=1)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                run: Any = self._gradient_checkpointing_func
                hidden_states = run(resnet, hidden_states, temb, image_only_indicator)
            else:
                hidden_states = resnet(hidden_states, temb, image_only_indicator)
            with self.shown.showing(self._seen(hidden_states)):
                hidden_states = transformer(hidden_states, encoder_hidden_states, image_only_indicator, False)[0]
        for upsampler in self.upsamplers or ():
            hidden_states = upsampler(hidden_states, upsample_size)
        return hidden_states

    def _seen(self, hidden_states: Tensor) -> Objects | None:
        objects = self.shown.objects
        if objects is None:
            return None
        found = box_features(hidden_states, objects.boxes)
        features = torch.where(objects.masks[..., None] > 0, found, self.null_track_feat.weight.to(found.dtype))
        return replace(objects, features=features)


class TrackletUNet(UNetSpatioTemporalConditionModel):
    """`UNetSpatioTemporalConditionModel` that takes boxes; without any it is the stock network, bit by bit.

    Settings are the stock ones and: `box_dim`, numbers of a box: 4 (xyxy), 7 (and the colour that stands for its
    object) or 8 (and 1 for a hard box, 0 for a soft one); None for no fusers. `label_dim`: numbers that say what an
    object is; 0: it is not said. `instance_enhancer`: none, or decoder: up blocks are told what they hold under the
    boxes themselves, for up to `num_slots` objects.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 8,
        out_channels: int = 4,
        down_block_types: tuple[str, ...] = ("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",),
        up_block_types: tuple[str, ...] = ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        addition_time_embed_dim: int = 256,
        projection_class_embeddings_input_dim: int = 768,
        layers_per_block: int | tuple[int] = 2,
        cross_attention_dim: int = 1024,
        transformer_layers_per_block: int | tuple[int] = 1,
        num_attention_heads: int | tuple[int, ...] = (5, 10, 20, 20),
        num_frames: int = 25,
        box_dim: int | None = 7,
        label_dim: int = 0,
        instance_enhancer: str = "none",
        num_slots: int = 20,
    ):
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            addition_time_embed_dim=addition_time_embed_dim,
            projection_class_embeddings_input_dim=projection_class_embeddings_input_dim,
            layers_per_block=layers_per_block,
            cross_attention_dim=cross_attention_dim,
            transformer_layers_per_block=transformer_layers_per_block,
            num_attention_heads=num_attention_heads,
            num_frames=num_frames,
        )
        if box_dim not in (None, 4, 7, 8):
            raise ValueError(f"box_dim={box_dim} is not one of 4, 7, 8: backbone.denoiser.box_dim")
        if instance_enhancer not in ENHANCERS:
            raise ValueError(
                f"instance_enhancer={instance_enhancer!r} is not one of {', '.join(ENHANCERS)}: "
                "backbone.denoiser.instance_enhancer"
            )
        if not isinstance(cross_attention_dim, int):
            raise ValueError(f"cross_attention_dim={cross_attention_dim}: object tokens have one width in all blocks")
        self._shown = Shown()
        if box_dim is not None:
            self.add_fusers(box_dim, label_dim)
        if instance_enhancer == "decoder":
            self.add_enhancer(num_slots)

    def add_fusers(self, box_dim: int, label_dim: int = 0) -> None:
        """Add the position net and a fuser to every spatial block, gates closed."""
        width = self.config["cross_attention_dim"]
        self.position_net = PositionNet(out_dim=width, box_dim=box_dim, label_dim=label_dim)
        for block in self._spatial_blocks(self):
            # Its class changes in place, as torch's parametrizations do it: the stock weights stay where they are.
            block.__class__ = GatedBlock
            block.shown, block.injector = self._shown, None
            block.fuser = GatedSelfAttentionDense(block.dim, width, block.num_attention_heads, block.attention_head_dim)
        self.register_to_config(box_dim=box_dim, label_dim=label_dim)

    def add_enhancer(self, num_slots: int) -> None:
        """Add the instance enhancer to every up block with attention, gates closed."""
        self.position_net.add_instances(num_slots)
        with_attention: list[Any] = [one for one in self.up_blocks if isinstance(one, CrossAttnUpBlockSpatioTemporal)]
        for up_block in with_attention:
            up_block.__class__ = EnhancedUpBlock
            up_block.shown = self._shown
            up_block.null_track_feat = nn.Embedding(1, up_block.attentions[0].in_channels)
            for block in self._spatial_blocks(up_block):
                block.injector = InstanceInjector(block.dim, block.num_attention_heads, block.attention_head_dim)
        self.register_to_config(instance_enhancer="decoder", num_slots=num_slots)

    def set_gates(self, value: float) -> None:
        """Let every gate be tanh(`value`)."""
        for name, parameter in self.named_parameters():
            if name.endswith((".alpha_attn", ".alpha_dense")):
                parameter.data.fill_(value)

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: Callable[..., Any] | None = None) -> None:
        super().enable_gradient_checkpointing(gradient_checkpointing_func or self._checkpoint)

    def forward(  # type: ignore[override]
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_time_ids: Tensor,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """As the stock network, told of `boxes` (b f k box_dim), `masks` (b f k), 1 where a slot has a box, and
        `labels` (b f k label_dim). None, or no slot (k = 0): the fusers are skipped, which all masks at 0 is not.
        """
        with self._shown.showing(None if boxes is None else self._objects(sample, boxes, masks, labels)):
            return super().forward(sample, timestep, encoder_hidden_states, added_time_ids, return_dict)

    def _objects(self, sample: Tensor, boxes: Tensor, masks: Tensor | None, labels: Tensor | None) -> Objects | None:
        box_dim = self.config["box_dim"]
        if boxes.shape[:2] != sample.shape[:2] or boxes.shape[-1] != box_dim or boxes.ndim != 4:
            raise ValueError(
                f"boxes of shape {tuple(boxes.shape)} do not fit a clip of {sample.shape[1]} frames and box_dim="
                f"{box_dim}: they must be (clips, frames, slots, {box_dim})"
            )
        if masks is None or masks.shape != boxes.shape[:3]:
            raise ValueError(f"boxes of shape {tuple(boxes.shape)} need masks of shape {tuple(boxes.shape[:3])}")
        if not boxes.shape[2]:
            return None
        tokens, paths = self.position_net(boxes, masks, labels)
        return Objects(tokens.flatten(0, 1), boxes[..., :4].flatten(0, 1), masks.flatten(0, 1), paths)

    def _checkpoint(self, module: Callable[..., Any], *inputs: Any) -> Any:
        """Run `module` without keeping what it computes; in the backward pass it sees the same objects again."""
        objects = self._shown.objects

        def run(*inputs: Any) -> Any:
            with self._shown.showing(objects):
                return module(*inputs)

        return checkpoint(run, *inputs, use_reentrant=False)

    @staticmethod
    def _spatial_blocks(module: nn.Module) -> list[Any]:
        return [block for block in module.modules() if isinstance(block, BasicTransformerBlock)]
