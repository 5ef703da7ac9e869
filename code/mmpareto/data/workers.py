"""Parallel work on many samples, in processes that end with this one, however it ends."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import TypeVar

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
HEAVY_MODULES = ["torch", "torchaudio.compliance.kaldi", "av", "PIL.Image"]


def available_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def outcomes(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int, crashed: Callable[[Job], Outcome]
) -> Generator[Outcome]:
    """Yield `function(job)` for all `jobs`, in order of completion.

    If a process dies during a job (a decoder crashes, memory runs out), the job is tried once more, alone; if that
    process dies, too, the outcome is `crashed(job)`. With one worker, everything happens in this process. Exceptions of
    `function` are raised. Close the generator to stop the work.
    """
    if min(workers, len(jobs)) <= 1:
        with _one_thread():
            yield from map(function, jobs)
        return
    waiting = deque(jobs)
    while waiting:
        running: dict[Future[Outcome], Job] = {}
        try:
            with worker_pool(min(workers, len(waiting))) as pool:
                while waiting or running:
                    while waiting and len(running) < 2 * workers:
                        with _signals_deferred():  # nobody would stop a process that is half started
                            future = pool.submit(function, waiting[0])
                        running[future] = waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        outcome = future.result()
                        del running[future]
                        yield outcome
        except BrokenProcessPool:
            for job in running.values():
                yield _alone(function, job, crashed)


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Pool of single-threaded processes; leaving the block early stops them in the middle of their work.

    They are forked from a server that has imported the heavy modules without using them. Forking this process could
    hang, since its libraries may have started threads, and starting each worker afresh would import torch each time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY_MODULES)
    with _ignoring_interrupts():
        forkserver.ensure_running()
    probe = context.Process(target=_do_nothing)  # ends once the server has finished its imports, after some seconds
    probe.start()
    probe.join()
    worker_end, own_end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_initialise, initargs=(worker_end,))
    try:
        yield pool
        pool.shutdown()
    finally:
        own_end.close()  # stops workers that are still working
        pool.shutdown(cancel_futures=True)
        worker_end.close()


def _alone(function: Callable[[Job], Outcome], job: Job, crashed: Callable[[Job], Outcome]) -> Outcome:
    try:
        with worker_pool(1) as pool:
            with _signals_deferred():
                future = pool.submit(function, job)
            return future.result()
    except BrokenProcessPool:
        return crashed(job)


def _do_nothing() -> None:
    pass


def _initialise(pipe: Connection) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; the parent decides
    torch.set_num_threads(1)  # parallelism is across processes
    threading.Thread(target=_exit_when_closed, args=(pipe,), daemon=True).start()


def _exit_when_closed(pipe: Connection) -> None:
    pipe.poll(None)  # returns when `worker_pool` closes the other end, or the system does because the parent died
    os._exit(1)


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Make processes that are started inside ignore Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Defer SIGINT and SIGTERM until the block is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one torch thread: `workers` is the number of cores to use, and threads do not pay on matrices this small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
