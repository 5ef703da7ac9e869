"""Where a run computes, and in which precision."""

import contextlib
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError


def choose_devices(gpu_ids: str, local_rank: int | None = None) -> tuple[torch.device, list[int]]:
    """The device that holds the model, and the ids of all GPUs that share a batch (none on the CPU).

    Arguments:
        gpu_ids: "0", "0,1", …; "cpu"; "auto" for up to two GPUs, the paper's number, else the CPU.
        local_rank: of one of several processes on this machine, each of which has one GPU: that of this place among
            `gpu_ids`, or with "auto" among all.

    Raises:
        InputError: an id is no number, is given twice, or is not there; or there are fewer than processes.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu_ids == "cpu" or (gpu_ids == "auto" and not there):
        return torch.device("cpu"), []
    if gpu_ids == "auto":
        ids = list(range(min(there, 2) if local_rank is None else there))
    else:
        try:
            ids = [int(part) for part in gpu_ids.split(",")]
        except ValueError:
            raise InputError(f"--gpu_ids is {gpu_ids!r}; give ids such as 0 or 0,1, or cpu.") from None
    for number in ids:
        if not 0 <= number < there:
            has = f"{there} GPU{'s' * (there > 1)} (ids from 0)" if there else "no GPU that PyTorch can use"
            raise InputError(f"--gpu_ids names GPU {number}, but this machine has {has}; --gpu_ids cpu uses the CPU.")
    if len(set(ids)) < len(ids):
        raise InputError(f"--gpu_ids names a GPU twice: {gpu_ids}.")
    if local_rank is not None:
        if local_rank >= len(ids):
            raise InputError(f"process {local_rank} of this machine finds {len(ids)} GPUs; start one process a GPU.")
        ids = [ids[local_rank]]
        torch.cuda.set_device(ids[0])
    return torch.device("cuda", ids[0]), ids


def loader_workers(given: int | None, device: torch.device, beside: int = 1) -> int:
    """The number of loader processes: what was given; else one a core with a GPU, at most 16, the released number.

    On the CPU they would only take cores from training, which needs far more of them than loading.

    Arguments:
        beside: processes that train on this machine and share its cores.
    """
    if given is not None:
        return given
    return 0 if device.type == "cpu" else min(max(available_cores() // beside, 1), 16)


def runnable(network: nn.Module, ids: list[int], *, compiled: bool = False) -> Any:
    """The network as it is called: compiled, or by DataParallel over several GPUs, else itself.

    Raises:
        InputError: it is to be compiled for several GPUs.
    """
    if not compiled:
        return nn.DataParallel(network, device_ids=ids) if len(ids) > 1 else network
    if len(ids) > 1:
        raise InputError("--compile goes with one GPU a process: add --gpu_ids 0, or leave --compile out.")
    torch._functorch.config.donated_buffer = False  # graphs are kept for a second backward pass
    # A program each for training and evaluation, full and last batches, and what a method holds or freezes at a time.
    torch._dynamo.config.recompile_limit = 64
    # A program for any size of batch would be slower, and take the place of the others once there is one.
    return torch.compile(network, dynamic=False)


class Precision:
    """Mixed precision: what runs under autocast, and the scaling of fp16's gradients.

    Arguments:
        amp: None, "bf16" or "fp16".

    Raises:
        InputError: fp16 on the CPU.
    """

    SMALLEST_SCALE = 1.0  # fp16 gradients that are not finite even here are the losses' fault, not the scale's

    def __init__(self, amp: str | None, device: torch.device) -> None:
        if amp == "fp16" and device.type == "cpu":
            raise InputError("--amp fp16 needs a GPU; on the CPU take --amp bf16 or leave it out.")
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, None: None}[amp]
        self._device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """For the forward pass and the losses."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def scale(self) -> Tensor | None:
        """() the factor of the gradients, on the device; None where they are not scaled."""
        return self.scaler.scale(torch.ones((), device=self._device)) if self.scaler.is_enabled() else None

    def step(self, optimizer: torch.optim.Optimizer, clip_grad: float | None) -> None:
        """Unscale, clip to a total norm, and step, unless fp16 overflowed."""
        if clip_grad is not None:
            self.scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip_grad)
        self.scaler.step(optimizer)
        self.scaler.update()


def allow_tf32(allowed: bool) -> None:
    """Say whether GPUs may round what they multiply in float32 to TF32; PyTorch's default lets convolutions alone."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def seed_everything(seed: int) -> None:
    """Seed every generator and ask cuDNN for repeatable algorithms, as the released code does."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def random_state() -> dict[str, Any]:
    """The state of PyTorch's generators, the only ones that training draws from."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict[str, Any], only: torch.device | None = None) -> None:
    """Restore `random_state`; a GPU that is no longer there is left out.

    Arguments:
        only: the GPU of this process, one of several, which all draw what the first one's GPU, number 0, would draw.
    """
    torch.set_rng_state(state["cpu"])
    if only is not None and only.type == "cuda" and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0], only)
        return
    for number, values in enumerate(state["cuda"][: torch.cuda.device_count() if torch.cuda.is_available() else 0]):
        torch.cuda.set_rng_state(values, number)
