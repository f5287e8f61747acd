"""Is the representation any good? Simple learners on frozen codes.   python -m experiments.probe RUN...

A linear probe, nearest neighbours and k-means read the codes of each run, with all labels and with few of them; the
encoders stay as they are. Several runs, of one configuration with other seeds, are taken together: mean ± deviation.
The data are what the first run was trained on, or others: --data.name fashion-mnist. The result is a run of its own
that stands beside the first in W&B: in its project and group, unless others are given.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

from ae import Augment, Data, Run, RunConfig, load
from ae.cli import Positional, cli, parse_part
from ae.evaluation.plots import scatter_picture
from ae.evaluation.probes import codes_of, neighbour_map, probe
from ae.runs.folder import read_config
from ae.tracking.media import Media
from ae.utils.errors import InputError
from ae.utils.validation import Positive, Settings


@dataclass(frozen=True)
class Config(Settings):
    """Which runs, on which data, and where the result is kept. Needs the extra `eval`."""

    runs: Positional[tuple[Path, ...]]  # folders of runs
    data: Data = Data()  # the data set (default: the first run's)
    labels: tuple[int, ...] = (100, 1000)  # so many labels to learn from, beside all of them
    repeats: Positive[int] = 3  # choices of these labels, and starts of k-means
    map: Positive[int] = 1000  # test images in the picture, by t-SNE
    run: RunConfig = RunConfig()


def main(config: Config) -> None:
    """Probe every run, keep the result as a run of its own, and print it."""
    if not config.runs:
        raise InputError("no run to probe: give the folders of some")
    models = [load(folder) for folder in config.runs]
    data = config.data
    if data == Data():
        data = parse_part(Data, read_config(config.runs[0])["config"].get("data", {}))
    splits = replace(data, augment=Augment(), labels=None, labelled_per_batch=None).load()
    if splits.validation is None or splits.test is None:
        raise InputError("a probe needs validation and test images: --data.validation 5000")
    test = splits.test()
    with Run("probe", beside(config.run, config.runs[0]), config) as run:
        found: dict[str, list[float]] = {}
        for model in models:
            measured = probe(model, splits.train, splits.validation, test, config.labels, config.repeats)
            for name, values in measured.items():
                found.setdefault(f"probe/{name}", []).extend(values)
        summary = {name: fmean(values) for name, values in found.items()}
        spread = {f"{name}/std": stdev(values) for name, values in found.items() if len(values) > 1}
        some = test.select(slice(config.map))
        title = f"codes of {len(some):,} test images by t-SNE"
        picture = scatter_picture(neighbour_map(codes_of(models[0], some)), some.labels.cpu(), some.classes, title)
        run.summarise(summary | spread, Media({"code": picture}))
    for name, values in found.items():
        deviation = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
        print(f"{name.removeprefix('probe/'):22} {fmean(values):.4f}{deviation}  ({len(values)})")
    print(f"run  {run.folder}")
    print(f"look {run.folder / 'code.png'}")


def beside(where: RunConfig, folder: Path) -> RunConfig:
    """`where`, with project, entity and group of the run in `folder` in the place of those not given."""
    theirs = read_config(folder)["config"].get("run", {})
    return replace(where, **{key: getattr(where, key) or theirs.get(key) for key in ("project", "entity", "group")})


if __name__ == "__main__":
    cli(main)
