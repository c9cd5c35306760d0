"""Eight CPU devices for every test, no silent broadcasting between ranks, and one key.

JGPT_TEST_PLATFORM=cuda (or tpu) runs the same tests on that platform's own devices. jgpt is not imported here: the
jaxtyping hook must stand before the package loads.
"""

import atexit
import os
import shutil
import tempfile

PLATFORM = os.environ.get("JGPT_TEST_PLATFORM", "cpu")
DEVICES = 8

os.environ["JAX_PLATFORMS"] = PLATFORM
if PLATFORM == "cpu":
    # unoptimised code: the suite compiles far longer than it computes
    flags = f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}".strip()
else:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the workers share the device

# What is compiled in a test is kept for that test session alone, and shared by its workers, which inherit the name. Where one
# reads what another is writing, jax warns and compiles.
OWN = "JGPT_TEST_CACHE"
if OWN not in os.environ:
    os.environ[OWN] = tempfile.mkdtemp(prefix="jgpt-tests-")
    atexit.register(shutil.rmtree, os.environ[OWN], ignore_errors=True)
os.environ["XDG_CACHE_HOME"] = os.environ[OWN]

import jax  # noqa: E402 - reads the environment when it is imported
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.path.join(os.environ[OWN], "programs"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture
def key() -> jax.Array:
    """Return a fixed PRNG key."""
    return jax.random.key(0)
