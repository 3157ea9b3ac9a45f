"""Memory of a training step at full size, predicted without weights and without a card; measured where there is one.

python benchmarks/memory.py                                # SVD Xtend's experiments, to results/memory.json
python benchmarks/memory.py svd_xtend_lora model.lora.rank=64 datamodule.height=448          # another run, on screen
"""

import sys
from functools import partial
from typing import Any

from common import report, show

RUNS = [
    ["svd_xtend"],
    ["svd_xtend", "model.checkpoint_temporal=true"],
    ["svd_xtend", "trained=all"],
    ["tracklet2video"],
    ["tracklet2video", "model.checkpoint_temporal=true"],
    ["svd_xtend_lora"],
    ["svd_xtend_lora_576x1024", "model.gradient_checkpointing=false", "model.checkpoint_temporal=false"],
    ["svd_xtend_lora_576x1024", "model.checkpoint_temporal=false"],
    ["svd_xtend_lora_576x1024"],
]
# What the published folders' config.json files say, where it is not the class's default.
FULL_SIZE: dict[str, dict[str, Any]] = {
    "denoiser": {},
    "autoencoder": {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
    },
    "image_encoder": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 1024,
        "hidden_act": "gelu",
    },
}


def full_size(arguments: list[str]) -> Any:
    """Return the configuration of `EXPERIMENT SETTINGS...` with random weights of the published sizes."""
    from likeness.config import compose_config

    experiment, *settings = arguments
    config = compose_config(
        "train", [f"experiment={experiment}", "datamodule.train=none", *settings, "paths.output_dir=none"]
    )
    for part, settings_of_part in FULL_SIZE.items():
        config.backbone[part] = {**config.backbone[part], "pretrained": None, "config": settings_of_part}
    return config


def make_batch(data: Any, device: str = "cpu") -> dict[str, Any]:
    import torch

    count = data.batch_size
    pixels = torch.zeros(count, 3, data.num_frames, data.height, data.width, device=device)
    ids = {name: torch.full((count,), 7.0, device=device) for name in ("fps", "motion_bucket_id")}
    batch = {"pixel_values": pixels, "image_pixel_values": pixels[:, :, :1], "caption": [""] * count, **ids}
    if "tracklets" in data.conditions:
        shape = count, data.num_frames, 20  # slots, as Tracklets has them
        batch |= {"boxes": torch.zeros(*shape, 4, device=device), "track_masks": torch.ones(shape, device=device)}
        batch |= {"track_colours": torch.zeros(count, shape[2], 3, device=device)}
    return batch


def row_of(arguments: list[str]) -> dict[str, Any]:
    import torch
    from hydra.utils import instantiate

    from likeness.step_memory import predict_memory

    config = full_size(arguments)
    build = partial(instantiate, config.model, _convert_="all")
    dtype = torch.bfloat16 if config.trainer.precision == "bf16-mixed" else None
    memory = predict_memory(
        build, partial(make_batch, config.datamodule), dtype=dtype, has_average="ema" in config.callbacks
    )
    row: dict[str, Any] = {"run": " ".join(arguments)}
    constant = ("weights", "optimizer", "optimizer_8_bit", "average")
    row |= {f"{name} GB": getattr(memory, name) / 1e9 for name in (*constant, "activations")}
    row |= {f"peak {name} GB": getattr(memory, name) / 1e9 for name in ("encoding", "training", "update")}
    row["predicted GB"] = memory.peak / 1e9
    row["measured GB"] = measured(build, config, dtype) / 1e9 if torch.cuda.is_available() else None
    return row


def measured(build: Any, config: Any, dtype: Any) -> int:
    """Return the peak of torch's allocator on the GPU over two steps."""
    import torch

    from likeness.models.draws import Draws

    torch.cuda.reset_peak_memory_stats()
    with torch.device("cuda"):
        model = build()
    optimizer = model.optimizer_factory(model.optimizer_groups())
    averages = [value.detach().clone() for value in model.trained_parameters().values()]
    for _ in range(2):
        batch = make_batch(config.datamodule, "cuda")
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            loss = model.step_losses(batch, Draws(range(config.datamodule.batch_size), "cuda")).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        del loss, batch
    del averages
    return torch.cuda.max_memory_allocated()


def main() -> None:
    arguments = sys.argv[1:]
    rows = [row_of(run) for run in ([arguments] if arguments else RUNS)]
    if arguments:
        show(rows, "memory of a training step")
    else:
        report("memory", rows, note="predicted on tensors without values: without the CUDA context (0.5 GB) and gaps")


if __name__ == "__main__":
    main()
