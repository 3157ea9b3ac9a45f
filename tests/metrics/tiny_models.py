"""Folders of tiny CLIP and ViT models with random weights, where `model_files` looks for the published ones."""

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from likeness.metrics.model_files import MODEL_FILES

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def write_clip(weights_dir: Path, name: str = "clip_vit_b32", projection_dim: int = 12) -> Path:
    folder = weights_dir / MODEL_FILES[name].path
    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = CLIPConfig(
        text_config={
            **SIZES,
            "vocab_size": len(words),
            "max_position_embeddings": 8,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**SIZES, "image_size": 32, "patch_size": 16},
        projection_dim=projection_dim,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(folder)
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return folder


def write_dino(weights_dir: Path) -> Path:
    folder = weights_dir / MODEL_FILES["dino_vitb16"].path
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    model = ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=16), add_pooling_layer=False)
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(folder)
    return folder
