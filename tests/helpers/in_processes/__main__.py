"""Run the checks in each process of the group; with the argument `slow`, also the slow ones; with `wait`, none."""

import sys

from ae.utils.distributed import is_main
from ae.utils.launch import launched
from tests.helpers.in_processes import collectives, data, launching, modules, sharding, training

if __name__ == "__main__":
    if "wait" in sys.argv:
        launching.wait_for_ever()
    with launched():
        slow = sharding.SLOW_CHECKS if "slow" in sys.argv else []
        for check in (*collectives.CHECKS, *modules.CHECKS, *training.CHECKS, *sharding.CHECKS, *data.CHECKS, *slow):
            check()
        is_first = is_main()
    launching.check_launched_leaves_no_group()
    if is_first:
        print("all checks passed")
