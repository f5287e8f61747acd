"""Linear probe, nearest neighbours and k-means on frozen codes.   ae probe RUN...

The linear probe uses all labels, and few labels. Runs of one configuration with several seeds give mean ± standard
deviation. The data set is that of the first run, or another: --data.name fashion-mnist. The result is a run of its own,
by default in the W&B project and group of the first run.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

from ae import Augment, Data, Run, RunConfig
from ae.cli import Positional, parse_part
from ae.commands.own import OwnModules
from ae.evaluation.plots import scatter_picture
from ae.evaluation.probes import codes_of, neighbour_map, probe
from ae.runs.folder import read_config
from ae.tracking.media import Media
from ae.utils.errors import InputError
from ae.utils.validation import Positive


@dataclass(frozen=True)
class Config(OwnModules):
    """Runs, data set and result of a probe. Needs the extra `eval`."""

    runs: Positional[tuple[Path, ...]]  # folders of runs
    data: Data = Data()  # the data set (default: the first run's)
    labels: tuple[int, ...] = (100, 1000)  # numbers of labels of the linear probe, beside all
    repeats: Positive[int] = 3  # choices of these labels, and initialisations of k-means
    map: Positive[int] = 1000  # test images in the picture, by t-SNE
    run: RunConfig = RunConfig()


def main(config: Config) -> None:
    """Probe every run, save the result as a run of its own, and print it."""
    if not config.runs:
        raise InputError("no run to probe: give the folders of some")
    models = [config.load(str(folder)) for folder in config.runs]
    data = config.data
    if data == Data():
        data = parse_part(Data, read_config(config.runs[0])["config"].get("data", {}))
    splits = replace(data, augment=Augment(), labels=None, labelled_per_batch=None).load()
    if splits.validation is None or splits.test is None:
        raise InputError("a probe needs validation and test images: --data.validation 5000")
    test = splits.test()
    with Run("probe", beside(config.run, config.runs[0]), config) as run:
        metrics: dict[str, list[float]] = {}
        for model in models:
            probed = probe(model, splits.train, splits.validation, test, config.labels, config.repeats)
            for name, values in probed.items():
                metrics.setdefault(f"probe/{name}", []).extend(values)
        summary = {name: fmean(values) for name, values in metrics.items()}
        spread = {f"{name}/std": stdev(values) for name, values in metrics.items() if len(values) > 1}
        images = test.select(slice(config.map))
        title = f"codes of {len(images):,} test images by t-SNE"
        picture = scatter_picture(
            neighbour_map(codes_of(models[0], images)), images.labels.cpu(), images.classes, title
        )
        run.summarise(summary | spread, Media({"code": picture}))
    for name, values in metrics.items():
        deviation = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
        print(f"{name.removeprefix('probe/'):22} {fmean(values):.4f}{deviation}  ({len(values)})")
    print(f"run  {run.folder}")
    print(f"look {run.folder / 'code.png'}")


def beside(config: RunConfig, folder: Path) -> RunConfig:
    """Fill in project, entity and group from the run in `folder` where `config` has none."""
    probed = read_config(folder)["config"].get("run", {})
    return replace(config, **{key: getattr(config, key) or probed.get(key) for key in ("project", "entity", "group")})
