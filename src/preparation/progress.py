"""What a preparation shows while it runs: bars and counts on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .work import Outcome

log = logging.getLogger(__name__)


class Display:
    """Counts the entries of each pass over the data, and shows nothing."""

    def __init__(self) -> None:
        self.start([], 0, 0)

    def start(self, stages: Sequence[str], total: int, done: int) -> None:
        """Begin a pass of `total` entries with `stages`; `done` of them need no work."""
        self.title, self.total, self.done, self.skipped = ", ".join(stages) or "writing", total, done, done
        self.counts: dict[str, list[int]] = {}
        self.reused, self.begun = 0, time.monotonic()

    def advance(self, outcome: Outcome | None) -> None:
        """Count one entry and, for each stage, what it took and gave."""
        self.done += 1
        if outcome is None:
            return
        self.reused += outcome.is_reused
        for name, (taken, given) in outcome.counts.items():
            counts = self.counts.setdefault(name, [0, 0])
            counts[0] += taken
            counts[1] += given

    @property
    def rate(self) -> float:
        """Entries a second, of those that needed work."""
        return (self.done - self.skipped) / max(time.monotonic() - self.begun, 1e-6)

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.done) / self.rate if self.done > self.skipped else None

    def rows(self) -> Iterator[tuple[str, int, int]]:
        """Yield name of the stage, samples taken and given."""
        for name, (taken, given) in self.counts.items():
            yield name, taken, given


class LogDisplay(Display):
    """A line in the log at the start of each pass and every `seconds`."""

    def __init__(self, seconds: float = 30):
        self.seconds = seconds
        super().__init__()

    def start(self, stages: Sequence[str], total: int, done: int) -> None:
        super().start(stages, total, done)
        self.last = self.begun
        if total > done:
            log.info("%s: %d clips%s", self.title, total, f", {done} of them done before" if done else "")

    def advance(self, outcome: Outcome | None) -> None:
        super().advance(outcome)
        if time.monotonic() - self.last >= self.seconds and self.done < self.total:
            self.last = time.monotonic()
            stages = "; ".join(f"{name} took {taken}, gave {given}" for name, taken, given in self.rows())
            left = duration(self.seconds_left)
            log.info(
                "%s: %d of %d clips, %.2f/s, %s left; %s", self.title, self.done, self.total, self.rate, left, stages
            )


class TerminalDisplay(Display):
    """A bar for the whole pass and a table of its stages."""

    def __init__(self, live: Any):
        self.live = live
        super().__init__()

    def start(self, stages: Sequence[str], total: int, done: int) -> None:
        super().start(stages, total, done)
        self.live.update(self, refresh=True)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        line = Table.grid(padding=(0, 2))
        left = duration(self.seconds_left)
        reused = f"{self.skipped + self.reused} done before" if self.skipped + self.reused else ""
        line.add_row(
            self.title,
            ProgressBar(total=max(self.total, 1), completed=self.done, width=40),
            f"{self.done}/{self.total}",
            f"{self.rate:.1f}/s",
            f"{left} left",
            reused,
        )
        if not self.counts:
            return line
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("stage", "taken", "given", "difference"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        for name, taken, given in self.rows():
            table.add_row(name, str(taken), str(given), f"{given - taken:+d}" if given != taken else "")
        return Group(line, table)


@contextmanager
def show_progress() -> Iterator[Display]:
    """Give a display that suits where the command runs."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        yield LogDisplay()
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield TerminalDisplay(live)


def duration(seconds: float | None) -> str:
    """Return a time as people say it."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
