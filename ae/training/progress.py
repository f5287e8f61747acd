"""What a person sees while a model trains: a bar in a terminal, plain lines elsewhere; both on stderr."""

import sys
from types import TracebackType

from tqdm import tqdm

from ae.utils.console import is_terminal, say
from ae.utils.distributed import is_main

_SHOWN = ("loss", "mse", "bernoulli", "gaussian", "accuracy", "images_per_second")


class Progress:
    """A progress bar over `total` steps, begun at `initial`; a line for each `show` where there is no terminal."""

    def __init__(self, total: int, initial: int = 0) -> None:
        hidden = not (is_terminal(sys.stderr) and is_main())
        self._bar = tqdm(total=total, initial=initial, disable=hidden, dynamic_ncols=True, unit="step")
        self._step, self._total = initial, total

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self) -> None:
        """One step more is done."""
        self._step += 1
        self._bar.update()

    def show(self, split: str, metrics: dict[str, float], epoch: float) -> None:
        """Show the metrics that a person follows."""
        if not is_main():
            return
        text = "  ".join(_format(name, metrics[name]) for name in _SHOWN if name in metrics)
        if self._bar.disable:
            line = f"step {self._step}/{self._total}  epoch {epoch:.2f}  {split:5}  {text}"
            say(line, error=True)
        elif split == "train":
            self._bar.set_postfix_str(text, refresh=False)
        else:
            self._bar.write(f"epoch {epoch:.2f}  {split}  {text}", file=sys.stderr)


def _format(name: str, value: float) -> str:
    match name:
        case "accuracy":
            return f"accuracy {value:.2%}"
        case "images_per_second":
            return f"{value:,.0f} images/s"
    return f"{name} {value:.4g}"
