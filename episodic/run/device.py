"""The device that computes, and the precision that it computes in."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import platform
import re
import resource
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import nn

from episodic.run.distributed import processes


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A device and a precision. With `torch.bfloat16` forward passes run under autocast; with `torch.float32` they do not.

    >>> hardware = Hardware.choose("cpu", "fp32")
    >>> hardware.device, hardware.dtype
    (device(type='cpu'), torch.float32)
    >>> with hardware.autocast():
    ...     hardware.place(torch.nn.Linear(2, 1))(torch.ones(1, 2)).dtype
    torch.float32
    """

    device: torch.device
    dtype: torch.dtype

    @staticmethod
    def choose(device: str = "auto", precision: str = "auto") -> Hardware:
        """The hardware that two settings name.

        **Arguments:** `device` (default `"auto"`): a device of torch, or auto for CUDA, else MPS, else the CPU. `precision`
        (default `"auto"`): `fp32`, `bf16`, or auto for bf16 where the hardware multiplies it natively.

        **Raises:** `ValueError` for another precision or a device that is not there.
        """
        if device == "auto" and processes() > 1 and torch.cuda.is_available():
            device = f"cuda:{torch.cuda.current_device()}"  # each process of a machine has its own
        if device == "auto":
            cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
            device = "cuda" if cuda else "mps" if mps else "cpu"
        try:
            where = torch.device(device)
        except RuntimeError:
            raise ValueError(f"device must be auto, cpu, cuda, cuda:<n> or mps, got {device!r}") from None
        if where.type == "cuda" and (not torch.cuda.is_available() or (where.index or 0) >= torch.cuda.device_count()):
            raise ValueError(f"device={device} is not on this machine ({torch.cuda.device_count()} CUDA devices)")
        if where.type == "cpu":
            _keep_freed_memory()
        if precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision must be auto, fp32 or bf16, got {precision!r}")
        fast = precision == "bf16" or (precision == "auto" and _multiplies_bf16(where))
        return Hardware(where, torch.bfloat16 if fast else torch.float32)

    def autocast(self) -> AbstractContextManager:
        """The context in which forward passes run."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def place(self, module: nn.Module) -> nn.Module:
        """Move `module` to the device. Its weights get the layout channels_last, in which convolutions are quickest."""
        return module.to(self.device, memory_format=torch.channels_last)

    def peak_memory(self) -> int:
        """The most memory that was used so far, in bytes: that of the GPU, or on a CPU that of this process (with the files that it
        has mapped).
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status")
        # Preferred, since Linux hands the maximum of getrusage on to processes that this one starts.
        if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
            return 1024 * int(peak[1])
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def describe(self) -> str:
        """Device and precision in a line, for people and for records."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"{platform.machine()} {self.device.type}, {torch.get_num_threads()} of {os.cpu_count()} threads"
        together = f", {processes()} processes" * (processes() > 1)
        return f"{name}, {'bf16' if self.dtype == torch.bfloat16 else 'fp32'}{together}"


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # torch keeps this question private; where a version drops it, float32 is the safe answer
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(supported and supported())
    return False


@functools.cache
def _keep_freed_memory() -> None:
    """Tell glibc's malloc to keep what is freed. By default it hands every large tensor back to the kernel, and the next
    step pays for zeroed pages again: half the time of a Conv4 training step. The process keeps its peak memory instead.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # names of the parameters in malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**26)
