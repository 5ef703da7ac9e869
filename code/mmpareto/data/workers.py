"""Work on many clips in parallel processes that end with this one, however it ends."""

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
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def outcomes(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int, crashed: Callable[[Job], Outcome]
) -> Generator[Outcome]:
    """Yield `function(job)` for all `jobs`, in the order in which they are done.

    A job during which a process dies (a decoder's crash, a lack of memory) is tried once more, alone; if that
    process dies too, `crashed(job)` takes the place of its outcome. With one worker everything happens in this
    process. What `function` raises is raised. Close the generator to stop the work.
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
                        with _signals_held_back():  # a process half started would be out of everyone's hands
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
    """A pool of processes of one thread each; leaving the block early stops them in the middle of their work.

    They are forked from a server that has imported the heavy modules but used nothing of them: to fork this process,
    whose libraries may have started threads, could hang, and to start each one afresh would import torch each time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY_MODULES)
    with _ignoring_interrupts():
        forkserver.ensure_running()
    answer = context.Process(target=_start_nothing)  # comes when the server has done its imports, some seconds
    answer.start()
    answer.join()
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(theirs,))
    try:
        yield pool
        pool.shutdown()
    finally:
        ours.close()  # in the middle of work this is what stops it; after it nobody is left to see it
        pool.shutdown(cancel_futures=True)
        theirs.close()


def _alone(function: Callable[[Job], Outcome], job: Job, crashed: Callable[[Job], Outcome]) -> Outcome:
    try:
        with worker_pool(1) as pool:
            with _signals_held_back():
                future = pool.submit(function, job)
            return future.result()
    except BrokenProcessPool:
        return crashed(job)


def _start_nothing() -> None:
    pass


def _start(theirs: Connection) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; the parent decides
    torch.set_num_threads(1)  # the processes are the parallelism
    threading.Thread(target=_leave_when_closed, args=(theirs,), daemon=True).start()


def _leave_when_closed(theirs: Connection) -> None:
    theirs.poll(None)  # until the other end is closed: by `worker_pool`, or by the system when the parent is gone
    os._exit(1)


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """A process that is started inside inherits that Ctrl-C is not its business."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """SIGINT and SIGTERM that come inside take effect on leaving."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One core was asked for; and threads cost more than they bring on matrices as small as these."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
