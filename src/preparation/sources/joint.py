"""Several sources as one, such as ConsistI2V's `joint`: WebVid and Pexels, one after the other."""

from collections.abc import Iterator, Mapping

from . import Source, SourceClip


class Joint:
    """The clips of all `sources`, by name; null turns one off."""

    def __init__(self, *, sources: Mapping[str, Source | None]):
        self.sources = {name: source for name, source in sources.items() if source is not None}
        if not self.sources:
            raise ValueError("source.sources names no source: at least one must be on")

    def __iter__(self) -> Iterator[SourceClip]:
        for source in self.sources.values():
            yield from source
