"""Text encoders: captions in, `prompt_embeds` (b n d) out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .loading import load_frozen


class TextEncoder(nn.Module, ABC):
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
        from transformers import AutoTokenizer, ByT5Tokenizer, T5EncoderModel

        folder = None if pretrained is None else f"{pretrained}/text_encoder"
        self.encoder = load_frozen(T5EncoderModel, pretrained=folder, config=config, seed=seed, dtype=dtype)
        self.tokenizer: Any
        if pretrained is None:
            self.tokenizer = ByT5Tokenizer()
        else:
            self.tokenizer = AutoTokenizer.from_pretrained(f"{pretrained}/tokenizer", local_files_only=True)
        self.max_length = max_length
        self.embed_dim = self.encoder.config.d_model

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        )
        return self.encoder(tokens.input_ids.to(self.encoder.device)).last_hidden_state
