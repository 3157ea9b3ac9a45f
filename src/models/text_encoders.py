"""Text encoders: captions in, `prompt_embeds` (b n d) out."""

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .frozen import FrozenPart
from .loading import load_frozen


class TextEncoder(FrozenPart, ABC):
    """Frozen map from captions to embeddings of a fixed number of tokens."""

    embed_dim: int
    max_length: int

    @abstractmethod
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Return `prompt_embeds` (b n d) for `prompts` (b)."""


class T5TextEncoder(TextEncoder):
    """T5 encoder as CogVideoX uses it: padded to `max_length`, truncated, without an attention mask (pad tokens count).

    `pretrained`: a folder with `text_encoder` and `tokenizer`. Without one, `config` gives random weights made with
    `seed` behind the byte tokenizer, which needs no vocabulary file.
    """

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        dtype: str = "float32",
        max_length: int = 226,
    ):
        super().__init__()
        from transformers import AutoTokenizer, ByT5Tokenizer

        folder = None if pretrained is None else f"{pretrained}/text_encoder"
        self.encoder = load_frozen(self._model_class(), pretrained=folder, config=config, seed=seed, dtype=dtype)
        self.tokenizer: Any
        if pretrained is None:
            self.tokenizer = ByT5Tokenizer()
        else:
            self.tokenizer = AutoTokenizer.from_pretrained(f"{pretrained}/tokenizer", local_files_only=True)
        self.max_length = max_length
        self.embed_dim = self.encoder.config.d_model

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        return self.encoder(self._tokens(prompts).input_ids).last_hidden_state

    def _model_class(self) -> Any:
        from transformers import T5EncoderModel

        return T5EncoderModel

    def _tokens(self, prompts: Sequence[str]) -> Any:
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        )
        return tokens.to(self.encoder.device)


class UMT5TextEncoder(T5TextEncoder):
    """UMT5 encoder as Wan uses it: pad tokens are masked, and the embeddings behind the text are zeros.

    HTML entities are resolved and white space is collapsed, as Wan does. `pretrained`, `config`, `seed`: as in
    `T5TextEncoder`.
    """

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        dtype: str = "float32",
        max_length: int = 512,
    ):
        super().__init__(pretrained=pretrained, config=config, seed=seed, dtype=dtype, max_length=max_length)

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        # Wan's code resolves entities twice: captions from the web are often escaped twice.
        tokens = self._tokens([" ".join(html.unescape(html.unescape(prompt)).split()) for prompt in prompts])
        embeds = self.encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return embeds * tokens.attention_mask[..., None].to(embeds.dtype)

    def _model_class(self) -> Any:
        from transformers import UMT5EncoderModel

        return UMT5EncoderModel
