"""Profile of a bare step, by operation and shape.   python -m experiments.benchmark.profile"""

from dataclasses import dataclass
from typing import Any

from torch.profiler import ProfilerActivity, profile

from ae import unchecked_range
from ae.cli import cli
from ae.utils.validation import Positive, Settings
from experiments.benchmark.contenders import JOINT, bare_step


@dataclass(frozen=True)
class Config(Settings):
    """Configuration of the profile."""

    steps: Positive[int] = 100  # profiled, after as many warm-up steps
    rows: Positive[int] = 20  # operations shown, the slowest first


def main(config: Config) -> None:
    """Print the self time of each operation in ms per step, with the profiler's overhead."""
    _, train_step = bare_step(JOINT)
    with unchecked_range():
        for _ in range(config.steps):
            train_step()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            for _ in range(config.steps):
                train_step()
    events: list[Any] = sorted(
        profiler.key_averages(group_by_input_shape=True), key=lambda event: -event.self_cpu_time_total
    )
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[: config.rows]:
        shapes = " ".join(str(shape) for shape in event.input_shapes if shape)
        print(f"{event.self_cpu_time_total / config.steps / 1000:7.3f} ms  {event.key[:42]:42}  {shapes[:60]}")
    print(f"{total / config.steps / 1000:7.3f} ms  in all")


if __name__ == "__main__":
    cli(main)
