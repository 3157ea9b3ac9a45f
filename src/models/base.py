"""What every method shares: one random step, logging, optimizer, and what a checkpoint holds.

Knows no method by name.
"""

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from lightning import LightningModule
from torch import Tensor, nn

from .autoencoders import VideoAutoencoder
from .draws import Draws, mix
from .frozen import Cacheable, FrozenPart, cache_recipe, posterior_tensors, prompt_tensors, unused_parts
from .loading import fingerprint
from .lora import LoRA
from .text_encoders import TextEncoder
from .trained import select

log = logging.getLogger(__name__)

Batch = dict[str, Any]
OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
ScheduleFactory = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
OnStep = Callable[[int, Tensor, Tensor], None]

_TRAINING, _VALIDATION = 0, 1  # keys of the random numbers of a step


@dataclass(frozen=True)
class Conditioning:
    """Everything that the denoiser is told besides noisy latents and noise level. Every field is a tensor (b ...)."""

    def beside(self, other: Self) -> Self:
        """Return both batches as one, `self` first: how guidance runs its branches in one call."""
        return type(self)(**{f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})


@dataclass(frozen=True)
class TextConditioning(Conditioning):
    """`prompt_embeds` (b n d)."""

    prompt_embeds: Tensor


class VideoDiffusion(LightningModule, ABC):
    """A denoiser, a frozen autoencoder and frozen encoders of conditions, trained on one random noise level a clip.

    `encoders`: by the name that each has as an attribute, in `cacheable` and in messages. A method adds `condition`,
    `draw_timesteps`, `loss`, `predict` and `sample`. All randomness of a step comes from a `Draws` keyed by (seed,
    epoch, batch, rank, sample), so that a resumed run repeats what an uninterrupted one does.

    `lora`: adapters on the denoiser, which is then frozen. `trained`: patterns (`*`, and `!` for all but) of the
    denoiser's parameters that are trained, by the names that a checkpoint has; None: all, or with `lora` the adapters.

    What `cacheable` names may be in a batch already, made by `prepare.py` or remembered; it is then not computed, and
    the clip is not decoded for it. A method whose `condition` reads `pixel_values` itself says so in `reads`.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        denoiser: nn.Module,
        autoencoder: VideoAutoencoder,
        encoders: Mapping[str, FrozenPart],
        optimizer: OptimizerFactory,
        lr_schedule: ScheduleFactory | None,
        seed: int,
        lora: LoRA | None = None,
        trained: Sequence[str] | None = None,
    ):
        super().__init__()
        self.denoiser: Any = denoiser
        self.autoencoder = autoencoder
        self.encoder_names = tuple(encoders)
        for name, encoder in encoders.items():
            if encoder is None:
                raise ValueError(
                    f"{type(self).__name__} needs a {name}, the backbone has none: choose another backbone"
                )
            setattr(self, name, encoder)
        self.optimizer_factory = optimizer
        self.lr_schedule_factory = lr_schedule
        self.seed = seed
        self.lora = lora
        self._choose_trained(trained)
        self.num_skipped_steps = 0
        self._idle_parts: dict[str, nn.Module] = {}
        self._saved_optimizer: str | None = None  # of the checkpoint that the run goes on from
        # A checkpoint holds trained tensors only; `on_load_checkpoint` says which ones are missing.
        self.strict_loading = False

    @abstractmethod
    def condition(self, batch: Batch, draws: Draws, *, augment: bool) -> Conditioning:
        """Return the conditioning of `batch`; with `augment`, as in training: noise and dropout of conditions."""

    @abstractmethod
    def draw_timesteps(self, draws: Draws) -> Tensor:
        """Return one noise level a clip: (b,) integer timesteps or float sigmas."""

    @abstractmethod
    def loss(self, latents: Tensor, conditioning: Any, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the loss of each clip, (b,). `latents`, `noise`: (b c f h w)."""

    @abstractmethod
    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Any) -> Tensor:
        """Return the denoiser's output (b c f h w): the one line that training and sampling share."""

    @abstractmethod
    def sample(self, conditioning: Any, noise: Tensor, draws: Draws, **sampling: Any) -> Tensor:
        """Return clean latents (b c f h w) from standard normal `noise`. `sampling`: that section of the config."""

    @classmethod
    def cacheable(cls) -> dict[str, Cacheable]:
        """Return what frozen parts make of a clip, by name. A method adds what it has more, and uses it if it is there.

        The batch that is cached has the tensors in place of the inputs that nobody needs any more.
        """
        return {
            "latents": Cacheable(("autoencoder",), ("pixel_values",), posterior_tensors),
        }

    def cache_recipes(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return what those of `cacheable` depend on beside their inputs. Reads every weight of their parts."""
        chosen, parts = self.cacheable(), dict(self.named_children()) | self._idle_parts
        return {name: cache_recipe(chosen[name], parts, self.trainer.precision) for name in names}

    def leave_idle(self, cached: Iterable[str]) -> None:
        """Keep parts that have nothing to do where `cached` are read off the device; the autoencoder still decodes."""
        for name in unused_parts(self.cacheable(), cached) - {"autoencoder"}:
            # Outside of the tree of modules neither Lightning nor DDP moves it. It still answers, on the CPU.
            if name in self._modules:
                part = getattr(self, name)
                del self._modules[name]
                self._idle_parts[name] = self.__dict__[name] = part
                log.info("%s stays on the CPU: what it computes is cached", name)

    def step_losses(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the loss (b,) of every clip of `batch` for one random noise level each."""
        latents = self.encode(batch, draws)
        conditioning = self.condition(batch, draws, augment=True)
        return self.loss(latents, conditioning, self.draw_noise(draws, latents.shape[1:]), self.draw_timesteps(draws))

    def draw_noise(self, draws: Draws, shape: Sequence[int]) -> Tensor:
        """Return the noise (b, *shape) of a step, and the sampler's initial state. A prior overrides it."""
        return draws.normal("noise", shape)

    @torch.no_grad()
    def encode(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the latents (b c f h w) of the clips of `batch`, a sample of the autoencoder's posterior."""
        # float32 from here on, whatever the autoencoder computes in: noise is added and losses are taken in it.
        if "latents" in batch:
            mean = batch["latents"]
            if "latents_std" not in batch:
                return mean.float()
            noise = draws.normal("posterior", mean.shape[1:])
            return self.autoencoder.sample_posterior(mean, batch["latents_std"], noise).float()
        pixel_values = batch["pixel_values"]
        shape = self.autoencoder.latent_shape(*pixel_values.shape[2:])
        return self.autoencoder.encode(pixel_values, draws.normal("posterior", shape)).float()

    def clip_shape(self, batch: Batch) -> tuple[int, int, int]:
        """Return frames, height and width of the clips of `batch`."""
        if "pixel_values" in batch:
            num_frames, height, width = batch["pixel_values"].shape[2:]
            return num_frames, height, width
        return self.autoencoder.clip_shape(*batch["latents"].shape[2:])

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        draws: Draws,
        *,
        num_frames: int,
        height: int,
        width: int,
        on_step: OnStep | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Return clips (b 3 f h w) in [-1, 1] for the conditions of `batch`.

        `on_step(step, state, clean)` follows the sampler. `sampling`: settings of `condition`, of `sample` and of the
        autoencoder's `decode`; each gets those that it takes.
        """
        shape = self.autoencoder.latent_shape(num_frames, height, width)
        takes = self.sampling_settings()
        conditioning = self.condition(batch, draws, augment=False, **_among(sampling, takes["condition"]))
        settings = _among(sampling, takes["sample"])
        latents = self.sample(conditioning, self.draw_noise(draws, shape), draws, on_step=on_step, **settings)
        return self.autoencoder.decode(latents, **_among(sampling, takes["decode"]))

    def sampling_settings(self) -> dict[str, list[str]]:
        """Return which settings of sampling `condition`, `sample` and `decode` take."""
        functions: dict[str, Any] = {
            "condition": self.condition,
            "sample": self.sample,
            "decode": self.autoencoder.decode,
        }
        return {name: _settings_of(function) for name, function in functions.items()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        draws = self._draws(_TRAINING, batch, self.current_epoch, batch_idx)
        if self.lora is not None and self.lora.dropout:
            # nn.Dropout knows no generator of its own: without this a resumed run would drop other values.
            torch.manual_seed(mix(*draws.seeds))
        loss = self.step_losses(batch, draws).mean()
        if not self._finite_on_every_rank(loss):
            self.num_skipped_steps += 1
            log.warning(
                "the loss of batch %d of epoch %d is not finite: no update (%d so far)",
                batch_idx,
                self.current_epoch,
                self.num_skipped_steps,
            )
            return None
        self.log("train/loss", loss, batch_size=len(draws.seeds))
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=len(draws.seeds))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        # Without the epoch in the key, every validation uses the same noise and the curve shows the model alone.
        draws = self._draws(_VALIDATION, batch, 0, batch_idx)
        loss = self.step_losses(batch, draws).mean()
        self.log("val/loss", loss, sync_dist=True, batch_size=len(draws.seeds))

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self.optimizer_groups())
        if self._saved_optimizer not in (None, type(optimizer).__name__):
            raise ValueError(
                f"the checkpoint holds the states of {self._saved_optimizer}, which {type(optimizer).__name__} cannot "
                "go on with: resume with the same model.optimizer, or start anew from its weights, init_from=RUN"
            )
        if self.lr_schedule_factory is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_schedule_factory(optimizer), "interval": "step"},
        }

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return the groups that the optimizer is made of. A method whose original decays otherwise overrides it."""
        return parameter_groups(self.trained_parameters())

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that receive a gradient, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def frozen_parts(self) -> dict[str, nn.Module]:
        """Return the parts that are never trained and never saved, by name."""
        return {"autoencoder": self.autoencoder} | {name: getattr(self, name) for name in self.encoder_names}

    def frozen_fingerprints(self) -> dict[str, str]:
        """Return a hash of everything that a checkpoint leaves out, by part; of the denoiser, what is not trained."""
        prints = {name: fingerprint(part) for name, part in self.frozen_parts().items()}
        base = {name: value for name, value in self.denoiser.named_parameters() if not value.requires_grad}
        return prints | ({"denoiser": fingerprint(base)} if base else {})

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.frozen_parts().values():
            part.eval()
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = self.trained_parameters()
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in trained}
        checkpoint["frozen"] = self.frozen_fingerprints()
        if self._trainer is not None and self.trainer.optimizers:
            checkpoint["optimizer"] = type(self.trainer.optimizers[0]).__name__

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._saved_optimizer = checkpoint.get("optimizer")
        saved, trained = checkpoint["state_dict"].keys(), self.trained_parameters().keys()
        if saved != trained:
            difference = sorted(saved ^ trained)
            raise ValueError(
                f"the checkpoint does not fit {type(self).__name__}: {len(difference)} trained tensors differ, the "
                "first is "
                f"{difference[0]}. Use the configuration that the checkpoint was trained with (it is stored in the "
                "file)."
            )
        for name, found in self.frozen_fingerprints().items():
            expected = checkpoint["frozen"].get(name)
            if found != expected:
                raise ValueError(
                    f"the checkpoint was trained with another {name} ({expected}, here {found}): set backbone.{name} "
                    "to the same weights"
                )

    def _choose_trained(self, patterns: Sequence[str] | None) -> None:
        adapters = {} if self.lora is None else self.lora.apply(self.denoiser)
        adapters = {f"denoiser.{name}": value for name, value in adapters.items()}
        parameters = dict(self.denoiser.named_parameters(prefix="denoiser"))
        chosen = select(parameters, patterns) if patterns is not None else set(adapters or parameters)
        if left_out := sorted(adapters.keys() - chosen):
            raise ValueError(
                f"model.trained={list(patterns or [])} leaves out {left_out[0]}, which model.lora adds: "
                "model.trained=null trains them alone, another pattern '*lora_*' both"
            )
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in chosen)
        if halves := [name for name in sorted(chosen) if parameters[name].dtype != torch.float32]:
            raise ValueError(
                f"{halves[0]} would be trained in {parameters[halves[0]].dtype}, which loses small updates: "
                "backbone.denoiser.dtype=float32, and trainer.precision=bf16-mixed for speed"
            )

    @property
    def world_size(self) -> int:
        """Number of processes that train together; 1 outside a Trainer."""
        return 1 if self._trainer is None else self.trainer.world_size

    def _draws(self, purpose: int, batch: Batch, epoch: int, batch_idx: int) -> Draws:
        num_samples = num_clips(batch)
        key = (self.seed, purpose, epoch, batch_idx, self.global_rank)
        return Draws.of_step(*key, num_samples=num_samples, device=self.device)

    def _finite_on_every_rank(self, loss: Tensor) -> bool:
        finite = torch.isfinite(loss.detach())
        if self.world_size > 1:
            finite = torch.as_tensor(self.all_gather(finite)).all()
        return bool(finite)


class TextToVideo(VideoDiffusion):
    """A method that reads a caption: among its `encoders` is a `text_encoder`."""

    text_encoder: TextEncoder

    @classmethod
    def cacheable(cls) -> dict[str, Cacheable]:
        return super().cacheable() | {"prompt_embeds": Cacheable(("text_encoder",), ("caption",), prompt_tensors)}

    def encode_prompts(self, batch: Batch) -> Tensor:
        """Return `prompt_embeds` (b n d) of the captions of `batch`."""
        if "prompt_embeds" in batch:
            return batch["prompt_embeds"]
        prompt_embeds = self.text_encoder(batch["caption"])
        return prompt_embeds.to(self.device) if "text_encoder" in self._idle_parts else prompt_embeds


def _settings_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of the settings of sampling that `function` takes."""
    own = ("augment", "on_step")
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in own]


def _among(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in names}


def num_clips(batch: Batch) -> int:
    """Return how many clips `batch` has, in pixels or as latents."""
    return len(batch["latents"] if "latents" in batch else batch["pixel_values"])


def parameter_groups(parameters: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Return two optimizer groups: matrices and kernels, and everything else (biases, norms) without weight decay."""
    decayed = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    others = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
