"""Reading files of `torch.save` that other people may have made: checkpoints, weights, and tensors of prepared data."""

import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from mmpareto.files import open_regular

# The pickle of a tensor has about 30 operations in 150 bytes. One of this size is not nested too deeply, either.
SMALL = 1 << 14  # bytes or operations
DEEPEST = 200  # levels; hashing a tuple that is nested tens of thousands deep overflows the interpreter's stack
LEGACY_PICKLES = 5  # one after the other, in files from before PyTorch 1.6
MARK = -1


def read_tensors(path: Path, *, small: bool = False) -> Any:
    """Read a file of `torch.save` to the CPU, with `weights_only`: no code in it is executed.

    Arguments:
        small: refuse a file with more objects than a tensor has.

    Raises:
        Exception: of any type; it is damaged, compressed, nested too deeply, or holds more than tensors and containers.
    """
    with open_regular(path) as file:
        if file.peek(2)[:2] == b"PK":
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    if member.compress_type != zipfile.ZIP_STORED:  # PyTorch writes none, but would unpack gigabytes
                        raise ValueError(f"{member.filename} is compressed")
                    if member.filename.endswith(".pkl") and member.file_size > SMALL:
                        if small:
                            raise ValueError("it has more objects than a tensor")
                        with archive.open(member) as program:
                            _check_depth(program)
        else:
            operations = sum(_check_depth(file) for _ in range(LEGACY_PICKLES))
            if small and operations > SMALL:
                raise ValueError("it has more objects than a tensor")
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_depth(file: IO[bytes]) -> int:
    """Raise ValueError if a pickle is nested too deeply; return the number of its operations.

    The pickle is followed with a stack of depths. What a container is given after it was made does not count: only
    tuples can be hashed, and they are complete when they are made.
    """
    stack: list[int] = []
    memo: dict[Any, int] = {}
    number = 0
    for operation, argument, _ in pickletools.genops(file):
        number += 1
        before, name = operation.stack_before, operation.name
        if isinstance(argument, int) and abs(argument) >= 1 << 64 and argument != torch.serialization.MAGIC_NUMBER:
            raise ValueError("it has a number of more than 64 bits")  # any number of these have one hash
        if "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif "GET" in name:
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(MARK)
        else:
            taken = [0]
            if pickletools.markobject in before:
                while (depth := stack.pop()) != MARK:
                    taken.append(depth)
            single = [item for item in before if item not in (pickletools.markobject, pickletools.stackslice)]
            taken += [stack.pop() for _ in single]
            if max(taken) > DEEPEST:
                raise ValueError("it is nested too deeply")
            stack += [max(taken) + 1] * len(operation.stack_after)
    return number
