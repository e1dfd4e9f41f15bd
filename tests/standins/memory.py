"""Memory of the CUDA stand-in: real host memory, in a register that knows what each address is and whether it lives."""

from __future__ import annotations

import bisect
import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from cuda.bindings.runtime import cudaMemcpyKind, cudaMemoryType

DEVICE, HOST = cudaMemoryType.cudaMemoryTypeDevice, cudaMemoryType.cudaMemoryTypeHost

#: What CUDA aligns an allocation to, at least.
ALIGNMENT = 256
_GUARD_BYTES = 64
_FRESH, _GUARD, _FREED = 0xFF, 0xA5, 0xDD  # 0xFFFFFFFF is a NaN in float32

_ENDS = {  # kind of copy -> (whether the target is on a device, whether the source is)
    cudaMemcpyKind.cudaMemcpyHostToHost: (False, False),
    cudaMemcpyKind.cudaMemcpyHostToDevice: (True, False),
    cudaMemcpyKind.cudaMemcpyDeviceToHost: (False, True),
    cudaMemcpyKind.cudaMemcpyDeviceToDevice: (True, True),
    cudaMemcpyKind.cudaMemcpyDefault: (None, None),
}


class CudaFault(AssertionError):
    """The code under test did with CUDA what on a GPU would crash, or read or write something else."""


@dataclass(eq=False)
class Block:
    """One allocation; freed ones are kept, so that no address comes twice."""

    kind: cudaMemoryType
    device: int
    address: int
    size: int
    storage: np.ndarray
    live: bool = True

    @property
    def bytes(self) -> np.ndarray:
        """Its memory, without the guards."""
        start = self.address - self.storage.ctypes.data
        return self.storage[start : start + self.size]

    def check_guard(self) -> None:
        """Fault if something wrote past its end; only host code with a wrong view of the address can."""
        end = self.address + self.size - self.storage.ctypes.data
        if (self.storage[end : end + _GUARD_BYTES] != _GUARD).any():
            raise CudaFault(f"something wrote past the end of {self}")

    def __str__(self) -> str:
        kind = "device" if self.kind == DEVICE else "pinned"
        return f"the {self.size} bytes of {kind} memory at {self.address:#x}"


class Memory:
    """All allocations of a stand-in."""

    def __init__(self) -> None:
        self._addresses: list[int] = []
        self._blocks: list[Block] = []

    def live(self, kind: cudaMemoryType, device: int | None = None) -> list[Block]:
        """Allocations of a kind that have not been freed."""
        return [b for b in self._blocks if b.live and b.kind == kind and device in (None, b.device)]

    def allocate(self, kind: cudaMemoryType, device: int, size: int) -> int:
        """Address of new memory, filled with 0xFF."""
        storage = np.full(size + ALIGNMENT + _GUARD_BYTES, _FRESH, np.uint8)
        address = -(-storage.ctypes.data // ALIGNMENT) * ALIGNMENT
        end = address + size - storage.ctypes.data
        storage[end : end + _GUARD_BYTES] = _GUARD
        place = bisect.bisect(self._addresses, address)
        self._addresses.insert(place, address)
        self._blocks.insert(place, Block(kind, device, address, size, storage))
        return address

    def free(self, kind: cudaMemoryType, address: int) -> None:
        """Overwrite and forget an allocation."""
        block = self.find(address)
        if block is None or block.address != address:
            raise CudaFault(f"{address:#x} is freed, and no allocation begins there")
        if not block.live:
            raise CudaFault(f"{block} is freed twice")
        if block.kind != kind:
            raise CudaFault(f"{block} is freed by the function of the other kind")
        block.check_guard()
        block.bytes[:] = _FREED
        block.live = False

    def find(self, address: int) -> Block | None:
        """The allocation that an address lies in, or just past it; None for memory that CUDA does not know."""
        place = bisect.bisect(self._addresses, address) - 1
        if place < 0:
            return None
        block = self._blocks[place]
        return block if address < block.address + block.size + _GUARD_BYTES else None

    def view(self, address: int, size: int, what: str) -> np.ndarray:
        """Bytes of an allocation, or fault: it is none, it was freed, or they reach past its end."""
        block = self.find(address)
        if block is None:
            raise CudaFault(f"{what}: {address:#x} is neither device nor pinned memory")
        if not block.live:
            raise CudaFault(f"{what}: {block} is used after it was freed")
        start = address - block.address
        if start + size > block.size:
            raise CudaFault(f"{what}: bytes {start} to {start + size} are out of bounds of {block}")
        return block.bytes[start : start + size]

    def is_pageable(self, address: int) -> bool:
        """Host memory of somebody else, such as an array of NumPy."""
        return self.find(address) is None

    def ends(self, target: int, source: int, size: int, kind: Any) -> tuple[np.ndarray, np.ndarray]:
        """Bytes of the target and of the source of a copy, or fault: out of bounds, freed, or not of that kind."""
        on_device = _ENDS[cudaMemcpyKind(kind)]
        return (
            self._end(target, size, on_device[0], "target of a copy"),
            self._end(source, size, on_device[1], "source of a copy"),
        )

    def _end(self, address: int, size: int, on_device: bool | None, what: str) -> np.ndarray:
        block = self.find(address)
        if block is None and not on_device:
            if not address:
                raise CudaFault(f"{what}: null pointer")
            return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        found = self.view(address, size, what)
        if block is not None and on_device is not None and (block.kind == DEVICE) != on_device:
            raise CudaFault(f"{what}: {block} is on the other side of what the kind of copy says")
        return found
