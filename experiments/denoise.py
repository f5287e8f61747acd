"""Denoising autoencoder: clean images from corrupted images.   python -m experiments.denoise

Gaussian noise on every pixel by default; --salt-and-pepper.fraction 0.3 also sets some pixels to black or white.

| validation MSE a pixel, with `--recipe.epochs 2` | |
|---|---|
| restored images | 0.0134 |
| corrupted images | 0.1155 |
| mean image | 0.0669 |
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ae import Data, Joint, Recipe, Run, RunConfig, fit, report
from ae.cli import cli
from ae.data import ImageSet
from ae.data.corruptions import GaussianNoise, SaltAndPepper
from ae.evaluation.evaluate import mean_image, restoration
from ae.evaluation.metrics import with_prefix
from ae.evaluation.plots import drawn, reconstruction_picture
from ae.utils.validation import Settings
from experiments.reconstruct import Model, build


@dataclass(frozen=True)
class Config(Settings):
    """Configuration of a denoising autoencoder."""

    data: Data = Data("mnist")
    model: Model = Model()
    noise: GaussianNoise = GaussianNoise(0.5)
    salt_and_pepper: SaltAndPepper = SaltAndPepper(0.0)
    objective: Joint = Joint(classification=0.0)
    recipe: Recipe = Recipe(epochs=4, batch_size=128, lr=0.1)
    run: RunConfig = RunConfig()


def main(config: Config) -> None:
    """Train, test and report one run; measure restoration on validation and test images."""

    def corruption(images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        return config.noise(config.salt_and_pepper(images)[0])

    data = config.data.load()
    torch.manual_seed(config.recipe.seed)
    model = build(config.model, data)
    with Run("denoise", config.run, config) as run:
        results = fit(model, replace(config.objective, corruption=corruption), data, config.recipe, run)
        if data.validation is not None:
            results |= with_prefix("val", restoration(model, data.validation, corruption, mean_image(data.train)))

        shown, title = (
            (data.train, "training images") if data.validation is None else (data.validation, "validation images")
        )
        draw = partial(reconstruction_picture, model, shown, title=title, corruption=corruption)

        def measure(test: ImageSet) -> dict[str, float]:
            return restoration(model, test, corruption, mean_image(data.train))

        report(model, data, results, run, drawn({"restorations": draw}), measure)


if __name__ == "__main__":
    cli(main)
