"""One evaluation: which metrics can run on which clips, and running them."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config import locate
from ..metrics.building import arguments, build_metrics
from ..metrics.model_files import MissingModel
from .clips import EvaluatedClip, find_clips
from .measuring import Measured, describe, measure
from .result import collect
from .store import Store
from .table import by_reason

log = logging.getLogger(__name__)


class Session:
    """Finds the clips of a configuration and builds the metrics that can be taken of them.

    `asked_for`: metrics that must run. Raises ValueError, before anything is decoded, for what cannot work.
    """

    def __init__(self, config: DictConfig, asked_for: Collection[str]):
        self.config = config
        nodes = {str(name): node for name, node in config.metrics.items() if node is not None}
        takes = {name: arguments(locate(node["_target_"], f"metrics.{name}")) for name, node in nodes.items()}
        self.disabled: dict[str, str] = {}
        if config.save_real is not None and config.real is None:
            raise ValueError(f"save_real={config.save_real} keeps what is measured of real clips: give real=FOLDER")
        needs = "references=none leaves out what needs reference pictures"
        without = {"references": (needs, config.references == "none")}
        given = {name for name, node in nodes.items() if node.get("real") is not None}
        missing = "it compares with real clips: give real=FOLDER (or shards)"
        without["real"] = (missing, config.real is None)
        for name, arguments_ in takes.items():
            for argument, (reason, is_absent) in without.items():
                if is_absent and argument in arguments_ and not (argument == "real" and name in given):
                    self._disable(name, reason, asked_for)
        needs_references = any("references" in takes[name] for name in nodes if name not in self.disabled)
        self.clips = find_clips(
            str(config.videos), config.references, config.prompts, needs_references=needs_references
        )
        if not any(clip.record and clip.record.get("boxes") for clip in self.clips):
            for name in [name for name in nodes if "boxes" in takes[name] and name not in self.disabled]:
                self._disable(name, "no clip has boxes of where things were to be", asked_for)
        self.real: list[EvaluatedClip] = []
        if config.real is not None:
            self.real = find_clips(str(config.real), needs_references=False, setting="real")
        chosen = OmegaConf.masked_copy(config.metrics, [name for name in nodes if name not in self.disabled])
        chosen._set_parent(config)
        self.metrics, lacking = build_metrics(chosen, asked_for)
        self.disabled |= lacking
        for reason, names in by_reason(self.disabled).items():
            log.warning("disabled: %s: %s", ", ".join(names), reason.partition(". Get them with")[0])
        if not self.metrics:
            raise ValueError(f"no metric can run: {'; '.join(f'{name}: {why}' for name, why in self.disabled.items())}")
        self.descriptions = {
            name: describe(OmegaConf.to_container(nodes[name], resolve=True), metric)
            for name, metric in self.metrics.items()
        }
        self.measured = Measured()

    def run(self, output: Path) -> dict[str, Any]:
        """Measure everything that `output` does not know yet; return what `metrics.json` holds."""
        from rich.progress import Progress

        comparing = {name: metric for name, metric in self.metrics.items() if "real" in arguments(metric)}
        if self.real and not comparing:
            log.warning("real=%s has no effect: none of %s compares with it", self.config.real, ", ".join(self.metrics))
        store = Store(output / "measured.jsonl")
        with Progress(transient=True) as progress:

            def start(description: str, total: int) -> Callable[[], None]:
                task = progress.add_task(description, total=total)
                return lambda: progress.advance(task)

            real = Measured()
            if comparing:
                advance = start("real clips", len(self.real))
                real = measure(self.real, comparing, self.descriptions, store, real=True, advance=advance)
                if self.config.save_real is not None:
                    for name, metric in comparing.items():
                        metric.save_real(Path(self.config.save_real) / f"{name}.safetensors")
            advance = start("evaluating", len(self.clips))
            self.measured = measure(self.clips, self.metrics, self.descriptions, store, advance=advance)
        store.close()
        if not self.measured.clips:
            raise ValueError(
                f"none of the {len(self.clips)} clips in {self.config.videos} could be read; the first: "
                f"{self.measured.failed[0]['error']}"
            )
        result = collect(
            self.metrics,
            self.measured,
            self.descriptions,
            self.disabled,
            num_resamples=self.config.num_resamples,
            seed=self.config.seed,
        )
        result["real_clips"] = [clip.name for clip in real.clips]
        result["notes"] = [*_notes_of_drawn_faces(self.metrics, result["clips"]), *result["notes"]]
        if real.failed:
            result["notes"].append(f"{len(real.failed)} real clips could not be read: {real.failed[0]['error']}")
        return result

    def _disable(self, name: str, reason: str, asked_for: Collection[str]) -> None:
        if name in asked_for:
            raise MissingModel(f"metrics.{name} cannot run: {reason}")
        self.disabled[name] = reason


def _notes_of_drawn_faces(metrics: Mapping[str, Any], clips: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning where the analyzer of drawn faces, which is the default, hardly finds a face."""
    for metric in metrics.values():
        if getattr(getattr(metric, "analyzer", None), "name", "") != "toy":
            continue
        for column, what in (("reference_found", "the reference pictures"), ("box_found", "the boxes")):
            found = [clip.get(getattr(metric, "prefix", "") + column) for clip in clips]
            known = [value for value in found if value is not None]
            if known and 2 * known.count(0) >= len(known):
                return [
                    f"analyzer=toy sees no face in {what} of {known.count(0)} of {len(known)} clips: it knows drawn "
                    "faces only; for photographs and real video give analyzer=insightface"
                ]
    return []
