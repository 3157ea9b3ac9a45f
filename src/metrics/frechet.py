"""Distances between the clips of a model and real ones: FVD under named protocols, FID, and their unbiased company."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchmetrics import Metric

from .distances import (
    Estimate,
    Rows,
    bootstrapped_frechet,
    extrapolated_frechet,
    frechet_from_moments,
    frechet_from_rows,
    moments_from_sums,
    unbiased_mmd,
)
from .image_features import ImageFeatures
from .protocols import Protocol
from .states import Shelves, cat, evenly_spaced

MIN_CLIPS_TO_EXTRAPOLATE = 8
KINDS = ("real", "generated")


class SetDistance(Metric):
    """Frechet distance and MMD between features of real and of generated clips.

    What is compared has a name, and nothing is compared across names: `comparison` (protocol, frames) and `features`.
    The sums that the Frechet distance needs are always whole. Beyond `max_kept` clips of a kind and process, the rows
    for MMD, extrapolation and intervals are a random sample of that size; memory does not grow. `compute` returns, for
    `name` NAME,

    - NAME: the Frechet distance as the protocol defines it. Small sets read far too high,
    - NAME_low, NAME_high: 95 % of how it moves with the choice of clips (bootstrap); not the bias,
    - NAME_extrapolated, with _low and _high: for infinitely many clips (see `distances.extrapolated_frechet`),
    - NAME_mmd, with _low and _high: unbiased at any number of clips; not comparable with the others,
    - NAME_num_real, NAME_num_generated: clips compared.

    What is not defined is NaN, and `notes` says why.
    """

    full_state_update = False
    real_sum: Tensor
    real_outer: Tensor
    real_num_rows: Tensor
    real_num_clips: Tensor
    real_rows: list[Tensor]
    real_counts: list[Tensor]
    num_left_out: Tensor

    def __init__(
        self,
        *,
        name: str,
        features: str,
        comparison: str,
        dim: int,
        ddof: int,
        max_kept: int = 2048,
        num_resamples: int = 50,
        real: str | None = None,
        left_out: str = "clips",
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if max_kept < MIN_CLIPS_TO_EXTRAPOLATE:
            raise ValueError(f"max_kept={max_kept} must be at least {MIN_CLIPS_TO_EXTRAPOLATE}")
        self.name, self.features, self.comparison = name, features, comparison
        self.ddof, self.max_kept, self.num_resamples, self.seed = ddof, max_kept, num_resamples, seed
        self.left_out, self.real = left_out, real
        for kind in KINDS:
            self.add_state(f"{kind}_sum", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{kind}_outer", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")
            for count in ("num_rows", "num_clips"):
                self.add_state(f"{kind}_{count}", torch.tensor(0), dist_reduce_fx="sum")
            for part in ("rows", "counts"):
                self.add_state(f"{kind}_{part}", default=[], dist_reduce_fx="cat")
        self.add_state("num_left_out", torch.tensor(0), dist_reduce_fx="sum")
        self._notes: list[str] = []
        self._shelves = Shelves()
        self._real = None if real is None else self._read_real(Path(real))

    @property
    def descriptions(self) -> dict[str, str]:
        """Of every value: what it measures, its range and which direction is better."""
        what, interval = f"{self.comparison}, {self.features}", "95 % interval, from the choice of clips"
        return {
            self.name: f"Frechet distance to real clips ({what}): 0 and up, lower is better; too high for few clips",
            f"{self.name}_low": f"{interval}: lower end",
            f"{self.name}_high": f"{interval}: upper end",
            f"{self.name}_extrapolated": "the same for infinitely many clips: about 0 and up, lower is better",
            f"{self.name}_extrapolated_low": "its 95 % interval: lower end",
            f"{self.name}_extrapolated_high": "its 95 % interval: upper end",
            f"{self.name}_mmd": "unbiased squared MMD of the same features: about 0 and up, lower is better",
            f"{self.name}_mmd_low": f"{interval}: lower end",
            f"{self.name}_mmd_high": f"{interval}: upper end",
            f"{self.name}_num_real": "real clips that were compared",
            f"{self.name}_num_generated": "generated clips that were compared",
        }

    def add(self, rows: Tensor, real: bool) -> None:
        """Add the feature rows (n d) of one clip: what `update` of a subclass ends in."""
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(f"{self.features} gave features that are not finite: is its weights file whole?")
        kind, rows = KINDS[not real], rows.detach().to(self.device)
        exact = rows.double()
        setattr(self, f"{kind}_sum", getattr(self, f"{kind}_sum") + exact.sum(dim=0))
        setattr(self, f"{kind}_outer", getattr(self, f"{kind}_outer") + exact.T @ exact)
        setattr(self, f"{kind}_num_rows", getattr(self, f"{kind}_num_rows") + len(rows))
        setattr(self, f"{kind}_num_clips", getattr(self, f"{kind}_num_clips") + 1)
        self._keep(kind, rows.float().flatten(), torch.tensor([float(len(rows))], device=self.device))

    def compute(self) -> dict[str, Tensor]:
        real, generated = (self._moments(kind) for kind in KINDS)
        real = real or (None if self._real is None else (self._real["mean"], self._real["covariance"]))
        if generated is None and not self.num_left_out:
            raise ValueError(f"{self.name} has seen no generated clip")
        self._notes = self._count_notes()
        counts = {f"{self.name}_num_{kind}": self._num_clips(kind) for kind in KINDS}
        if real is None or generated is None:
            return dict.fromkeys(self.descriptions, torch.tensor(torch.nan)) | _tensors(counts)
        samples = [self._sample(kind) for kind in KINDS]
        whole = all(len(sample.rows) == self._num_rows(kind) for sample, kind in zip(samples, KINDS, strict=True))
        plain = frechet_from_rows(samples[0].rows, samples[1].rows, self.ddof) if whole else None
        values = {self.name: float(frechet_from_moments(*real, *generated) if plain is None else plain)}
        return _tensors(values | self._company(values[self.name], *samples) | counts)

    def per_clip(self) -> dict[str, Tensor]:
        """Return nothing: a clip alone has no distance to a set."""
        return {}

    def notes(self) -> list[str]:
        """Return what the numbers of the last `compute` leave out."""
        return self._notes

    def save_real(self, path: Path) -> None:
        """Write what was seen of the real clips to a .safetensors file, with its names, for `real=` of a later run."""
        moments, sample = self._moments("real"), self._sample("real")
        if moments is None:
            raise ValueError(f"{self.name} has seen no real clip to save")
        tensors = {"mean": moments[0], "covariance": moments[1], "rows": sample.rows.float(), "counts": sample.counts}
        names = {"comparison": self.comparison, "features": self.features, "num_clips": str(self._num_clips("real"))}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, names)

    def _read_real(self, path: Path) -> dict[str, Any]:
        from safetensors import safe_open

        if not path.is_file():
            raise ValueError(f"real={path}: there is no such file of real statistics, which save_real=FOLDER writes")
        with safe_open(path, "pt") as file:
            names = file.metadata() or {}
        check_comparable(names, {"comparison": self.comparison, "features": self.features}, str(path), self.name)
        return load_file(path) | {"num_clips": int(names["num_clips"])}

    def _company(self, value: float, real: Rows, generated: Rows) -> dict[str, float]:
        """Return the intervals, the extrapolated value and MMD, NaN where there are too few clips for them."""
        undefined = Estimate(*[float("nan")] * 3)
        interval, extrapolated, mmd = undefined, undefined, undefined
        num_clips = min(real.num_clips, generated.num_clips)
        if num_clips > 1:
            real, generated = real.sorted(), generated.sorted()
            mmd = unbiased_mmd(real.one_of_each(), generated.one_of_each(), self.num_resamples, self.seed)
        if num_clips >= MIN_CLIPS_TO_EXTRAPOLATE:
            interval = bootstrapped_frechet(real, generated, self.ddof, self.num_resamples, self.seed)
            extrapolated = extrapolated_frechet(real, generated, self.seed)
        return {
            # Moved to the value of all clips, where only some were kept for the interval.
            f"{self.name}_low": value + interval.low - interval.value,
            f"{self.name}_high": value + interval.high - interval.value,
            f"{self.name}_extrapolated": extrapolated.value,
            f"{self.name}_extrapolated_low": extrapolated.low,
            f"{self.name}_extrapolated_high": extrapolated.high,
            f"{self.name}_mmd": mmd.value,
            f"{self.name}_mmd_low": mmd.low,
            f"{self.name}_mmd_high": mmd.high,
        }

    def _keep(self, kind: str, rows: Tensor, count: Tensor) -> None:
        """Keep the rows of every clip while there are few, then of a random `max_kept` of all (reservoir)."""
        kept, counts = getattr(self, f"{kind}_rows"), getattr(self, f"{kind}_counts")
        if len(kept) < self.max_kept:
            kept.append(self._shelves.put(rows))
            counts.append(self._shelves.put(count))
            return
        seen = int(getattr(self, f"{kind}_num_clips"))
        place = int(np.random.default_rng([self.seed, seen]).integers(seen))
        if place < self.max_kept:
            kept[place], counts[place] = rows, count

    def _moments(self, kind: str) -> tuple[Tensor, Tensor] | None:
        count = getattr(self, f"{kind}_num_rows")
        if not count:
            return None
        total, outer = getattr(self, f"{kind}_sum").cpu(), getattr(self, f"{kind}_outer").cpu()
        return moments_from_sums(count.cpu(), total, outer, self.ddof)

    def _sample(self, kind: str) -> Rows:
        if kind == "real" and self._real is not None and not self.real_num_rows:
            return Rows(self._real["rows"].double(), self._real["counts"])
        rows, counts = cat(getattr(self, f"{kind}_rows")), cat(getattr(self, f"{kind}_counts"))
        return Rows(rows.double().cpu().reshape(-1, len(self.real_sum)), counts.long().cpu())

    def _num_clips(self, kind: str) -> int:
        if kind == "real" and self._real is not None and not self.real_num_rows:
            return self._real["num_clips"]
        return int(getattr(self, f"{kind}_num_clips"))

    def _num_rows(self, kind: str) -> int:
        return int(getattr(self, f"{kind}_num_rows"))

    def _count_notes(self) -> list[str]:
        notes, dim = [], len(self.real_sum)
        num_real, num_generated = (self._num_clips(kind) for kind in KINDS)
        num_rows = min(len(self._sample(kind).rows) for kind in KINDS)
        if not num_real or not num_generated:
            absent = "real" if not num_real else "generated"
            notes.append(f"{self.name} has no {absent} clips that can be compared: it is undefined")
        elif min(num_real, num_generated) < MIN_CLIPS_TO_EXTRAPOLATE:
            notes.append(
                f"{self.name} compares {num_real} real with {num_generated} generated clips: intervals and the "
                f"extrapolated value need {MIN_CLIPS_TO_EXTRAPOLATE} of each, MMD needs 2, and one clip has no spread"
            )
        elif num_rows <= dim:
            notes.append(
                f"{self.name} has no more rows ({num_rows}) than features ({dim}): plain, it is mostly bias, read "
                f"{self.name}_extrapolated with its interval"
            )
        if self.num_left_out:
            notes.append(f"{self.name} left out {int(self.num_left_out)} {self.left_out}")
        if any(self._num_clips(kind) > self._sample(kind).num_clips for kind in KINDS):
            notes.append(f"{self.name}: intervals, extrapolation and MMD are of a random {self.max_kept} clips")
        return notes


class FeatureDistance(SetDistance):
    """`SetDistance` of features that the caller has; it also names them."""

    def update(self, rows: Tensor, real: bool = False) -> None:
        """Add the feature rows (n d) of one clip, one or several."""
        self.add(rows, real)


class FrechetVideoDistance(SetDistance):
    """FVD under the protocol `protocol`, which fixes frames, pixels, features and divisor (see `protocols`).

    Values are named fvd_PROTOCOL. Real clips come through `update(frames, real=True)`, or as a file that `save_real`
    wrote, which must have the same names.
    """

    def __init__(self, *, protocol: Protocol, **kwargs: Any):
        self_name = f"fvd_{protocol.name}"
        super().__init__(
            name=self_name,
            features=protocol.features.name,
            comparison=protocol.name,
            dim=protocol.features.dim,
            ddof=protocol.ddof,
            left_out=f"clips: too short for {protocol.name}",
            **kwargs,
        )
        self.protocol = protocol

    def update(self, frames: np.ndarray, real: bool = False) -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB. One that is too short for the protocol is left out and counted."""
        # Where a real clip begins follows from its pixels, so that it is the same whoever reads it.
        start = zlib.crc32(np.ascontiguousarray(frames[0]).tobytes()) if real and self.protocol.random_start else 0
        chosen = self.protocol.choose(len(frames), start)
        if chosen is None:
            self.num_left_out = self.num_left_out + 1
            return
        self.add(self.protocol(frames[chosen])[None], real)


class FrechetInceptionDistance(SetDistance):
    """FID over `num_frames` evenly spaced frames of each clip; covariances are divided by n - 1.

    Values are named `name`. Frames of a clip resemble each other, so intervals resample clips, not frames; MMD (this is
    KID) takes the middle frame of each.
    """

    def __init__(self, *, features: ImageFeatures, num_frames: int = 16, name: str = "fid", **kwargs: Any):
        if num_frames < 1:
            raise ValueError(f"num_frames={num_frames} must be at least 1")
        super().__init__(
            name=name,
            features=features.name,
            comparison=f"{name} over {num_frames} frames a clip",
            dim=features.dim,
            ddof=1,
            **kwargs,
        )
        self.network, self.num_frames = features, num_frames

    def update(self, frames: np.ndarray, real: bool = False) -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB."""
        self.add(self.network(frames[evenly_spaced(len(frames), self.num_frames)]), real)


def check_comparable(names: dict[str, Any], others: dict[str, Any], source: str, other_source: str) -> None:
    """Raise ValueError where two results differ in `comparison` or `features`: their numbers are different measures."""
    for what in ("comparison", "features"):
        if names.get(what) != others.get(what):
            raise ValueError(
                f"{source} has {what} {names.get(what)!r} and {other_source} {others.get(what)!r}: Frechet distances "
                "are comparable under one name only. Measure both with the same protocol and features"
            )


def _tensors(values: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
