"""Run configuration: frozen dataclasses that hold every default, checked by the class that owns the fields.

Owns names, defaults and rules. Holds only data: imports no jax, no model and no tokenizer, so that `--help` is
instant and a config can be read anywhere. `None` means off or "derived"; names carry units.
"""

import dataclasses
from dataclasses import dataclass, field
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
class ModelConfig:
    """One decoder-only transformer (pre-norm). Presets that name the papers stand in `jgpt.presets`."""

    num_layers: int = 4
    embed_dim: int = 128
    num_heads: int = 4
    num_kv_heads: int | None = None
    """Key-value heads: None = num_heads (multi-head), 1 = multi-query, between = grouped-query."""
    head_dim: int | None = None
    """Width of one head; None = embed_dim / num_heads."""
    mlp_dim: int | None = None
    """Hidden width of the MLP; None = 4 embed_dim (swiglu: 8/3 embed_dim, rounded up to a multiple of 8)."""
    context_length: int = 256
    """Longest row in training and longest prompt plus answer in sampling [tokens]."""
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    norm_epsilon: float = 1e-5
    positions: Literal["learned", "rotary", "none"] = "rotary"
    rope_base: float = 10_000.0
    rotary_fraction: float = 1.0
    """Share of each head's channels that rotary positions turn; the rest match by content at any distance."""
    ngrams: tuple[int, ...] = ()
    """Lengths of the n-grams whose hashed embeddings are added to the token's, e.g. (2, 3) for bytes; () is off."""
    ngram_rows: int = 8192
    """Rows of each n-gram table."""
    ngram_ids: int | None = None
    """Ids below this have n-grams; None = those that stand for text: n-grams of pixels invite learning by heart."""
    mlp: Literal["gelu", "swiglu", "relu2"] = "relu2"
    use_bias: bool = False
    qk_norm: bool = True
    windows: tuple[int | None, ...] = (None,)
    """Sliding windows [tokens], repeated over the layers: (None,) full attention, (64, None) every other layer local."""
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    tie_embeddings: bool = False
    dropout: float = 0.0
    init: Literal["gpt2", "zero", "half"] = "zero"
    """gpt2: N(0, 0.02), residual outputs scaled by 1/sqrt(2 L). zero, half: 1/sqrt(fan_in), residual outputs at zero, or
    at half of that, so that layers which must work together have a gradient from the first step."""
    attention: Literal["auto", "einsum", "blocked", "xla", "cudnn"] = "auto"
    """Backend of attention; auto chooses by device and shape."""
    scan_layers: bool = False
    """Compile one block and loop over it: quick to compile when deep, slower per step on CPU."""
    remat: Literal["none", "full", "dots"] = "none"
    """What the backward pass recomputes: nothing, whole blocks, or all but matrix products."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of activations; auto = float32 on CPU (bf16 is slower there), bfloat16 on accelerators."""
    vocab_multiple: int = 8
    """The vocabulary is padded up to a multiple of this, so that it can be sharded."""
    vocab_size: int | None = None
    """Rows of the embedding; None = derived from the tokenizer when the run starts."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "embed_dim", "num_heads", "context_length", "vocab_multiple"):
            require(getattr(self, name) >= 1, f"model.{name} is {getattr(self, name)}: must be at least 1.")
        for name in ("head_dim", "mlp_dim", "rope_base", "norm_epsilon"):
            value = getattr(self, name)
            require(value is None or value > 0, f"model.{name} is {value}: must be positive.")
        require(
            self.head_dim is not None or self.embed_dim % self.num_heads == 0,
            f"model.embed_dim {self.embed_dim} is not divisible by model.num_heads {self.num_heads}: "
            "choose a multiple, or set model.head_dim.",
        )
        groups = self.kv_heads
        require(
            groups >= 1 and self.num_heads % groups == 0,
            f"model.num_kv_heads {groups} must divide model.num_heads {self.num_heads}: each key-value head serves "
            "a whole group of query heads.",
        )
        require(
            self.positions != "rotary" or self.width_of_head % 2 == 0,
            f"model.head_dim {self.width_of_head} is odd: rotary positions turn pairs of channels; use an even one.",
        )
        require(0 <= self.rotary_fraction <= 1, f"model.rotary_fraction is {self.rotary_fraction}: must lie in [0, 1].")
        require(len(self.windows) >= 1, "model.windows is empty: use (None,) for full attention.")
        for window in self.windows:
            require(
                window is None or 1 <= window <= self.context_length,
                f"model.windows holds {window}: a window must lie between 1 and model.context_length "
                f"{self.context_length}, or be None for full attention.",
            )
        for n in self.ngrams:
            require(2 <= n <= 16, f"model.ngrams holds {n}: an n-gram has 2 to 16 tokens.")
        require(self.ngram_rows >= 2, f"model.ngram_rows is {self.ngram_rows}: must be at least 2.")
        require(0.0 <= self.dropout < 1.0, f"model.dropout is {self.dropout}: must lie in [0, 1).")
        for name in ("attention_softcap", "logit_softcap"):
            cap = getattr(self, name)
            require(cap is None or cap > 0, f"model.{name} is {cap}: must be positive, or None for off.")
        require(
            self.attention_softcap is None or self.attention not in ("xla", "cudnn"),
            f"model.attention_softcap {self.attention_softcap} is not supported by model.attention {self.attention!r}: "
            "use auto, einsum or blocked.",
        )

    @property
    def kv_heads(self) -> int:
        """Number of key-value heads G."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def width_of_head(self) -> int:
        """Width of one head K."""
        return self.embed_dim // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def hidden_dim(self) -> int:
        """Hidden width of the MLP F."""
        if self.mlp_dim is not None:
            return self.mlp_dim
        return 4 * self.embed_dim if self.mlp != "swiglu" else -(-8 * self.embed_dim // 3 // 8) * 8

    def window_of(self, layer: int) -> int | None:
        """Sliding window of a layer [tokens], None for full attention."""
        return self.windows[layer % len(self.windows)]


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Which ids exist: one joint vocabulary of special, text and image ids."""

    text: Literal["bytes", "characters", "bpe"] = "bytes"
    bpe_vocab_size: int = 4096
    """Entries of a BPE trained on the run's training text."""
    path: str | None = None
    """bpe only: a tokenizer.json to use instead of training one."""
    image: Literal["none", "grey", "palette"] = "none"
    image_levels: int = 16
    """Grey levels, or colours of the k-means palette."""

    def __post_init__(self) -> None:
        require(
            self.bpe_vocab_size > 256,
            f"tokenizer.bpe_vocab_size is {self.bpe_vocab_size}: 256 bytes come first; use more.",
        )
        require(
            self.path is None or self.text == "bpe",
            f"tokenizer.path {self.path!r} is a BPE, but tokenizer.text is {self.text!r}: use --tokenizer.text bpe.",
        )
        require(
            2 <= self.image_levels <= 65_536,
            f"tokenizer.image_levels is {self.image_levels}: must lie between 2 and 65536.",
        )


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One kind of work in the mixture."""

    kind: Literal["text", "qa", "image"]
    source: str
    """Name in jgpt.data.sources.SOURCES, `tfds:NAME`, or `path` to read TaskConfig.path."""
    path: str | None = None
    """File or folder that replaces the source."""
    weight: float = 1.0
    """Share of the training rows, relative to the other tasks."""
    loss_weight: float = 1.0
    """Factor on the loss weight of this task's targets in training; scores ignore it."""
    start: float = 0.0
    """Share of the run's steps done before this task joins the mixture: what is learned best alone comes first."""
    validation_fraction: float = 0.1
    """Share of documents held out where the source brings no split of its own."""

    def __post_init__(self) -> None:
        require(
            self.weight > 0, f"data.tasks.*.weight is {self.weight}: must be positive; drop the task to leave it out."
        )
        require(self.loss_weight > 0, f"data.tasks.*.loss_weight is {self.loss_weight}: must be positive.")
        require(0 <= self.start < 1, f"data.tasks.*.start is {self.start}: a share of the steps, in [0, 1).")
        require(
            0 < self.validation_fraction < 1,
            f"data.tasks.*.validation_fraction is {self.validation_fraction}: must lie strictly between 0 and 1.",
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The mixture of tasks and how it is read."""

    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    path: str | None = None
    """File or folder that replaces the source of a config with a single task."""
    encoding: str = "utf-8"
    """Encoding of text files."""
    tfds_dir: str | None = None
    """Folder of prepared TFDS data sets; None = $TFDS_DATA_DIR, then the TFDS default."""
    prefetch_batches: int = 4
    """Batches made ahead of the step by a background thread."""

    def __post_init__(self) -> None:
        require(self.prefetch_batches >= 1, f"data.prefetch_batches is {self.prefetch_batches}: must be at least 1.")
        for name in self.tasks:
            require(name.isidentifier(), f"data.tasks has a task named {name!r}: names must be Python identifiers.")
        starts = {name: task.start for name, task in self.tasks.items()}
        require(
            not starts or 0 in starts.values(), f"data.tasks.*.start is {starts}: at least one task must start at 0."
        )


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
    """Learning rate at the last step as a share of the peak."""
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
    """Micro-batches a step; gradients are token-weighted sums, so the result does not depend on this."""
    seed: int = 0
    z_loss: float = 0.0
    """Weight of the squared log-normaliser (PaLM, section 5); 0 is off."""
    loss_chunk_tokens: int | None = None
    """Tokens whose logits stand in memory at once; None = all where they are small, else chosen by the vocabulary."""
    log_every_steps: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation_steps", "log_every_steps"):
            require(getattr(self, name) >= 1, f"train.{name} is {getattr(self, name)}: must be at least 1.")
        require(
            self.batch_size % self.accumulation_steps == 0,
            f"train.batch_size {self.batch_size} is not divisible by train.accumulation_steps {self.accumulation_steps}.",
        )
        require(self.seed >= 0, f"train.seed is {self.seed}: must not be negative.")
        require(self.z_loss >= 0, f"train.z_loss is {self.z_loss}: must not be negative.")
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
    max_questions: int | None = None
    """Held-out questions answered for the final scores; None = all."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, f"eval.every_steps is {self.every_steps}: must be at least 1.")
        for name in ("batch_size", "max_questions"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"eval.{name} is {value}: must be at least 1, or None.")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept."""

    every_steps: int = 250
    keep_latest: int = 2
    """Newest checkpoints kept; the best by validation loss is kept as well."""
    keep_best: int = 1

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

    data: int | None = None
    """Copies of the model, each with its own rows; None = all devices that fsdp and tensor leave."""
    fsdp: int = 1
    """Devices over which parameters, optimizer state and rows are sharded."""
    tensor: int = 1
    """Devices over which heads, MLP and vocabulary are sharded."""

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "tensor"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"mesh.{name} is {value}: must be at least 1.")


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

    def __post_init__(self) -> None:
        require(
            self.optim.warmup_steps <= self.train.steps,
            f"optim.warmup_steps {self.optim.warmup_steps} exceeds train.steps {self.train.steps}: the peak rate would "
            "never be reached; lower optim.warmup_steps.",
        )
        rows = self.train.batch_size // self.train.accumulation_steps
        shards = (self.mesh.data or 1) * self.mesh.fsdp
        require(
            rows % shards == 0,
            f"train.batch_size / accumulation_steps = {rows} rows cannot be split over mesh.data x mesh.fsdp = {shards} "
            "devices: use a multiple.",
        )
        require(
            self.data.path is None or len(self.data.tasks) == 1,
            f"data.path {self.data.path!r} replaces the source of a single task, and this config has "
            f"{len(self.data.tasks)} ({', '.join(self.data.tasks)}): use --data.tasks.NAME.path.",
        )
        require(
            self.tokenizer.image != "none" or all(task.kind != "image" for task in self.data.tasks.values()),
            "data.tasks holds an image task but tokenizer.image is 'none': use 'grey' or 'palette'.",
        )

    def task_configs(self) -> dict[str, TaskConfig]:
        """The tasks with `data.path` applied to the single one it replaces."""
        if self.data.path is None:
            return dict(self.data.tasks)
        return {name: dataclasses.replace(task, path=self.data.path) for name, task in self.data.tasks.items()}
