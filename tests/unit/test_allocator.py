"""Freed memory stays with the process: the second batch of large tensors costs no new pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from ffdist.runtime.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults_of_a_batch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(12 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(3):
    faults_of_a_batch()
print(faults_of_a_batch())
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux, whose glibc is told")
def test_kept_memory_is_used_again_without_page_faults() -> None:
    assert faults("keep") < faults("default") / 10


KEPT = """
import ctypes, resource
from ffdist.runtime.allocator import freed_memory_kept
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
SIZE = 48 * 2**20

def faults():
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        memory = libc.malloc(SIZE)
        ctypes.memset(memory, 1, SIZE)
        libc.free(memory)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

before = faults()
with freed_memory_kept():
    faults()
    within, held = faults(), resident()
behind = faults()
print(before, within, behind, held - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux, whose glibc is told")
def test_freed_memory_is_kept_within_and_given_back_after() -> None:
    """A large piece of memory that is freed and taken again costs no fresh pages within; behind it is as before."""
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True, timeout=120)
    before, within, behind, given_back = map(int, done.stdout.split())
    assert within < before / 100
    assert behind > before / 2
    assert given_back > 40 * 2**20
