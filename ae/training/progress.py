"""Progress of training on stderr: a bar in a terminal, plain lines elsewhere."""

import sys
from types import TracebackType

from tqdm import tqdm

from ae.evaluation.metrics import METRICS, is_of_head
from ae.utils.console import is_terminal, say
from ae.utils.distributed import is_main


class Progress:
    """A progress bar from step `initial` to `total`; without a terminal, a line for each `show`."""

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
        """Advance by one step."""
        self._step += 1
        self._bar.update()

    def say(self, line: str) -> None:
        """Print a line on stderr, above the bar."""
        if self._bar.disable:
            say(line, error=True)
        else:
            self._bar.write(line, sys.stderr)

    def show(self, split: str, metrics: dict[str, float], epoch: float) -> None:
        """Show the metrics that the registry has a progress format for."""
        if not is_main():
            return
        shown = {name: metric.progress for name, metric in METRICS.items() if metric.progress and name in metrics}
        of_heads = {name: METRICS[name.split("/")[-1]].progress for name in metrics if is_of_head(f"{split}/{name}")}
        texts = [form.format(metrics[name]) for name, form in shown.items()]
        texts += [f"{name.split('/')[0]}/{form.format(metrics[name])}" for name, form in of_heads.items() if form]
        text = "  ".join(texts)
        if not text:
            return
        if self._bar.disable:
            line = f"step {self._step}/{self._total}  epoch {epoch:.2f}  {split:5}  {text}"
            say(line, error=True)
        elif split == "train":
            self._bar.set_postfix_str(text, refresh=False)
        else:
            self._bar.write(f"epoch {epoch:.2f}  {split}  {text}", file=sys.stderr)
