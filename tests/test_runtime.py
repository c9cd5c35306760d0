"""The settings before jax: the allocator takes them, and a process that cannot have them runs all the same."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

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


ALLOCATED = """
import jgpt.runtime
jgpt.runtime.configure()
counts = [jgpt.runtime.allocated()]
block = bytearray(2**28)
counts.append(jgpt.runtime.allocated())
del block
counts.append(jgpt.runtime.allocated())
print(*("None" if n is None else n - counts[0] for n in counts))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_is_taken_and_freed_is_counted():
    out = subprocess.run([sys.executable, "-c", ALLOCATED], capture_output=True, text=True, check=True).stdout.split()
    if out[0] == "None":
        pytest.skip("this C library does not say")
    assert int(out[1]) >= 2**28 and int(out[2]) < 2**20


COMPILE = """
import jgpt.runtime
jgpt.runtime.configure()
import jax, jax.numpy as jnp
print(jax.jit(lambda x: jnp.sin(x) + 1)(jnp.zeros(3))[0])
"""


def compiled(home: Path, **settings: str) -> list[Path]:
    """Compile something with this cache folder; return what was kept."""
    settings = {"XDG_CACHE_HOME": str(home), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | settings
    # without what `configure` has set in this process, where another test has called it
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMP", "JAX_PERS"))}
    out = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True, env=inherited | settings
    )
    assert out.stdout.split() == ["1.0"]
    return sorted(path for path in home.rglob("*") if path.is_file()) if home.is_dir() else []


def test_compiled_programs_are_kept_for_the_next_process(tmp_path: Path):
    kept = compiled(tmp_path)
    assert kept and kept[0].relative_to(tmp_path).parts[0] == "jgpt"
    damaged = next(path for path in kept if path.name.endswith("-cache"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert compiled(tmp_path) == kept  # a damaged one is compiled anew


def test_without_a_place_for_compiled_programs_they_are_compiled_anew(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    assert compiled(tmp_path / "file") == []
    assert compiled(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false") == [tmp_path / "file"]


QUIET = """
import jgpt.runtime
jgpt.runtime.configure()
import jax
print(jax.default_backend())
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra [plan]")
def test_libtpu_says_nothing_where_there_is_no_tpu():
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_PLATFORMS", "TPU_"))}
    out = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True, env=inherited)
    assert out.stderr == ""
