"""GPUs that are not here, as XLA wants them described to compile for them.

Owns the description; numbers are Hopper's (NVIDIA's H100 architecture white paper; CUDA programming guide, compute capability
9.0), memory and bandwidth those of `devices`.
"""

from jgpt.check import require
from jgpt.plan.devices import Device

HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {memory}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""


def target(device: Device) -> str:
    """Return a GPU's description.

    Raises:
        ValueError: it is none that is known here.
    """
    require(
        device.name in ("h100", "h200"), f"{device.name} is no GPU that plans can be made for: use h100x8 or h200x8."
    )
    name = f"NVIDIA {device.name.upper()}"
    return HOPPER.format(bandwidth=int(device.bandwidth), memory=int(device.memory), name=name)
