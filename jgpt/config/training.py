"""How a run is trained, scored, saved and laid over devices."""

from dataclasses import dataclass
from typing import Literal

from jgpt.check import require


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run lives and what to do if it is already there."""

    dir: str = "runs/unnamed"
    """Folder of the run: config, metrics, tokenizer, checkpoints, plots."""
    on_existing: Literal["resume", "overwrite", "extend"] = "resume"
    """resume: go on, refuse a changed config; overwrite: delete and start over; extend: go on with more train.steps."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and schedule."""

    name: Literal["adamw", "muon"] = "muon"
    peak_lr: float = 0.02
    """Learning rate at the end of warmup: of every parameter (adamw), of the hidden matrices (muon)."""
    adam_lr: float = 0.005
    """muon only: peak learning rate of what Adam updates (embeddings, head, norms, biases)."""
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    momentum: float = 0.95
    """muon only: Nesterov momentum of the hidden matrices."""
    newton_schulz_steps: int = 5
    """muon only: iterations of the orthogonalisation."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices; norms and biases are never decayed."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "linear"
    warmup_steps: int = 20
    final_lr_fraction: float = 0.0
    """linear, cosine and wsd: learning rate at the last step as a share of the peak."""
    decay_fraction: float = 0.2
    """wsd only: share of the steps, at the end, over which the rate falls."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the parameters, used for evaluation and sampling."""

    def __post_init__(self) -> None:
        for name in ("peak_lr", "adam_lr", "epsilon"):
            require(getattr(self, name) > 0, f"optim.{name} is {getattr(self, name)}: must be positive.")
        for name in ("b1", "b2", "momentum"):
            require(0 <= getattr(self, name) < 1, f"optim.{name} is {getattr(self, name)}: must lie in [0, 1).")
        require(self.weight_decay >= 0, f"optim.weight_decay is {self.weight_decay}: must not be negative.")
        require(self.warmup_steps >= 0, f"optim.warmup_steps is {self.warmup_steps}: must not be negative.")
        require(self.newton_schulz_steps >= 1, f"optim.newton_schulz_steps is {self.newton_schulz_steps}: at least 1.")
        require(0 <= self.final_lr_fraction <= 1, f"optim.final_lr_fraction is {self.final_lr_fraction}: in [0, 1].")
        require(0 < self.decay_fraction <= 1, f"optim.decay_fraction is {self.decay_fraction}: must lie in (0, 1].")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"optim.clip_norm is {self.clip_norm}: must be positive, or None for off.",
        )
        require(
            self.ema_decay is None or 0 < self.ema_decay < 1,
            f"optim.ema_decay is {self.ema_decay}: must lie in (0, 1), or be None for off.",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length and size of training."""

    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 16
    """Rows per optimizer step, over all devices and accumulation steps."""
    accumulation_steps: int = 1
    """Micro-batches a step; gradients are token-weighted sums, so that the result does not depend on this, but for what is
    drawn or counted in each micro-batch by itself: dropout, and the balance of experts."""
    seed: int = 0
    z_loss: float = 0.0
    """Weight of the squared log-normaliser (PaLM, section 5); 0 is off."""
    load_balance_loss: float = 0.01
    """With experts: weight of what keeps them evenly used (Switch Transformer, equation 4), of each micro-batch; 0 is off."""
    router_z_loss: float = 0.001
    """With experts: weight of the squared log-normaliser of the router (ST-MoE, equation 5); 0 is off."""
    loss_chunk_tokens: int | None = None
    """Tokens whose logits stand in memory at once; None = all where they are small, else chosen by the vocabulary."""
    logits_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which logits wait between two passes of the loss. bfloat16 halves what a training step reads and writes there,
    and rounds each logit by up to 1/512 of it, as PyTorch's autocast does; held-out data are scored in float32 either way."""
    log_every_steps: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation_steps", "log_every_steps"):
            require(getattr(self, name) >= 1, f"train.{name} is {getattr(self, name)}: must be at least 1.")
        require(
            self.batch_size % self.accumulation_steps == 0,
            f"train.batch_size {self.batch_size} is not divisible by train.accumulation_steps {self.accumulation_steps}.",
        )
        require(self.seed >= 0, f"train.seed is {self.seed}: must not be negative.")
        for name in ("z_loss", "load_balance_loss", "router_z_loss"):
            require(getattr(self, name) >= 0, f"train.{name} is {getattr(self, name)}: must not be negative.")
        require(
            self.loss_chunk_tokens is None or self.loss_chunk_tokens >= 1,
            f"train.loss_chunk_tokens is {self.loss_chunk_tokens}: must be at least 1, or None for automatic.",
        )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Validation while training and at its end."""

    every_steps: int = 250
    """Steps between exact losses over the whole held-out splits, each with a sample."""
    batch_size: int | None = None
    """Rows per evaluation batch; None = train.batch_size."""
    stride: int | None = None
    """Text is finally scored also in windows of the whole context that move on by this many tokens, so that no token but a
    document's first ones is predicted from less than context_length - stride others; None = only in rows that each begin
    without a past."""
    max_questions: int | None = None
    """Held-out questions of a task that are answered for the final scores, drawn by train.seed; None = all."""
    samples: bool = True
    """Sample at every validation and in the report, and answer held-out questions there. Several processes need a copy of the
    whole model on each one's own devices for it; without, likelihoods alone are scored, on the mesh."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, f"eval.every_steps is {self.every_steps}: must be at least 1.")
        for name in ("batch_size", "stride", "max_questions"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"eval.{name} is {value}: must be at least 1, or None.")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept."""

    every_steps: int = 250
    keep_latest: int = 2
    """Newest checkpoints kept."""
    keep_best: int = 1
    """Steps of lowest validation loss kept as well; where this is not 0, every step that is validated is saved."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, f"checkpoint.every_steps is {self.every_steps}: must be at least 1.")
        require(
            self.keep_latest >= 1,
            f"checkpoint.keep_latest is {self.keep_latest}: at least 1, else a run cannot resume.",
        )
        require(self.keep_best >= 0, f"checkpoint.keep_best is {self.keep_best}: must not be negative.")


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How devices are laid out; the product of the axes must equal the number of devices used."""

    slice: int = 1
    """Slices or pods, each with a copy of the model and its own rows; gradients alone cross the network between them."""
    data: int | None = None
    """Copies of the model, each with its own rows; None = all devices that the other axes leave."""
    fsdp: int = 1
    """Devices over which parameters, optimizer state and rows are sharded."""
    expert: int = 1
    """Devices over which the experts of each layer, and rows, are sharded."""
    context: int = 1
    """Devices over which each row is cut."""
    tensor: int = 1
    """Devices over which heads, MLP and vocabulary are sharded."""
    slice_reduction: Literal["float32", "bfloat16"] = "float32"
    """Type in which gradients are summed between slices, once a step: bfloat16 halves what crosses the network."""

    @property
    def row_shards(self) -> int:
        """Into how many parts the rows of a batch are split; at least, where `data` is not given."""
        return self.slice * (self.data or 1) * self.fsdp * self.expert

    def __post_init__(self) -> None:
        for name in ("slice", "data", "fsdp", "expert", "context", "tensor"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"mesh.{name} is {value}: must be at least 1.")
        require(
            self.slice_reduction == "float32" or self.slice > 1,
            f"mesh.slice_reduction is {self.slice_reduction!r}, and mesh.slice {self.slice}: there is nothing to sum between "
            "slices; leave it out.",
        )


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How this process finds the others; one process alone needs none of it.

    Slurm, Open MPI, Kubernetes (indexed jobs) and TPU pods are recognised. Elsewhere give the first three, or set
    JGPT_COORDINATOR, JGPT_NUM_PROCESSES and JGPT_PROCESS_ID. They are not part of what a run computes, nor saved with it.
    """

    coordinator: str | None = None
    """HOST:PORT on which process 0 listens and which all can reach."""
    num_processes: int | None = None
    process_id: int | None = None
    """0 to num_processes - 1, each once."""
    start_seconds: int = 300
    """How long to wait at the start until all processes are there."""
    heartbeat_seconds: int = 20
    """How long a process may be silent until the others take it for dead and end."""
    stall_seconds: int | None = 3600
    """How long all may be at the same step, validation or checkpoint until they end; None = for ever."""

    def __post_init__(self) -> None:
        require(
            self.coordinator is None or self.coordinator.rpartition(":")[2].isdecimal() and ":" in self.coordinator,
            f"distributed.coordinator is {self.coordinator!r}: must be HOST:PORT, such as 10.0.0.1:8476.",
        )
        for name, least in (("num_processes", 1), ("process_id", 0)):
            value = getattr(self, name)
            require(value is None or value >= least, f"distributed.{name} is {value}: must be at least {least}.")
        require(
            self.process_id is None or self.num_processes is None or self.process_id < self.num_processes,
            f"distributed.process_id is {self.process_id} of {self.num_processes} processes: ids begin at 0.",
        )
        require(self.start_seconds >= 1, f"distributed.start_seconds is {self.start_seconds}: must be at least 1.")
        require(
            self.heartbeat_seconds >= 4,
            f"distributed.heartbeat_seconds is {self.heartbeat_seconds}: must be at least 4.",
        )
        require(
            self.stall_seconds is None or self.stall_seconds >= self.heartbeat_seconds,
            f"distributed.stall_seconds is {self.stall_seconds}: must be at least distributed.heartbeat_seconds, "
            f"{self.heartbeat_seconds}.",
        )
