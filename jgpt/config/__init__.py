"""Run configuration: frozen dataclasses that hold every default, checked by the class that owns the fields.

Owns names, defaults and rules. Holds only data: imports no jax, no model and no tokenizer, so that `--help` is
instant and a config can be read anywhere. `None` means off or "derived"; names carry units.
"""

import dataclasses
from dataclasses import dataclass

from jgpt.check import require
from jgpt.config.data import COLUMNS, AugmentConfig, DataConfig, TaskConfig, TokenizerConfig
from jgpt.config.model import ModelConfig, PictureGrid
from jgpt.config.training import (
    CheckpointConfig,
    DistributedConfig,
    EvalConfig,
    MeshConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "COLUMNS",
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DistributedConfig",
    "EvalConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "PictureGrid",
    "RunConfig",
    "TaskConfig",
    "TokenizerConfig",
    "TrainConfig",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `configs/*.py` each hold one, as `get_config()`."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    mesh: MeshConfig = MeshConfig()
    distributed: DistributedConfig = DistributedConfig()

    def __post_init__(self) -> None:
        require(
            self.optim.warmup_steps <= self.train.steps,
            f"optim.warmup_steps {self.optim.warmup_steps} exceeds train.steps {self.train.steps}: the peak rate would "
            "never be reached; lower optim.warmup_steps (--optim.warmup-steps), or train for longer.",
        )
        rows = self.train.batch_size // self.train.accumulation_steps
        shards = self.mesh.row_shards
        require(
            rows % shards == 0,
            f"train.batch_size / accumulation_steps = {rows} rows cannot be split over mesh.slice x mesh.data x mesh.fsdp x "
            f"mesh.expert = {shards} devices: use a multiple.",
        )
        self._check_experts()
        require(
            self.mesh.context == 1 or self.model.attention == "auto",
            f"model.attention is {self.model.attention!r}, and mesh.context is {self.mesh.context}: rows that are cut have an "
            "attention of their own; leave model.attention at auto.",
        )
        cuts = 2 * self.mesh.context if self.mesh.context > 1 else 1
        require(
            self.model.context_length % cuts == 0,
            f"model.context_length {self.model.context_length} cannot be cut into 2 x mesh.context = {cuts} stretches, two a "
            "device: use a multiple.",
        )
        require(
            self.eval.stride is None or self.eval.stride <= self.model.context_length,
            f"eval.stride is {self.eval.stride}: windows of model.context_length {self.model.context_length} tokens must "
            "not move on by more than their length; use half of it, for instance.",
        )
        require(
            self.data.path is None or bool(self._readers()),
            f"data.path {self.data.path!r} is for the only task, or for those that read the user's data, and this config has "
            f"{len(self.data.tasks)} with sources of their own ({', '.join(self.data.tasks)}): use --data.tasks.NAME.path.",
        )
        require(
            self.tokenizer.image != "none" or all(task.kind != "image" for task in self.data.tasks.values()),
            "data.tasks holds an image task but tokenizer.image is 'none': use 'grey' or 'palette'.",
        )

    def _check_experts(self) -> None:
        experts, shards = self.model.num_experts, self.mesh.expert
        require(
            (experts or 1) % shards == 0,
            f"mesh.expert is {shards}, over which model.num_experts {experts or 0} cannot be spread evenly: use a divisor, or "
            "1.",
        )
        require(
            self.model.expert_capacity is None or shards > 1,
            f"model.expert_capacity is {self.model.expert_capacity}, and mesh.expert {shards}: no token leaves its device and "
            "none is dropped; leave it out, or spread the experts.",
        )
        for name in ("load_balance_loss", "router_z_loss"):
            given, default = getattr(self.train, name), getattr(TrainConfig, name)
            require(
                experts is not None or given == default,
                f"train.{name} is {given}, and there is no router: set model.num_experts, or leave it out.",
            )

    def task_configs(self) -> dict[str, TaskConfig]:
        """The tasks, those with `data.path` that read it."""
        read = {} if self.data.path is None else dict.fromkeys(self._readers(), self.data.path)
        return {
            name: dataclasses.replace(task, path=read[name]) if name in read else task
            for name, task in self.data.tasks.items()
        }

    def _readers(self) -> list[str]:
        """Return which tasks read `data.path`: the only one, else those of the user's data that have no path of their own."""
        tasks = self.data.tasks
        if len(tasks) == 1:
            return list(tasks)
        return [name for name, task in tasks.items() if task.source == "path" and task.path is None]
