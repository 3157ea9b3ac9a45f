"""Cached tensors: what frozen networks make of a clip, stored beside it and used only where it is surely the same.

The member `latents.safetensors` holds the tensors; its metadata `entries` name, for each thing that is cached, the
sources (hashes of the video, of the caption...), the checksums and a key, the hash of recipe and sources; `recipes` are
what the keys were made of: transform, classes, settings, weights. A run knows its own recipes, so that one hash a
sample tells whether a tensor is what the run would compute; if not, the two recipes tell why.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..recipes import Recipe, canonical, differences
from .buckets import Bucket
from .frames import ChosenFrames
from .mixture import Mixture
from .samples import PREPARED, UNDO, BadSample, Sample
from .shard_set import ShardSet
from .tensors import TensorFile, dump_tensors, reuse_freed_memory

log = logging.getLogger(__name__)

NUM_LOOKED_AT = 8  # samples of a data set, to see what is cached
MEMBER = "latents.safetensors"
VIDEO_HASH = "video_sha256"  # in the json member of a sample without video
# Of the json: what has no part in what conditions are made of, or is known from the video.
OTHER_KEYS = {"caption", "num_frames", "fps", PREPARED, VIDEO_HASH}
MODES = ("auto", "required", "never")
AGAIN = (
    "Make them again with prepare.py (stages=cache), use the settings that they were made with, or compute them in "
    "training: datamodule.cache=never"
)


@dataclass(frozen=True)
class ClipView:
    """How a clip is seen: which frames of the video, at which size (frames, height, width)."""

    indices: tuple[int, ...]
    size: tuple[int, int, int]

    @classmethod
    def of(cls, chosen: ChosenFrames, shape: Bucket) -> "ClipView":
        return cls(tuple(map(int, chosen.indices)), (shape.num_frames, shape.height, shape.width))


@dataclass(frozen=True)
class CachePlan:
    """What a run reads instead of computing it. `recipes`: by name, without sources and size; `inputs`: of each name.

    `unread`: what of a batch need not be there, since only what is cached was made of it.
    """

    recipes: Mapping[str, Recipe]
    inputs: Mapping[str, tuple[str, ...]]
    unread: frozenset[str] = frozenset()
    _started: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_started": {}}  # hashes that are begun cannot be sent to a worker

    def load(self, sample: Sample, view: ClipView) -> dict[str, Tensor]:
        """Return the tensors of `sample`, without a batch axis and read-only, once they have proved to be its own.

        Raises BadSample where they are missing, damaged or of another video or caption, and ValueError where they were
        made with other settings or weights than this run has.
        """
        if not self.recipes:
            return {}
        reuse_freed_memory()
        stored = StoredTensors.parse(sample)
        entries = {name: stored.entry(name) for name in self.recipes}
        for name, entry in entries.items():
            self._check_recipe(stored, name, entry, view)
        now = clip_sources(sample, view, {one for inputs in self.inputs.values() for one in inputs})
        for name, entry in entries.items():
            check_sources(name, entry["sources"], now)
        return {tensor: value for name in entries for tensor, value in stored.tensors(name).items()}

    def _check_recipe(self, stored: "StoredTensors", name: str, entry: Mapping[str, Any], view: ClipView) -> None:
        start = (name, view.size, entry.get("rounded"))
        if start not in self._started:
            recipe = full_recipe(self.recipes[name], self.inputs[name], view.size, entry.get("rounded"))
            self._started[start] = (recipe, hashlib.sha256(canonical(recipe)))
        recipe, begun = self._started[start]
        if _finish(begun, entry["sources"]) == entry["key"]:
            return
        made_with = stored.recipe(name)
        found = list(differences(made_with, recipe))
        if not found or cache_key(made_with, entry["sources"]) != entry["key"]:
            raise BadSample("broken cache", f"the key of {name} is not that of its recipe and sources")
        more = f" ({len(found) - 3} more differences)" if len(found) > 3 else ""
        raise ValueError(
            f"{stored.place}: cached {name} were made with other settings than this run has: "
            f"{'; '.join(found[:3])}{more}. {AGAIN}"
        )


NO_CACHE = CachePlan({}, {})


@dataclass(frozen=True)
class StoredTensors:
    """The cache member of a sample."""

    file: TensorFile
    entries: Mapping[str, Any]
    place: str

    @classmethod
    def parse(cls, sample: Sample) -> "StoredTensors":
        """Return what `sample` has. Raises BadSample where it has nothing, or something broken."""
        if MEMBER not in sample.members:
            raise BadSample("no cached tensors", f"the sample has no member {MEMBER}, as others have")
        file = TensorFile.parse(sample.members[MEMBER])
        entries = _json_object(file.metadata.get("entries", ""))
        return cls(file, entries, f"{sample.shard}, sample {sample.key}")

    def entry(self, name: str) -> dict[str, Any]:
        """Return what is written of `name`. Raises BadSample where it is not there, or not what it should be."""
        if name not in self.entries:
            raise BadSample("no cached tensors", f"{MEMBER} has no {name}, as that of others")
        entry = self.entries[name]
        kinds = {"key": str, "sources": dict, "checksums": dict}
        is_entry = isinstance(entry, dict) and all(isinstance(entry.get(one), kind) for one, kind in kinds.items())
        if not is_entry or not isinstance(entry.get("rounded"), (str, type(None))):
            raise BadSample("broken cache", f"the entry of {name} is not what prepare.py writes")
        return entry

    def recipe(self, name: str) -> Recipe:
        """Return what `name` was made with."""
        recipe = _json_object(self.file.metadata.get("recipes", "")).get(name)
        if not isinstance(recipe, dict):
            raise BadSample("broken cache", f"there is no recipe of {name}")
        return recipe

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of `name`. Raises BadSample where their bytes have changed."""
        checksums = self.entry(name)["checksums"]
        for tensor, checksum in checksums.items():
            if self.file.checksum(tensor) != checksum:
                raise BadSample("broken cache", f"the bytes of {tensor} have changed since they were written")
        return {tensor: self.file.tensor(tensor) for tensor in checksums}


@dataclass(frozen=True)
class Made:
    """One thing to store: its `tensors` (without a batch axis), `recipe` and `sources`. `rounded`: None, or to what."""

    tensors: Mapping[str, Tensor]
    recipe: Recipe
    sources: Mapping[str, Any]
    rounded: str | None = None


def dump_cache(made: Mapping[str, Made], before: StoredTensors | None = None) -> bytes:
    """Return the member that holds `made`, beside whatever else `before` has."""
    kept = [name for name in before.entries if name not in made] if before else []
    tensors = {name: tensor for kind in kept for name, tensor in before.tensors(kind).items()} if before else {}
    entries = {kind: before.entry(kind) for kind in kept} if before else {}
    recipes = {kind: before.recipe(kind) for kind in kept} if before else {}
    for kind, one in made.items():
        checked = TensorFile.parse(dump_tensors(one.tensors, {}))
        entries[kind] = {
            "key": cache_key(one.recipe, one.sources),
            "sources": dict(one.sources),
            "checksums": {name: checked.checksum(name) for name in one.tensors},
            "rounded": one.rounded,
        }
        recipes[kind] = one.recipe
        tensors |= one.tensors
    return dump_tensors(tensors, {"entries": canonical(entries).decode(), "recipes": canonical(recipes).decode()})


def full_recipe(
    recipe: Recipe, inputs: Iterable[str], size: tuple[int, int, int], rounded: str | None = None
) -> Recipe:
    """Return `recipe` with the size of the clip, if it matters, and what the results were rounded to, if they were."""
    added: Recipe = {}
    if any(name != "caption" for name in inputs):
        added["clip"] = dict(zip(("num_frames", "height", "width"), size, strict=True))
    return recipe | added | ({} if rounded is None else {"rounded": rounded})


def cache_key(recipe: Recipe, sources: Mapping[str, Any]) -> str:
    """Return the content address of a result: the hash of everything that it was made of."""
    return _finish(hashlib.sha256(canonical(recipe)), sources)


def clip_sources(sample: Sample, view: ClipView, inputs: Iterable[str]) -> dict[str, Any]:
    """Return what of `sample` the results depend on that are made of `inputs`.

    Of the clip, that is which frames were taken and the hash of the video: of a video that was left out, the one in the
    `json` member, or None.
    """
    sources: dict[str, Any] = {}
    for name in inputs:
        if name == "caption":
            sources["caption"] = _hash(sample.info["caption"].encode())
        else:
            sources |= {"frames": list(view.indices), "video": video_hash(sample)}
            if name != "pixel_values":
                sources["conditions"] = _condition_hash(sample)
    return sources


def video_hash(sample: Sample) -> str | None:
    """Return the hash of the video, or what the `json` member says of one that was left out."""
    video = _video(sample)
    return sample.info.get(VIDEO_HASH) if video is None else _hash(video)


def without_video(sample: Sample, described: Mapping[str, Any]) -> Sample:
    """Return `sample` without its video, of which hash, length and rate (see `described`) stay in the `json` member."""
    video = _video(sample)
    if video is None:
        return sample
    members = {suffix: data for suffix, data in sample.members.items() if data is not video}
    known = {name: described[name] for name in ("num_frames", "fps")}
    return replace(sample, members=members, info={**sample.info, **known, VIDEO_HASH: _hash(video)})


def check_sources(name: str, found: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise BadSample where `name` was made of another video, other frames or another caption than the sample has now.

    A video that nothing is known of cannot be compared.
    """
    for source, value in found.items():
        if source == "video" and now.get(source, "") is None:
            continue
        if now.get(source) != value:
            what = (
                "of other frames than are chosen now" if source == "frames" else f"of another {source} than it has now"
            )
            raise BadSample("stale cache", f"{name} of the sample were made {what}")


def plan_cache(
    mode: str,
    split: str,
    model: Any,
    samples: Mixture,
    view: Callable[[Sample], ClipView],
    input_recipe: Callable[[str], Any],
) -> CachePlan:
    """Return what a run of `model` reads: what it can cache and all data sets of `samples` have, by their first ones.

    `view`: how training sees a sample, `input_recipe`: how what of a batch is made. Raises ValueError where `mode` is
    `required` and something is not there, and where what is there was made with other settings.
    """
    cacheable = model.cacheable()
    first = {name: _first_samples(one) for name, one in samples.sets.items()}
    stored = {name: set().union(*map(_stored_names, some)) for name, some in first.items()}
    names = [name for name in cacheable if all(name in there for there in stored.values())]
    if mode == "required" and len(names) < len(cacheable):
        missing = next(name for name in cacheable if name not in names)
        place = next(place for place, there in stored.items() if missing not in there)
        shard = samples.sets[place].shards[0].url
        raise ValueError(
            f"datamodule.cache=required, but the data set of {shard} has no cached {missing}: write them with "
            "prepare.py (stages=cache), or use datamodule.cache=auto"
        )
    inputs = {name: cacheable[name].inputs for name in names}
    recipes = make_recipes(model.cache_recipes(names), inputs, input_recipe)
    needed = {one for name in cacheable if name not in names for one in cacheable[name].inputs} | set(model.reads)
    unread = {one for name in names for one in inputs[name]} - needed - {"caption"}
    plan = CachePlan(recipes, inputs, frozenset(unread))
    for sample in (sample for some in first.values() for sample in some):
        # Here as well as in the workers, so that what does not fit ends the run before it begins.
        with suppress(BadSample):
            plan.load(sample, view(sample))
    if names:
        log.info("%s: %s are read, not computed", split, ", ".join(names))
    return plan


def make_recipes(
    computed: Mapping[str, Recipe], inputs: Mapping[str, Iterable[str]], input_recipe: Callable[[str], Any]
) -> dict[str, Recipe]:
    """Return the recipes of a `CachePlan`: how things are computed, and how what they are computed from is made."""
    return {
        name: recipe | {"inputs": {one: input_recipe(one) for one in inputs[name]}} for name, recipe in computed.items()
    }


def _first_samples(samples: ShardSet) -> list[Sample]:
    found = []
    for number in range(min(len(samples), NUM_LOOKED_AT)):
        with suppress(BadSample):
            found.append(samples[number])
    return found


def _stored_names(sample: Sample) -> set[str]:
    try:
        return set(StoredTensors.parse(sample).entries)
    except BadSample:
        return set()


def _condition_hash(sample: Sample) -> str:
    """Return the hash of everything that conditions may be made of: all members but the video and the cache.

    What the `json` says of the video (which is a source of its own) and of its preparation has no part in it: both
    change when the cache is written.
    """
    video = _video(sample)
    members = {
        suffix: _hash(data)
        for suffix, data in sample.members.items()
        if suffix not in (MEMBER, "json") and not suffix.startswith(UNDO) and data is not video
    }
    return _hash(canonical([members, {name: value for name, value in sample.info.items() if name not in OTHER_KEYS}]))


def _finish(begun: Any, sources: Mapping[str, Any]) -> str:
    digest = begun.copy()
    digest.update(canonical(sources))
    return digest.hexdigest()


def _video(sample: Sample) -> bytes | None:
    try:
        return sample.video
    except BadSample:
        return None


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSample("broken cache", f"its metadata are not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadSample("broken cache", "its metadata are not what prepare.py writes")
    return value
