"""Reuse of modules: freezing, compilation and export (in a process without shape checks)."""

import copy
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from ae import Autoencoder, Classifier, ConvEncoder, DeconvDecoder, Dense, InputError, RunConfig, Splits
from experiments import reuse, segment
from tests.helpers import ROOT
from tests.helpers.tiers import slow
from tests.helpers.tracked import job, main_job


def joint(latent: int | None = None, norm: bool = False) -> Autoencoder:
    torch.manual_seed(0)
    bottleneck = None if latent is None else Dense((64, 7, 7), latent)
    head = Classifier((64, 7, 7) if latent is None else (latent,))
    return Autoencoder(ConvEncoder(norm=norm), DeconvDecoder(norm=norm), bottleneck, {"digit": head}).eval()


ANY = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}  # any batch size and image size


def outputs(result: object) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def check_exported(module: nn.Module, shapes: Sequence[tuple[int, ...]], dynamic: dict[int, Any]) -> None:
    """Check that the exported program equals the module for shapes other than the traced shape."""
    program = torch.export.export(module, (torch.rand(shapes[0]),), dynamic_shapes=(dynamic,))
    for shape in shapes[1:]:
        images = torch.rand(shape)
        for exported, eager in zip(outputs(program.module()(images)), outputs(module(images)), strict=True):
            torch.testing.assert_close(exported, eager)


def check_onnx(module: nn.Module, shapes: Sequence[tuple[int, ...]], dynamic: dict[int, Any], path: Path) -> None:
    program = torch.export.export(module, (torch.rand(shapes[0]),), dynamic_shapes=(dynamic,))
    torch.onnx.export(program, f=path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    for shape in shapes[1:]:
        images = torch.rand(shape)
        results = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        for result, eager in zip(results, outputs(module(images)), strict=True):
            np.testing.assert_allclose(result, eager.detach().numpy(), atol=1e-4, rtol=0)


ANY_SIZE = [(2, 1, 28, 36), (1, 1, 28, 28), (5, 1, 64, 32), (3, 1, 29, 37), (2, 1, 33, 28), (4, 1, 30, 31)]
FIXED = [(3, 1, 28, 28), (1, 1, 28, 28), (64, 1, 28, 28)]


def export_some(folder: Path) -> None:
    """Export a model traced at an odd size for all sizes, and a model with a head and a vector code as ONNX."""
    model = joint()
    check_exported(Autoencoder(model.encoder, model.decoder).eval(), ANY_SIZE[::-1], ANY)
    check_onnx(joint(16), FIXED, {0: Dim("batch")}, folder / "joint.onnx")


def export_everything(folder: Path) -> None:
    for norm in (False, True):
        model = joint(norm=norm)
        check_exported(model.encoder, ANY_SIZE, ANY)
        assert model.decoder is not None
        features = {0: Dim("batch"), 2: Dim("h", min=2, max=64), 3: Dim("w", min=2, max=64)}
        check_exported(model.decoder, [(2, 64, 7, 9), (1, 64, 5, 5), (3, 64, 16, 8)], features)
        whole = Autoencoder(model.encoder, model.decoder).eval()
        check_exported(whole, ANY_SIZE, ANY)
    for latent in (None, 16):
        check_exported(joint(latent), FIXED, {0: Dim("batch")})
    check_onnx(joint().encoder, ANY_SIZE, ANY, folder / "encoder.onnx")
    check_onnx(whole, ANY_SIZE, ANY, folder / "joint.onnx")


@pytest.mark.parametrize("exports", ["export_some", slow("export_everything")])
def test_exported_and_onnx_programs_equal_the_modules(tmp_path: Path, exports: str) -> None:
    script = f"import sys; from pathlib import Path; from tests.test_export import {exports} as e; e(Path('.'))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "joint.onnx").exists()


def test_frozen_encoder_is_unchanged_by_training_a_head() -> None:
    model = joint()
    encoder = model.encoder.requires_grad_(False)
    before = copy.deepcopy(encoder)
    head = Classifier((64, 7, 7), classes=3)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
    images, labels = torch.rand(12, 1, 28, 28), torch.arange(12) % 3
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(head(encoder(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), encoder.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_single_stage_can_be_fine_tuned() -> None:
    model = joint().requires_grad_(False)
    model.encoder.stages[-1].requires_grad_(True)  # type: ignore[index]
    model(torch.rand(2, 1, 28, 28)).predictions["digit"].sum().backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert trained == ["encoder.stages.1.conv.weight", "encoder.stages.1.conv.bias"]


def test_encoder_and_decoder_combine_across_models() -> None:
    first, second = joint(), joint(norm=True)
    mixed = Autoencoder(first.encoder, second.decoder)
    images = torch.rand(2, 1, 28, 28)
    assert second.decoder is not None
    torch.testing.assert_close(mixed(images).params, second.decoder(first.encoder(images)))


@pytest.mark.slow
@pytest.mark.usefixtures("unhooked")
def test_compiled_equals_eager_at_any_batch_and_size() -> None:
    model = Autoencoder(ConvEncoder(), DeconvDecoder()).eval()
    compiled = torch.compile(model, dynamic=True)
    for shape in ((2, 1, 28, 28), (3, 1, 30, 37), (1, 1, 64, 64)):
        images = torch.rand(shape)
        torch.testing.assert_close(compiled(images).params, model(images).params)


def test_encoder_feature_info_matches_features() -> None:
    encoder = ConvEncoder(3, (8, 16, 32))
    for size in (32, 37):
        images = torch.rand(2, 3, size, size)
        for stage, features in zip(encoder.feature_info, encoder.features(images), strict=True):
            side = -(-size // stage.stride)
            assert features.shape == (2, stage.channels, side, side)
    assert (encoder.out_channels, encoder.stride) == (32, 8) == encoder.feature_info[-1]
    with pytest.raises(InputError, match="must be"):
        encoder(torch.rand(2, 1, 32, 32))


def test_encoder_is_a_backbone_for_feature_pyramid_network() -> None:
    from torchvision.ops import FeaturePyramidNetwork

    encoder = ConvEncoder(1, (8, 16))
    pyramid = FeaturePyramidNetwork([stage.channels for stage in encoder.feature_info], 12)
    features = dict(enumerate(encoder.features(torch.rand(2, 1, 28, 28))))
    shapes = [tuple(level.shape) for level in pyramid(features).values()]
    assert shapes == [(2, 12, 14, 14), (2, 12, 7, 7)]


@pytest.mark.slow
def test_reuse_benchmark_runs(
    digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str], unhooked: None
) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", wandb="disabled"))
    reuse.main(reuse.Config(tmp_path / "run", rounds=2, batch_size=8))
    assert "onnxruntime" in capsys.readouterr().out


def test_segment_experiment_keeps_weights(digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_job(digits, tmp_path / "run")
    before = (tmp_path / "run/model.safetensors").read_bytes()
    for fine_tune in (False, True):
        segment.main(segment.Config(tmp_path / "run", fine_tune, steps=2, batch_size=4, tested=8, seeds=(0, 1)))
    assert len(re.findall(r"^mean IoU 0\.\d+ ± 0\.\d+ on 8 images", capsys.readouterr().out, re.M)) == 2
    assert (tmp_path / "run/model.safetensors").read_bytes() == before
