"""Runs a function in several processes that form a group of torch.distributed (gloo)."""

import datetime
import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

TIMEOUT = 90.0


def in_processes(count: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `count` processes, in the order of their ranks.

    They find torchrun's environment variables, too.

    Arguments:
        function: of a module that a new process can import.
        folder: an empty one, for what the processes tell each other.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    context = multiprocessing.get_context("forkserver")  # imports everything once
    context.set_forkserver_preload(["torch", function.__module__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    started = [
        context.Process(
            target=_run,
            args=(shared | {"RANK": rank, "LOCAL_RANK": rank}, function, folder / f"{rank}.pkl", arguments),
        )
        for rank in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(TIMEOUT)
        process.kill()
    assert all((folder / f"{rank}.pkl").exists() for rank in range(count)), "they are not done yet"
    found = [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(count)]
    errors = [text for kind, text in found if kind == "error"]
    assert not errors, "\n".join(errors)
    return [value for _, value in found]


def _run(environment: dict[str, Any], function: Callable[..., Any], out: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {name: str(value) for name, value in environment.items()}
    try:
        dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=TIMEOUT / 2))
        found = ("value", function(*arguments))
        dist.destroy_process_group()
    except BaseException:
        found = ("error", f"process {environment['RANK']}: {traceback.format_exc()}")
    out.write_bytes(pickle.dumps(found))
