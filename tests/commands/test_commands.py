"""The console script: every command, modules of the user's own, and a wheel without the checkout."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import ae
from ae import Autoencoder, Classifier, ConvEncoder, Data, DeconvDecoder, Gaussian, InputError, Joint, Recipe, Run, fit
from ae.commands import COMMANDS, main
from ae.commands.own import OwnModules
from tests.helpers.hub_server import TOKEN, HubServer
from tests.helpers.own_modules import OwnEncoder

ROOT = Path(ae.__file__).parent.parent


def call(*words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Run the console script's function; returns its exit code and what it printed."""
    monkeypatch.setattr(sys, "argv", ["ae", *words])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def ae_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    return lambda *words: call(*words, capsys=capsys, monkeypatch=monkeypatch)


@pytest.fixture
def run(few_digits: None, tmp_path: Path) -> Path:
    """A run of a small VAE with a classifier, on MNIST."""
    data = Data("mnist", limit=64, validation=32)
    heads = {"digit": Classifier((4,))}
    model = Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), Gaussian((8, 7, 7), 4), heads=heads)
    recipe, splits = Recipe(steps=2, batch_size=32), data.load()
    with Run(
        "vae", ae.RunConfig(dir=tmp_path / "runs" / "vae", wandb="disabled"), {"data": data, "recipe": recipe}
    ) as run:
        ae.report(model, splits, fit(model, Joint(), splits, recipe, run), run)
    return run.folder


def test_main_lists_its_commands(ae_command: Any) -> None:
    for words in ((), ("--help",)):
        code, out, _ = ae_command(*words)
        assert code == 0
        assert all(f"ae {name}" in out for name in COMMANDS)
    assert ae_command("--version") == (0, f"{ae.__version__}\n", "")
    code, _, err = ae_command("encod")
    assert (code, err) == (2, "error: no command encod; the nearest is encode\n")
    code, _, err = ae_command("zzz")
    assert (code, err) == (2, "error: no command zzz: it is one of compare, encode, probe, sample, push, upload\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_command_explains_itself(ae_command: Any, name: str) -> None:
    code, out, _ = ae_command(name, "--help")
    assert code == 0
    assert f"ae {name}" in out


def test_compare_encode_and_sample_read_a_run(ae_command: Any, run: Path, tmp_path: Path) -> None:
    code, out, _ = ae_command("compare", str(run.parent))
    assert code == 0
    assert "vae" in out
    code, out, _ = ae_command("encode", str(run), "--to", "codes")
    assert code == 0
    assert safetensors.torch.load_file(tmp_path / "codes" / "encoded.safetensors")["codes"].shape == (300, 4)
    code, out, _ = ae_command("sample", str(run), "--to", "a.npy", "--count", "7", "--seed", "3")
    assert code == 0
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "a.npy")), ae.sample(run, 7, seed=3))
    code, out, _ = ae_command("sample", str(run), "--to", "deep/a.png", "--count", "13")
    assert "look deep/a.png" in out
    with Image.open(tmp_path / "deep" / "a.png") as picture:
        assert picture.width > 10 * 28
    code, _, err = ae_command("sample", str(run), "--to", "a.gif")
    assert (code, err) == (2, "error: --to must be a file .png or .npy, got a.gif\n")


def test_push_and_upload_are_commands(ae_command: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        code, out, _ = ae_command("push", str(run), "user/vae", "--license", "mit")
        assert code == 0
        assert out.endswith(f"look {hub.url}/user/vae\n")
        assert hub.files("user/vae")["model.safetensors"] == (run / "model.safetensors").read_bytes()
    code, _, err = ae_command("upload", "--run", "nowhere")
    assert (code, err) == (2, "error: no run in nowhere: it has no config.json\n")


@pytest.fixture
def own_run(few_digits: None, tmp_path: Path) -> Path:
    """A run whose encoder is the user's own."""
    data = Data("mnist", limit=400, validation=200)
    heads = {"digit": Classifier((4, 14, 14))}
    model = Autoencoder(OwnEncoder(), DeconvDecoder(1, (4,)), heads=heads)
    recipe, splits = Recipe(steps=2, batch_size=32), data.load()
    with Run("own", ae.RunConfig(dir=tmp_path / "own", wandb="disabled"), {"data": data, "recipe": recipe}) as run:
        ae.report(model, splits, fit(model, Joint(), splits, recipe, run), run)
    return run.folder


def test_encode_and_probe_take_modules_of_the_users_own(ae_command: Any, own_run: Path, tmp_path: Path) -> None:
    given = ("--encoder", "tests.helpers.own_modules:make_encoder")
    code, _, err = ae_command("encode", str(own_run), "--to", "codes")
    assert code == 2
    reason = "its encoder is of class tests.helpers.own_modules.OwnEncoder, not one of ae's"
    assert f"{reason}: give it by --encoder, as package:function\n" in err
    code, _, err = ae_command("encode", str(own_run), "--to", "codes", *given)
    assert code == 0, err
    assert safetensors.torch.load_file(tmp_path / "codes" / "encoded.safetensors")["codes"].shape == (300, 4, 14, 14)
    code, out, err = ae_command(
        "probe", str(own_run), *given, "--labels", "100", "--repeats", "1", "--map", "50", "--run.wandb", "disabled"
    )
    assert code == 0, err
    assert "linear" in out


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (
            "make_encoder",
            r"Config\.encoder must be package:function, such as .*, got 'make_encoder'",
        ),
        ("no.such:make", r"Config\.encoder no\.such:make fails: ModuleNotFoundError"),
        ("tests.helpers.own_modules:nothing", r"fails: AttributeError"),
        ("builtins:dict", r"Config\.encoder builtins:dict must give an nn\.Module, gave dict"),
        ("math:log", r"fails: TypeError"),
    ],
)
def test_own_modules_are_refused_in_one_line(given: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint) as error:
        OwnModules(encoder=given).load(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_wheel_runs_every_command_without_the_checkout(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    build = ["wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = tmp_path.glob("ae-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(place), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(place), "WANDB_MODE": "disabled"}

    def ended(*words: str) -> str:
        process = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stdout

    script = str(place / "bin" / "ae")
    where = "import ae, importlib.util as u; print(ae.__file__, u.find_spec('experiments'))"
    file, found = ended(sys.executable, "-c", where).split()
    assert Path(file).is_relative_to(place)
    assert found == "None"
    assert "ae encode" in ended(script, "--help")
    ended(script, "compare", str(run.parent))
    ended(script, "encode", str(run), "--to", "codes")
    ended(script, "probe", str(run), "--labels", "20", "--repeats", "1", "--map", "50", "--run.wandb", "disabled")
    ended(script, "sample", str(run), "--to", "samples.png")
    for name in ("push", "upload"):
        ended(script, name, "--help")
