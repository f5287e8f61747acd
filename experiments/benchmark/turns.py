"""Alternating measurement of contenders, a few steps per turn, so that noise of the machine affects all alike."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

Pace = Callable[[nn.Module], Any]
Contender = Callable[[Pace, int], None]
"""Train for at least the given number of steps, after passing `Pace` the module that runs once per step."""


def take_turns(contenders: Mapping[str, Contender], steps: int, rounds: int) -> dict[str, list[float]]:
    """Measure the seconds of each contender for `steps` training steps, in each round; the first round is a warm-up.

    Each contender trains in a process of its own, and a single process runs at a time. The process stops after `steps`
    steps until its next turn. Work between steps is measured; work before the first and after the last step is not.
    """
    players = {name: _Player(contender, steps, rounds) for name, contender in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in players}
    for _ in range(rounds + 2):  # two more: to the first step, and the warm-up
        for name, player in players.items():
            seconds[name].append(player.play())
    for player in players.values():
        player.end()
    return {name: turns[2:] for name, turns in seconds.items()}


class _Player:
    """Parent's side of a contender's process."""

    def __init__(self, contender: Contender, steps: int, rounds: int) -> None:
        context = get_context("spawn")  # a fork would inherit the state of torch's threads without the threads
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=_train, args=(child_pipe, contender, steps, rounds), daemon=True)
        self._process.start()
        child_pipe.close()

    def play(self) -> float:
        """Train for a turn, and return its seconds; raises RuntimeError where the contender ends earlier."""
        try:
            self._pipe.send("go on")
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("a contender ended before its last turn; its error is above") from error

    def end(self) -> None:
        """Let the contender finish."""
        self._pipe.close()
        self._process.join()


def _train(pipe: Connection, contender: Contender, steps: int, rounds: int) -> None:
    """Train in the contender's process; stop after every `steps` steps until the parent's message."""
    start = time.perf_counter()
    count = 0

    def step(module: nn.Module, inputs: object) -> None:
        """Count a training step; a hook before the forward pass, which ignores evaluations."""
        nonlocal start, count
        if not module.training:
            return
        if count % steps == 0:
            if next((parameter.is_cuda for parameter in module.parameters()), False):
                torch.cuda.synchronize()
            pipe.send(time.perf_counter() - start)
            pipe.recv()
            start = time.perf_counter()
        count += 1

    with suppress(EOFError, OSError):  # the parent closes the pipe after the last turn
        pipe.recv()
        contender(lambda module: module.register_forward_pre_hook(step), (rounds + 1) * steps + 1)
