"""Several processes, one list: which lines are this process's."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """Every `count`-th line, from line `index` on. `local_index`: number of the process on its machine."""

    index: int = 0
    count: int = 1
    local_index: int = 0

    def of(self, lines: Sequence[Item]) -> list[Item]:
        """Return this process's part of `lines`: line index modulo number of processes, as the original has it."""
        return list(lines[self.index :: self.count])


def find_share(setting: str, environment: Mapping[str, str]) -> Share:
    """Return the share that `setting` names: `I/N`, or `auto`: what torchrun or srun say, else everything.

    Raises ValueError for anything else.
    """
    if setting != "auto":
        found = re.fullmatch(r"(\d+)/(\d+)", setting)
        if found is None or int(found[1]) >= int(found[2]):
            raise ValueError(f"share={setting} is neither auto nor I/N with I from 0 to N - 1, such as 0/4")
        return Share(int(found[1]), int(found[2]))
    # SLURM_STEP_NUM_TASKS, not SLURM_NTASKS: the latter is also set where a batch script starts one process itself.
    launchers = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))
    for index, count, local_index in launchers:
        if count in environment and index in environment:
            return Share(int(environment[index]), int(environment[count]), int(environment.get(local_index, 0)))
    return Share()
