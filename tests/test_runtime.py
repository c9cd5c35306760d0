"""The settings before jax: the allocator takes them, and a process that cannot have them runs all the same."""

import subprocess
import sys

import pytest

HUGE = """
import jgpt.runtime
agreed = jgpt.runtime.configure()
block = bytearray(2**28)
block[::4096] = b"1" * len(block[::4096])
flags, in_heap = [], False
for line in open("/proc/self/smaps"):
    in_heap = in_heap or line.rstrip().endswith("[heap]")
    if in_heap and line.startswith("VmFlags"):
        flags += line.split()[1:]
        in_heap = False
print(agreed, "hg" in flags, "jax" in __import__("sys").modules)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_heap_is_advised_to_use_huge_pages_and_jax_is_not_loaded():
    out = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=True).stdout.split()
    assert out[2] == "False"
    assert out[0] == out[1]  # what is returned is what the kernel says of the heap
