"""Processes of their own that start in milliseconds, and can be killed.

A server that has imported the programs, and what they import when they run, forks each.
"""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([
    "deco_lab.sampling.__main__", "deco_lab.training.__main__", "deco_lab.plots", "torch._dynamo",
    "torch.utils.tensorboard",
])  # fmt: skip


def started(target: Callable[..., object], *arguments: Any) -> Any:
    process = PROCESSES.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def alone(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Run a command line on one thread: what `started` is to start."""
    torch.set_num_threads(1)
    main(arguments)


def run_to_its_end(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    process = started(alone, main, arguments)
    process.join(120)
    assert process.exitcode == 0


def _answer(connection: Any, function: Callable[[], Any], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    connection.send(function())


def answer_of(function: Callable[[], Any], environment: dict[str, str]) -> Any:
    """Return what a function returns in a new process, which must end well."""
    ours, theirs = PROCESSES.Pipe()
    process = started(_answer, theirs, function, environment)
    process.join(120)
    assert process.exitcode == 0
    return ours.recv()
