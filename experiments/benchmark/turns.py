"""Contenders that train in turn, a few steps each, so that a noisy machine is as noisy for all of them."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from torch import nn

Pace = Callable[[nn.Module], Any]
Contender = Callable[[Pace, int], None]
"""Trains for the given number of steps at least, having handed the module that runs once a step to what it is given."""


def take_turns(contenders: Mapping[str, Contender], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds that each contender took for `steps` training steps, in each round; the first round is not counted.

    Each trains in a process of its own, of which one runs at a time: it is stopped after so many steps, until its turn
    comes again. So whatever it does between its steps counts, and what it does before and after does not.
    """
    players = {name: _Player(contender, steps, rounds) for name, contender in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in players}
    for _ in range(rounds + 2):  # to the first step, the first steps, and those that count
        for name, player in players.items():
            seconds[name].append(player.play())
    for player in players.values():
        player.end()
    return {name: found[2:] for name, found in seconds.items()}


class _Player:
    """A contender in a process of its own, seen from here."""

    def __init__(self, contender: Contender, steps: int, rounds: int) -> None:
        context = get_context("spawn")  # a fork would inherit the threads of torch without their being there
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_train, args=(theirs, contender, steps, rounds), daemon=True)
        self._process.start()
        theirs.close()

    def play(self) -> float:
        """Let it train until its turn is over; raises RuntimeError where it does not come so far."""
        try:
            self._pipe.send("go on")
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("a contender has ended before its time; what it raised is above") from error

    def end(self) -> None:
        """Let it finish."""
        self._pipe.close()
        self._process.join()


def _train(pipe: Connection, contender: Contender, steps: int, rounds: int) -> None:
    """In its process: train, and stop after every `steps` steps until told to go on."""
    began = time.perf_counter()
    count = 0

    def step(module: nn.Module, inputs: object) -> None:
        """Before each step, and each evaluation, which has no part in this."""
        nonlocal began, count
        if not module.training:
            return
        if count % steps == 0:
            pipe.send(time.perf_counter() - began)
            pipe.recv()
            began = time.perf_counter()
        count += 1

    with suppress(EOFError, OSError):  # it goes on after its last turn: enough
        pipe.recv()
        contender(lambda module: module.register_forward_pre_hook(step), (rounds + 1) * steps + 1)
