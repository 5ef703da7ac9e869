"""Devices, precision and random number generators of a run."""

import contextlib
import functools
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError
from mmpareto.training.batch_norm import CPUSyncBatchNorm


def choose_devices(gpu_ids: str, local_rank: int | None = None) -> tuple[torch.device, list[int]]:
    """The device that holds the model, and the ids of all GPUs that share a batch (empty on the CPU).

    Arguments:
        gpu_ids: "0", "0,1", …; "cpu"; or "auto" for up to two GPUs (the paper's number), else the CPU.
        local_rank: with several processes, this one's rank on its machine. It gets the GPU at this index of `gpu_ids`,
            or of all GPUs with "auto".

    Raises:
        InputError: an id is not a number, is repeated, or names a missing GPU; or there are fewer GPUs than processes.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu_ids == "cpu" or (gpu_ids == "auto" and not available):
        return torch.device("cpu"), []
    if gpu_ids == "auto":
        ids = list(range(min(available, 2) if local_rank is None else available))
    else:
        ids = parse_gpu_ids(gpu_ids)
    for gpu in ids:
        if not 0 <= gpu < available:
            has = f"{available} GPU{'s' * (available > 1)} (ids from 0)" if available else "no GPU that PyTorch can use"
            raise InputError(f"--gpu_ids names GPU {gpu}, but this machine has {has}; --gpu_ids cpu uses the CPU.")
    if local_rank is not None:
        if local_rank >= len(ids):
            raise InputError(f"process {local_rank} of this machine finds {len(ids)} GPUs; start one process per GPU.")
        ids = [ids[local_rank]]
        torch.cuda.set_device(ids[0])
    return torch.device("cuda", ids[0]), ids


def parse_gpu_ids(gpu_ids: str) -> list[int]:
    """The ids in a list such as "0,1", whether or not this machine has such GPUs; [] for "cpu".

    Raises:
        InputError: an id is not a number of at least 0, or is repeated.
    """
    words = [] if gpu_ids == "cpu" else gpu_ids.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise InputError(f"--gpu_ids is {gpu_ids!r}; give ids such as 0 or 0,1, or cpu.")
    ids = [int(word) for word in words]
    if len(set(ids)) < len(ids):
        raise InputError(f"--gpu_ids names a GPU twice: {gpu_ids}.")
    return ids


def loader_workers(workers: int | None, device: torch.device, processes: int = 1) -> int:
    """The number of loader processes: `workers` if given, else one per core with a GPU, at most 16 (the released code).

    On the CPU the default is 0: loader processes would take cores from training, which needs them more.

    Arguments:
        processes: number of training processes that share this machine's cores.
    """
    if workers is not None:
        return workers
    return 0 if device.type == "cpu" else min(max(available_cores() // processes, 1), 16)


def wrap_model(network: nn.Module, gpu_ids: list[int], *, compiled: bool = False) -> Any:
    """The model to call in place of the network: compiled, in DataParallel for several GPUs, or the network itself.

    Raises:
        InputError: compilation is asked for with several GPUs.
    """
    interacts = getattr(network, "interaction", False)  # with --cross_terms included, methods are not told
    if compiled or len(gpu_ids) > 1 or interacts:  # known here, and no news to whoever asked for it
        warnings.filterwarnings("ignore", message=".*features do not save memory")
    if not compiled:
        return nn.DataParallel(network, device_ids=gpu_ids) if len(gpu_ids) > 1 else network
    if len(gpu_ids) > 1:
        raise InputError("--compile goes with one GPU per process: add --gpu_ids 0, or leave --compile out.")
    _keep_collectives_out_of_compiled_code()
    torch._functorch.config.donated_buffer = False  # graphs are kept for a second backward pass
    # One compiled program for each of training and evaluation, full and last batches, and what a method freezes.
    torch._dynamo.config.recompile_limit = 64
    # A program for any batch size would be slower, and once compiled it would replace the others.
    return torch.compile(network, dynamic=False)


@functools.cache
def _keep_collectives_out_of_compiled_code() -> None:
    """Compiled, the backward pass of CPUSyncBatchNorm would not sum over the processes."""
    CPUSyncBatchNorm.forward = torch.compiler.disable(CPUSyncBatchNorm.forward)  # type: ignore[method-assign]


@torch.no_grad()
def check_bf16(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse convolutions whose weight gradients PyTorch 2.11 gets wrong in bf16 on the CPU: random, at times NaN.

    They are those with a stride of at least 2, and a kernel wider than 1, on maps that are one pixel wide. Found by a
    forward pass of one sample in evaluation mode, which changes nothing.

    Arguments:
        network: on the CPU.
        shapes: modality → shape of a sample.

    Raises:
        InputError: there is such a convolution.
    """
    wrong: list[str] = []

    def note(name: str, part: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        if inputs[0].shape[-1] == 1:
            wrong.append(name)

    convolutions = {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, nn.Conv2d) and part.stride[1] > 1 and part.kernel_size[1] > 1
    }
    if not convolutions:
        return
    hooks = [part.register_forward_pre_hook(functools.partial(note, name)) for name, part in convolutions.items()]
    was_training = network.training
    try:
        network.eval()({name: torch.zeros(1, *shape) for name, shape in shapes.items()})
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    if wrong:
        raise InputError(
            f"--amp bf16 on the CPU: the input of {wrong[0]} is one pixel wide, for which PyTorch's weight gradients "
            "in bf16 are random. Leave --amp out, or give larger inputs (--image_size, --audio_frames, --audio_pool)."
        )


class Precision:
    """Mixed precision: autocast, and loss scaling for fp16.

    Arguments:
        amp: None, "bf16" or "fp16".

    Raises:
        InputError: fp16 on the CPU.
    """

    SMALLEST_SCALE = 1.0  # gradients that are not finite even at this scale are not due to the range of fp16

    def __init__(self, amp: str | None, device: torch.device) -> None:
        if amp == "fp16" and device.type == "cpu":
            raise InputError("--amp fp16 needs a GPU; on the CPU use --amp bf16 or leave it out.")
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, None: None}[amp]
        self._device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context for the forward pass and the losses."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def scale(self) -> Tensor | None:
        """The loss scale () on the device; None without loss scaling."""
        return self.scaler.scale(torch.ones((), device=self._device)) if self.scaler.is_enabled() else None

    def step(self, optimizer: torch.optim.Optimizer, clip_grad: float | None) -> None:
        """Unscale the gradients, clip them to a total norm, and step the optimiser unless fp16 overflowed."""
        if clip_grad is not None:
            self.scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip_grad)
        self.scaler.step(optimizer)
        self.scaler.update()


def allow_tf32(allowed: bool) -> None:
    """Set whether GPUs may use TF32 for float32 matrix products and convolutions (PyTorch's default: convolutions)."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def seed_everything(seed: int) -> None:
    """Seed all random number generators and make cuDNN deterministic, as the released code does."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def get_rng_state() -> dict[str, Any]:
    """The state of PyTorch's generators, the only ones that training uses."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_rng_state(state: dict[str, Any], only: torch.device | None = None) -> None:
    """Restore `get_rng_state`; states of GPUs that no longer exist are ignored.

    Arguments:
        only: with several processes, this one's GPU; it gets the state of GPU 0, since all processes draw alike.
    """
    torch.set_rng_state(state["cpu"])
    if only is not None and only.type == "cuda" and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0], only)
        return
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for gpu, gpu_state in enumerate(state["cuda"][:available]):
        torch.cuda.set_rng_state(gpu_state, gpu)
