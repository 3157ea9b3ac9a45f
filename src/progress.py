"""How far sampling is: clips, and the steps of the batch that is being made."""

import logging
import time
from typing import Any, Self

log = logging.getLogger(__name__)


class SamplingProgress:
    """Two bars in a terminal; without one (SLURM, CI) a line every `log_every_s` seconds. Use it as a context."""

    def __init__(self, num_clips: int, num_steps: int, log_every_s: float = 30.0):
        from rich.progress import Progress

        self.num_clips, self.num_steps, self.log_every_s = num_clips, num_steps, log_every_s
        self._num_done, self._logged = 0, time.monotonic()
        self._bars = Progress(transient=True)
        self._clips = self._bars.add_task("clips", total=num_clips)
        self._steps = self._bars.add_task("steps", total=num_steps)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def on_step(self, step: int, state: Any, clean: Any) -> None:
        """Say that step `step` (from 0) is done; the sampler calls it."""
        self._bars.update(self._steps, completed=step + 1)
        self._log(step + 1)

    def clip_done(self) -> None:
        self._num_done += 1
        self._bars.update(self._clips, completed=self._num_done)
        self._log(self.num_steps)

    def _log(self, num_steps: int) -> None:
        now = time.monotonic()
        if not self._bars.console.is_terminal and now - self._logged >= self.log_every_s:
            self._logged = now
            log.info("%d of %d clips, step %d of %d", self._num_done, self.num_clips, num_steps, self.num_steps)
