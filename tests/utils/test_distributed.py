"""Training in several processes equals training in one; by torchrun, on the CPU."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ae import InputError
from ae.cli import parse
from ae.utils import launch, shared_memory
from ae.utils.distributed import world_size
from ae.utils.launch import launched
from ae.weights import load_generator
from experiments import joint
from tests.helpers import ROOT
from tests.helpers.tiers import slow
from tests.helpers.tracked import history

GROUP = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SMALL = "--data.validation 100 --model.channels 4 8 --model.hidden 16 --run.wandb disabled".split()


def torchrun(*arguments: object, processes: int = 2, **options: Any) -> "subprocess.Popen[str]":
    flags = ["--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, options.pop("flags", flags)), "-m"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options}
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_exit(process: "subprocess.Popen[str]", code: int = 0, seconds: float = 120) -> tuple[str, str]:
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == code, err[-3000:]
    return out, err


def train(folder: Path, *flags: str, processes: int = 1) -> None:
    """Train the main job with a narrow model, in this process or in several."""
    arguments = [*SMALL, "--run.dir", str(folder), *flags]
    if processes == 1:
        joint.main(parse(joint.Config, arguments))
    else:
        wait_for_exit(torchrun("experiments.joint", *arguments, processes=processes))


def check_same(one: Path, many: Path) -> None:
    """Compare weights and logged values, except times, within the tolerance of reordered float32 sums.

    An accuracy counts images, of which a tie between two logits may fall either way: in two of the 400 training images
    of a row, or of the 100 validation images. That of a class is of too few images.
    """
    expected, actual = load_file(one / "model.safetensors"), load_file(many / "model.safetensors")
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert (tensor - actual[name]).abs().max() <= 2e-4, name
    rows = list(zip(history(one), history(many), strict=True))
    assert rows
    for before, after in rows:
        assert before.keys() == after.keys()
        for key, value in before.items():
            if not key.endswith("images_per_second") and "/accuracy/" not in key:
                absolute = {"train/accuracy": 2 / 400, "val/accuracy": 2 / 100}.get(key, 1e-3)
                assert after[key] == pytest.approx(value, rel=2e-3, abs=absolute), key


def test_process_group_passes_all_checks() -> None:
    out, _ = wait_for_exit(torchrun("tests.helpers.in_processes"))
    assert "all checks passed" in out


@pytest.mark.slow
def test_process_group_of_three_passes_all_checks() -> None:
    out, _ = wait_for_exit(torchrun("tests.helpers.in_processes", "slow", processes=3))
    assert "all checks passed" in out


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set (2), and RANK and MASTER_ADDR and MASTER_PORT not: start several"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1"}, "WORLD_SIZE is set (2), and MASTER_ADDR not"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number 1 or more, got 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number 1 or more, got '0'"),
        ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE must be a whole number 1 or more, got '2.0'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK must be less than WORLD_SIZE, which is 2; got 2"),
        ({"RANK": "1"}, "RANK must be less than WORLD_SIZE, which is not set; got 1"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK must be a whole number 0 or more, got '-1'"),
        ({**GROUP, "MASTER_PORT": "http"}, "MASTER_PORT must be a whole number from 0 to 65535, got 'http'"),
        ({**GROUP, "LOCAL_RANK": "a"}, "LOCAL_RANK must be a whole number 0 or more, got 'a'"),
    ],
)
def test_launched_refuses_an_incomplete_environment(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=re.escape(message)), launched():
        pass


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": ""}, {"WORLD_SIZE": " ", "RANK": ""}, {"WORLD_SIZE": "1"}, {}])
def test_launched_is_one_process_by_default(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with launched():
        assert world_size() == 1
        assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_launched_needs_no_local_rank() -> None:
    port = str(29700 + os.getpid() % 1000)
    code = "from ae.utils.launch import launched\nfrom ae.utils.distributed import all_gather, local_rank\n"
    code += "with launched(): print(all_gather(local_rank()))"
    group = {**GROUP, "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **group, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["[0, 1]\n"] * 2


def test_stored_prefers_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory, temporary = tmp_path / "memory", tmp_path / "temporary"
    memory.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(shared_memory, "_MEMORY", memory)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    value: dict[str, Any] = {
        "a": torch.arange(5.0)[::2],
        "b": torch.tensor(True),
        "c": torch.zeros(0, 3),
        "d": [1, "x"],
    }
    used = []
    for spare in (1.0, 1e15):  # the second: more than the disk has
        monkeypatch.setattr(shared_memory, "_SPARE", spare)
        with shared_memory._stored(value) as content:
            used.append([len(list(place.glob("*/*"))) for place in (memory, temporary)])
            opened = shared_memory._opened(content)
        assert torch.equal(opened["a"], value["a"])
        assert opened["b"]
        assert opened["c"].shape == (0, 3)
        assert opened["d"] == [1, "x"]
        assert not list(tmp_path.glob("*/*"))
    assert used == [[3, 0], [0, 3]]


def test_stored_raises_where_no_folder_has_the_space(tmp_path: Path) -> None:
    large = torch.zeros(1, dtype=torch.uint8).expand(2**60)
    with pytest.raises(InputError, match=r"the images take 1,099,511,627,776 MiB, which neither /dev/shm nor .* has"):
        shared_memory._stored([large]).__enter__()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # zombie


def test_watch_sends_sigterm_after_the_launchers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over, signals = threading.Event(), []

    def handle(number: int, frame: object) -> None:
        signals.append(number)
        is_over.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        launch._watch(launcher=os.getppid() + 1, is_over=is_over)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signals == [signal.SIGTERM]


@pytest.mark.slow
def test_launched_ends_with_its_launcher() -> None:
    """One process waits in a barrier that never completes, and signals are deferred."""
    process = torchrun("tests.helpers.in_processes", "wait")
    assert process.stdout is not None
    workers = [int(process.stdout.readline().split()[1]) for _ in range(2)]
    assert all(map(is_running, workers))
    process.kill()
    wait_for(lambda: not any(map(is_running, workers)), seconds=20)
    process.communicate()


# At higher learning rates, and with batch norm after some dozen steps, training is chaotic: rounding breaks ties of
# equal background pixels. Even a change from one thread to two in a single process changes the result.
FEW_LABELS = "--data.limit 130 --data.labels 10 --recipe.batch-size 50 --recipe.log-every 2 --recipe.lr 0.002"


@pytest.mark.parametrize(
    ("processes", "flags"),
    [
        slow(2, f"{FEW_LABELS} --model.norm --recipe.epochs 2"),  # batches of 50, 50, 30
        slow(3, f"{FEW_LABELS} --recipe.steps 100"),
        slow(2, "--data.limit 3000 --recipe.batch-size 64 --recipe.steps 100 --recipe.lr 0.02"),
        slow(3, "--data.limit 101 --recipe.batch-size 50 --recipe.steps 30 --recipe.lr 0.02"),  # 50, 50, 1
        slow(2, f"{FEW_LABELS} --data.labelled-per-batch 3 --recipe.grad-clip 0.5 --recipe.steps 20"),
        slow(2, f"{FEW_LABELS} --recipe.optimizer adamw --recipe.lr 0.001 --model.latent 6 --recipe.steps 20"),
    ],
)
def test_fit_in_several_processes_equals_one(tmp_path: Path, processes: int, flags: str) -> None:
    train(tmp_path / "one", *flags.split())
    train(tmp_path / "many", *flags.split(), processes=processes)
    check_same(tmp_path / "one", tmp_path / "many")


@pytest.mark.slow
def test_sharded_fit_equals_one_process(tmp_path: Path) -> None:
    flags = f"{FEW_LABELS} --recipe.ema 0.9 --recipe.steps 20".split()
    train(tmp_path / "one", *flags)
    train(tmp_path / "many", *flags, "--recipe.shard", processes=2)
    check_same(tmp_path / "one", tmp_path / "many")


LONG = "--data.limit 2000 --recipe.batch-size 40 --recipe.epochs 40 --recipe.log-every 10 --recipe.lr 0.0005"


def wait_for(condition: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_resume_accepts_another_number_of_processes(tmp_path: Path) -> None:
    run, flags = tmp_path / "many", [*SMALL, *LONG.split()]
    process = torchrun("experiments.joint", *flags, "--run.dir", run)
    wait_for(lambda: (run / "history.jsonl").exists() and len(history(run)) > 20)
    process.terminate()
    began = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert not (run / "summary.json").exists()
    wait_for_exit(torchrun("experiments.joint", "--run.resume", run, processes=3))
    train(tmp_path / "one", *LONG.split())
    check_same(tmp_path / "one", run)


@pytest.mark.slow
def test_fit_ends_when_a_process_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = torchrun("experiments.joint", *SMALL, *LONG.split(), "--run.dir", run)
    wait_for(lambda: (run / "history.jsonl").exists() and len(history(run)) > 5)
    workers = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode != 0
    assert re.search(r"Signal 9 \(SIGKILL\)", err)
    wait_for_exit(torchrun("experiments.joint", "--run.resume", run))
    assert (run / "summary.json").exists()


@pytest.mark.slow
def test_input_error_ends_all_processes_with_one_line(tmp_path: Path) -> None:
    process = torchrun("experiments.joint", *SMALL, "--run.resume", tmp_path / "none")
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "error: no run in" in err


@pytest.mark.slow
def test_fit_on_two_nodes_equals_one_process(tmp_path: Path) -> None:
    flags = f"{FEW_LABELS} --recipe.epochs 2".split()
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:29511"]
    arguments = ["experiments.joint", *SMALL, *flags, "--run.dir", str(tmp_path / "many")]
    agents = [torchrun(*arguments, flags=[*meeting, "--rdzv-id=test"]) for _ in range(2)]
    for agent in agents:
        wait_for_exit(agent)
    train(tmp_path / "one", *flags)
    check_same(tmp_path / "one", tmp_path / "many")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "flags"),
    [
        ("semi", "--data.labels 20"),
        ("vqvae", "--prior-steps 2"),
        ("gan", ""),
        ("mae", ""),
        ("vqgan", "--adversarial.start 1"),
        ("aae", ""),
        ("vae", "--recipe.shard --generation.likelihood-images 20"),
        ("semi", "--recipe.shard --data.labels 20"),
    ],
)
def test_experiments_run_in_several_processes(tmp_path: Path, experiment: str, flags: str) -> None:
    small = "--data.limit 300 --data.validation 64 --recipe.steps 4 --recipe.log-every 2 --run.wandb disabled".split()
    wait_for_exit(torchrun(f"experiments.{experiment}", *small, *flags.split(), "--run.dir", tmp_path / "run"))
    assert history(tmp_path / "run")[-1]["step"] == 4
    assert (tmp_path / "run" / "summary.json").exists()
    load_generator(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_fit_takes_batches_smaller_than_the_group(tmp_path: Path, processes: int) -> None:
    """61 streamed images in batches of 20, and a codebook initialised from a batch of one image."""
    for i in range(90):
        folder = tmp_path / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), i).save(folder / f"{i}.png")
    flags = f"--data.name folder --data.root {tmp_path / 'images'} --data.size 16 --data.validation 9".split()
    flags += "--data.limit 61 --recipe.log-every 1 --run.wandb disabled".split()
    joint = ["--data.stream", "--recipe.batch-size", "20", "--model.channels", "4", "8", "--recipe.epochs", "2"]
    wait_for_exit(torchrun("experiments.joint", *flags, *joint, "--run.dir", tmp_path / "joint", processes=processes))
    assert [row["step"] for row in history(tmp_path / "joint")][-1] == 8
    vqvae = "--data.limit 130 --recipe.batch-size 1 --recipe.steps 2 --prior-steps 1 --run.wandb disabled".split()
    process = torchrun("experiments.vqvae", *vqvae, "--run.dir", tmp_path / "vqvae", processes=processes)
    try:
        wait_for((tmp_path / "vqvae" / "model.safetensors").exists)  # the samples that follow take minutes
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert [row["step"] for row in history(tmp_path / "vqvae")] == [2]


@pytest.mark.slow
def test_once_per_machine_falls_back_to_the_temporary_folder(tmp_path: Path) -> None:
    mount = "mount -t tmpfs -o size=2m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    train = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node=2 -m experiments.joint "
    train += f"--data.limit 300 --recipe.steps 2 {' '.join(SMALL)} --run.dir {tmp_path / 'run'}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    script = f"{mount}; {train} && ls -A /dev/shm"
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "run" / "summary.json").exists()
    assert not list(tmp_path.glob("ae-*"))
