"""A training step of ours against a bare loop on the same network, alternating in one process.

    python benchmarks/train_step.py

The bare loop does what any script must: encode, condition, noise, denoise, backward, clip, AdamW. Ours adds the loader,
Lightning, logging, the weight average and the named draws. The toy backbone is the worst case: its step is short.
"""

import argparse
import itertools
import statistics
import time
from functools import partial

import torch
from common import REPOSITORY, report

from likeness.callbacks.ema import EMA
from likeness.datamodules.clips import ClipDataModule
from likeness.datamodules.conditions import ReferenceImages
from likeness.datamodules.frames import StridedFrames
from likeness.models.concat_id import ConcatID
from likeness.models.diffusion.parameterization import add_noise, velocity
from likeness.models.loading import load_denoiser
from likeness.toy.backbone import ToyAutoencoder, ToyTextEncoder
from likeness.toy.world import ToyShards

NETWORK = {
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "in_channels": 16,
    "out_channels": 16,
    "time_embed_dim": 128,
    "text_embed_dim": 64,
    "num_layers": 4,
    "max_text_seq_length": 20,
    "use_rotary_positional_embeddings": True,
}


def build() -> ConcatID:
    torch.manual_seed(0)
    return ConcatID(
        denoiser=load_denoiser(architecture="diffusers.CogVideoXTransformer3DModel", config=NETWORK),
        autoencoder=ToyAutoencoder(scaling_factor=1.5),
        text_encoder=ToyTextEncoder(embed_dim=64, max_length=20),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
    )


def data() -> ClipDataModule:
    source = ToyShards(folder=str(REPOSITORY / "data" / "toy"))
    source.prepare()
    module = ClipDataModule(
        num_frames=3,
        height=32,
        width=32,
        frames=StridedFrames(stride=4),
        source=source,
        batch_size=16,
        keep_decoded=True,
        shuffle_buffer=10_000,
        conditions={"references": ReferenceImages(height=32, width=32)},
    )
    return module


class BareLoop:
    """The same arithmetic on a batch that is already there."""

    def __init__(self, batch: dict):
        self.model = build()
        self.batch = batch
        self.optimizer = torch.optim.AdamW(self.model.denoiser.parameters(), 1e-3)

    def step(self) -> None:
        model, batch = self.model, self.batch
        with torch.no_grad():
            latents = model.autoencoder.posterior(batch["pixel_values"])[0]
            references = batch["reference_pixel_values"]
            references = model.autoencoder.posterior(references + 0.05 * torch.randn_like(references))[0]
            text = model.text_encoder(batch["caption"])
        noise, timesteps = torch.randn_like(latents), torch.randint(1000, (len(latents),))
        levels = model.process.alphas_cumprod[timesteps]
        sequence = torch.cat([add_noise(latents, noise, levels), references], dim=2)
        output = model.denoiser(
            hidden_states=sequence.transpose(1, 2),
            encoder_hidden_states=text,
            timestep=timesteps,
            image_rotary_emb=model.placement.positions(model.denoiser, sequence),
            return_dict=False,
        )[0].transpose(1, 2)[:, :, : latents.shape[2]]
        loss = ((output - velocity(latents, noise, levels)) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.denoiser.parameters(), 1.0)
        self.optimizer.step()


class Interleaved:
    """Times `bare` after every step of the Trainer, so that both meet the same machine."""

    def __init__(self, bare: BareLoop):
        self.bare, self.ours, self.others = bare, [], []
        self._last: float | None = None

    def after_step(self) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.ours.append(now - self._last)
        self.bare.step()
        self._last = time.perf_counter()
        self.others.append(self._last - now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    import lightning

    module = data()
    loader = module.train_dataloader()
    batch = module.on_after_batch_transfer(next(iter(loader)), 0)
    timer = Interleaved(BareLoop(batch))

    class Timing(lightning.Callback):
        def on_train_batch_end(self, *_) -> None:
            timer.after_step()

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=arguments.steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        callbacks=[EMA(decay=0.99), Timing()],
    )
    trainer.fit(build(), datamodule=module)
    # The first epoch decodes the videos; what stays is the step itself.
    skip = min(len(loader) + 5, arguments.steps // 2)
    ours, bare = (statistics.median(itertools.islice(values, skip, None)) for values in (timer.ours, timer.others))
    report(
        "train_step",
        [
            {"loop": "bare", "median_ms": bare * 1e3, "ratio": 1.0},
            {"loop": "likeness (loader, Lightning, EMA, draws)", "median_ms": ours * 1e3, "ratio": ours / bare},
        ],
        steps=arguments.steps - skip,
    )


if __name__ == "__main__":
    main()
