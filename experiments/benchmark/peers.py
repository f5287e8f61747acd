"""Optional baselines, Pythae's and Lightning's trainers, on the networks as usually written; reconstruction only."""

import importlib.util
import tempfile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ae import Data, Images
from experiments.benchmark.contenders import RECIPE, Plain
from experiments.benchmark.turns import Pace


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def pythae(device: str, pace: Pace, steps: int) -> None:
    """Train Pythae's autoencoder by its trainer, as in its README."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import AE, AEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    plain = Plain(classify=False)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = plain.encoder

        def forward(self, x: Tensor) -> Any:
            return ModelOutput(embedding=self.layers(x))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = plain.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z))

    digits = Data("mnist", validation=0).load().train
    assert isinstance(digits, Images)
    model = AE(AEConfig(input_dim=digits.shape, latent_dim=3136), encoder=Encoder(), decoder=Decoder())
    pace(plain.encoder)
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            no_cuda=device == "cpu",
            per_device_train_batch_size=RECIPE.batch_size,
            num_epochs=-(-steps // (len(digits) // RECIPE.batch_size)),
            learning_rate=RECIPE.lr / digits.pixels[0].numel(),  # its loss is a sum over pixels
            optimizer_cls="SGD",
            optimizer_params={"momentum": RECIPE.momentum},
        )
        BaseTrainer(model, BaseDataset(digits.pixels.float() / 255, digits.labels), training_config=config).train()


def lightning(device: str, pace: Pace, steps: int) -> None:
    """Train by Lightning with a DataLoader of tensors, without logger, checkpoints and progress bar."""
    from lightning import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.plain = Plain(classify=False)

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return 20 * F.mse_loss(self.plain.decoder(self.plain.encoder(batch[0])), batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), RECIPE.lr, RECIPE.momentum)

    digits = Data("mnist", validation=0).load().train
    assert isinstance(digits, Images)
    loader = DataLoader(TensorDataset(digits.pixels.float() / 255), RECIPE.batch_size, shuffle=True)
    module = Module()
    pace(module.plain.encoder)
    trainer = Trainer(
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=1,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
