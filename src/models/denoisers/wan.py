"""Wan's video transformer with reference tokens behind the clip. Source: Concat-ID repository, Wan2.1 variant."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock
from torch import Tensor, nn

from ..loading import load_model
from .placement import ReferencePlacement, check_patches


class WanPlacement(ReferencePlacement):
    """`ReferenceWanTransformer`: references follow the clip in time and lie beside it in width."""

    text_width_setting = "text_dim"
    distinctive_setting = "reference_modulation"

    def __call__(
        self, denoiser: Any, noisy_latents: Tensor, reference_latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        return denoiser(
            hidden_states=noisy_latents,
            timestep=timesteps,
            encoder_hidden_states=prompt_embeds,
            reference_latents=reference_latents,
        )


def load_wan(
    *,
    pretrained: str | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    reference_modulation: str = "shared",
) -> "ReferenceWanTransformer":
    """Return a `ReferenceWanTransformer`.

    `pretrained`: a folder in diffusers layout, of a plain Wan transformer or of one that was saved here; or `config`:
    keyword arguments of the class, for random weights made with `seed`. A `dtype` of 16 bits is for one whose weights
    are frozen. `reference_modulation`: shared or own; `own` starts as a copy of the clip's where the folder has none.
    """
    if reference_modulation not in ("shared", "own"):
        raise ValueError(
            f"reference_modulation={reference_modulation!r} is not one of shared, own: "
            "backbone.denoiser.reference_modulation"
        )
    denoiser: ReferenceWanTransformer = load_model(
        ReferenceWanTransformer, pretrained=pretrained, config=config, seed=seed, dtype=dtype
    )
    found = denoiser.config["reference_modulation"]
    if found == "own" and reference_modulation == "shared":
        raise ValueError(
            f"{pretrained} has modulation tables of its own for references: set "
            "backbone.denoiser.reference_modulation=own"
        )
    if found == "shared" and reference_modulation == "own":
        denoiser.give_references_own_modulation()
    return denoiser


class ReferenceWanBlock(WanTransformerBlock):
    """Wan's block on two streams, clip tokens (b n d) and reference tokens (b m d), which meet in self-attention.

    Text reaches the clip alone. `scale_shift_table_ref`: the references' own modulation; None where they share the
    clip's.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.scale_shift_table_ref: nn.Parameter | None = None

    def forward(  # type: ignore[override]
        self,
        tokens: Tensor,
        reference_tokens: Tensor,
        text_tokens: Tensor,
        timestep_proj: Tensor,
        reference_timestep_proj: Tensor,
        rotary_emb: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """`timestep_proj`, `reference_timestep_proj`: (b 6 d). `rotary_emb`: tables of both streams behind another."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = _modulation(self.scale_shift_table, timestep_proj)
        if self.scale_shift_table_ref is None:
            ref_shift, ref_scale, ref_gate, ref_ff_gate = shift, scale, gate, ff_gate
            ref_ff_shift, ref_ff_scale = ff_shift, ff_scale
        else:
            ref_shift, ref_scale, ref_gate, _, _, ref_ff_gate = _modulation(
                self.scale_shift_table_ref, reference_timestep_proj
            )
            # The released code feeds attention's shift and scale to the references' feed-forward as well. The weights
            # were trained with it, so it stays; rows 3 and 4 of the table are never used.
            ref_ff_shift, ref_ff_scale = ref_shift, ref_scale

        attention_input = torch.cat(
            [
                _modulate(self.norm1, tokens, shift, scale),
                _modulate(self.norm1, reference_tokens, ref_shift, ref_scale),
            ],
            dim=1,
        )
        attention = self.attn1(attention_input, None, None, rotary_emb)
        attention, reference_attention = attention.split([tokens.shape[1], reference_tokens.shape[1]], dim=1)
        tokens = _add_gated(tokens, attention, gate)
        reference_tokens = _add_gated(reference_tokens, reference_attention, ref_gate)

        tokens = tokens + self.attn2(self.norm2(tokens.float()).type_as(tokens), text_tokens, None, None)

        tokens = _add_gated(tokens, self.ffn(_modulate(self.norm3, tokens, ff_shift, ff_scale)), ff_gate)
        reference_update = self.ffn(_modulate(self.norm3, reference_tokens, ref_ff_shift, ref_ff_scale))
        return tokens, _add_gated(reference_tokens, reference_update, ref_ff_gate)


class ReferenceWanTransformer(WanTransformer3DModel):
    """`WanTransformer3DModel` that takes clean reference latents; without any it is the stock network, bit by bit.

    Settings are the stock ones and `reference_modulation`: `shared`, or `own` for a modulation table a block and a time
    projection of the references' own (14 M parameters at 1.3 B). Raises ValueError for image-to-video settings.
    """

    _no_split_modules = ["ReferenceWanBlock"]  # noqa: RUF012
    _repeated_blocks = ["ReferenceWanBlock"]  # noqa: RUF012
    _cp_plan: Any = None  # the stock plan splits one stream of tokens; the library then refuses context parallelism

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        reference_modulation: str = "shared",
    ):
        if image_dim is not None or added_kv_proj_dim is not None:
            raise ValueError("backbone.denoiser is an image-to-video Wan transformer: give a text-to-video one")
        if patch_size[0] != 1 or patch_size[1] != patch_size[2]:
            raise ValueError(
                f"backbone.denoiser.patch_size={list(patch_size)} must be [1, p, p]: a reference is one latent frame"
            )
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        width = num_attention_heads * attention_head_dim
        self.blocks = nn.ModuleList(
            ReferenceWanBlock(width, ffn_dim, num_attention_heads, qk_norm, cross_attn_norm, eps)
            for _ in range(num_layers)
        )
        self.time_proj_ref: nn.Linear | None = None
        if reference_modulation == "own":
            self.give_references_own_modulation()

    def give_references_own_modulation(self) -> None:
        """Give references copies of the modulation that they share with the clip: where its training starts."""
        for block in self.blocks:
            table: Any = block.scale_shift_table
            block.scale_shift_table_ref = nn.Parameter(table.detach().clone())
        self.time_proj_ref = copy.deepcopy(self.condition_embedder.time_proj)
        self.register_to_config(reference_modulation="own")

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        reference_latents: Tensor | None = None,
    ) -> Tensor:
        """Return the output (b c f h w) for the clip.

        `hidden_states`: noisy latents (b c f h w); `timestep`: (b,) in [0, 1000]; `encoder_hidden_states`: text (b n
        d); `reference_latents`: (b c k h w), or None.
        """
        if reference_latents is None:
            reference_latents = hidden_states[:, :, :0]
        _, _, num_frames, height, width = hidden_states.shape
        patch = self.config["patch_size"][1]
        check_patches(hidden_states, patch)
        grid = (num_frames, height // patch, width // patch)
        rotary_emb = self._positions(hidden_states, reference_latents.shape[2])

        patches = self.patch_embedding(torch.cat([hidden_states, reference_latents], dim=2))
        tokens, reference_tokens = (
            part.flatten(2).transpose(1, 2).contiguous()
            for part in (patches[:, :, :num_frames], patches[:, :, num_frames:])
        )
        temb, timestep_proj, text_tokens, _ = self.condition_embedder(timestep, encoder_hidden_states)
        reference_proj = timestep_proj
        if self.time_proj_ref is not None:
            reference_proj = self.time_proj_ref(self.condition_embedder.act_fn(temb))
        projections = [projection.unflatten(1, (6, -1)) for projection in (timestep_proj, reference_proj)]

        checkpoint: Any = self._gradient_checkpointing_func
        for block in self.blocks:
            arguments = (tokens, reference_tokens, text_tokens, *projections, rotary_emb)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens, reference_tokens = checkpoint(block, *arguments)
            else:
                tokens, reference_tokens = block(*arguments)

        shift, scale = (self.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        output = self.proj_out(_modulate(self.norm_out, tokens, shift, scale))
        output = output.reshape(len(output), *grid, patch, patch, -1)  # b f h w p q c
        return output.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _positions(self, latents: Tensor, num_references: int) -> tuple[Tensor, Tensor]:
        """Rotary tables of clip and references, which lie at (T + j, 0..h-1, w..2w-1), T the clip's number of frames.

        The original has one reference; more than one follow one another in time, as on CogVideoX.
        """
        _, _, num_frames, height, width = latents.shape
        patch = self.config["patch_size"][1]
        num_times, rows, columns = num_frames + num_references, height // patch, width // patch
        # One stock table, twice as wide and longer than the clip: its left half is the clip, the end of its right half
        # the references.
        wide = latents.new_empty(1).expand(1, 1, num_times, height, 2 * width)
        cos, sin = (table.unflatten(1, (num_times, rows, 2 * columns)) for table in self.rope(wide))

        def both(table: Tensor) -> Tensor:
            clip, references = table[:, :num_frames, :, :columns], table[:, num_frames:, :, columns:]
            return torch.cat([clip.flatten(1, 3), references.flatten(1, 3)], dim=1)

        return both(cos), both(sin)


def _modulation(table: Tensor, timestep_proj: Tensor) -> tuple[Tensor, ...]:
    return (table + timestep_proj.float()).chunk(6, dim=1)


def _modulate(norm: nn.Module, tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return (norm(tokens.float()) * (1 + scale) + shift).type_as(tokens)


def _add_gated(tokens: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    # In float32, as the stock block: the residual stream grows, and gates are small.
    return (tokens.float() + update.float() * gate).type_as(tokens)
