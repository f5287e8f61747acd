"""A warning where other processes need the cores that a training uses."""

import torch

from ae.utils.cores import busy_by_others, core_count
from ae.utils.distributed import is_main


class Crowding:
    """Measure what other processes use of the cores, from the construction to the first call of `warning`."""

    def __init__(self) -> None:
        self._measure = busy_by_others()
        self._is_done = not is_main()

    def warning(self) -> str | None:
        """Return a line, once, if the threads of this process and other processes need more cores than there are.

        The threads of an operation wait for the last one, which shares its core: two trainings with a thread for each
        core do less together than one alone.
        """
        if self._is_done or (others := self._measure()) is None:
            return None
        self._is_done = True
        cores, threads = core_count(), torch.get_num_threads()
        if threads == 1 or others + threads < cores + 0.5:
            return None
        better = min(max(1, round(cores - others)), threads - 1)
        return (
            f"other processes keep {others:.1f} of {cores} cores busy, and this training has {threads} threads, which "
            f"wait for each other: set Recipe.threads to {better}"
        )
