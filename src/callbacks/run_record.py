"""What a run leaves so that it can be repeated: its configuration, in the folder, the loggers and every checkpoint."""

import json
import logging
from pathlib import Path
from typing import Any, cast

from lightning import Callback, Trainer
from omegaconf import DictConfig, OmegaConf

from ..datamodules.shards import write_atomically
from ..models.base import VideoDiffusion

log = logging.getLogger(__name__)


class RunRecord(Callback):
    """Saves `config` as `config.yaml` (resolved) and in checkpoints as a plain dict whose interpolations stay open.

    Open ones let another machine read the same checkpoint with its own paths. `parameters.json` lists which parameters
    of the denoiser are `trained` and which are `frozen`.
    """

    def __init__(self, config: DictConfig):
        self.config = config

    def setup(self, trainer: Trainer, pl_module: VideoDiffusion, stage: str) -> None:
        if trainer.is_global_zero:
            folder = Path(self.config.paths.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "config.yaml", OmegaConf.to_yaml(self.config, resolve=True).encode())
            write_atomically(folder / "parameters.json", json.dumps(_parameters(pl_module), indent=1).encode())
        for logger in trainer.loggers:
            logger.log_hyperparams(cast(dict[str, Any], OmegaConf.to_container(self.config, resolve=True)))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: VideoDiffusion, checkpoint: dict[str, Any]) -> None:
        """Say where the optimizer is set otherwise than the run was begun: its settings come with its state."""
        current: Any = OmegaConf.to_container(self.config, resolve=False)
        before, now = (config["model"].get("optimizer") or {} for config in (checkpoint["config"], current))
        if changed := sorted(name for name in {*before, *now} if before.get(name) != now.get(name)):
            log.warning(
                "model.optimizer.%s is not what the run began with, and has no effect: an optimizer goes on with the "
                "settings of its checkpoint. To change them, start from its weights: init_from=RUN run_name=OTHER",
                ", model.optimizer.".join(changed),
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: VideoDiffusion, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = OmegaConf.to_container(self.config, resolve=False)


def _parameters(model: VideoDiffusion) -> dict[str, list[str]]:
    """Return the names of the denoiser's parameters, trained and frozen, and log how many there are."""
    lists: dict[str, list[str]] = {"trained": [], "frozen": []}
    counts = {"trained": 0, "frozen": 0}
    for name, parameter in model.denoiser.named_parameters():
        kind = "trained" if parameter.requires_grad else "frozen"
        lists[kind].append(name)
        counts[kind] += parameter.numel()
    texts = [f"{counts[kind]:,} parameters in {len(names)} tensors are {kind}" for kind, names in lists.items()]
    log.info("denoiser: %s", ", ".join(texts))
    return lists
