"""Run a function in several processes, started as torchrun would start them (torch.distributed, gloo)."""

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


def in_processes(
    count: int, function: Callable[..., Any], folder: Path, *arguments: Any, grouped: bool = True
) -> list[Any]:
    """Run `function(*arguments)` in each of `count` processes and return the results in order of rank.

    The processes have torchrun's environment variables.

    Arguments:
        function: defined in a module that a new process can import.
        folder: an empty folder for the results.
        grouped: whether the processes form a process group before `function` is called.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    context = multiprocessing.get_context("forkserver")  # modules are imported only once
    context.set_forkserver_preload(["torch", "sklearn.metrics", function.__module__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    started = [
        context.Process(
            target=_run,
            args=(shared | {"RANK": rank, "LOCAL_RANK": rank}, function, folder / f"{rank}.pkl", arguments, grouped),
        )
        for rank in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(TIMEOUT)
        process.kill()
    assert all((folder / f"{rank}.pkl").exists() for rank in range(count)), "the processes did not finish in time"
    results = [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(count)]
    errors = [text for kind, text in results if kind == "error"]
    assert not errors, "\n".join(errors)
    return [value for _, value in results]


def _run(
    environment: dict[str, Any], function: Callable[..., Any], out: Path, arguments: tuple[Any, ...], grouped: bool
) -> None:
    torch.set_num_threads(1)
    os.environ |= {name: str(value) for name, value in environment.items()}
    try:
        if grouped:
            dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=TIMEOUT / 2))
        result = ("value", function(*arguments))
        if grouped:
            dist.destroy_process_group()
    except BaseException:
        result = ("error", f"process {environment['RANK']}: {traceback.format_exc()}")
    out.write_bytes(pickle.dumps(result))
