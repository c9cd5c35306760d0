"""The architecture: one decoder-only transformer, and the rules its numbers obey.

Presets that name the papers stand in `jgpt.presets`.
"""

from dataclasses import dataclass
from typing import Literal

from jgpt.check import require


@dataclass(frozen=True, kw_only=True)
class PictureGrid:
    """How the tokens of a picture lie behind its marker: cell by cell, in raster order.

    Attributes:
        start_id: id of the marker `<|image|>`.
        width: cells in a row.
        cells: of a picture.
        tokens_per_cell: 1, or 3 where each channel has its own.
    """

    start_id: int
    width: int
    cells: int
    tokens_per_cell: int = 1


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One decoder-only transformer (pre-norm). Presets that name the papers stand in `jgpt.presets`."""

    num_layers: int = 4
    loops: int = 1
    """Times that the stack of layers is run, with the same weights: depth without parameters (Universal Transformer,
    Dehghani et al. 2019). Windows and patterns count all `num_layers x loops` passes."""
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
    positions: Literal["learned", "rotary", "rotary_2d", "none"] = "rotary"
    """rotary_2d: as rotary for text; within a picture half of the channel pairs turn by row and half by column."""
    rope_base: float = 10_000.0
    rotary_fraction: float = 1.0
    """Share of each head's channels that rotary positions turn; the rest match by content at any distance."""
    embedding_conv: int = 1
    """Width of a causal convolution of the token embeddings [tokens], channel by channel, so that the first block sees what
    stands before each token; 1 is off, 4 usual (as in Mamba, Gu and Dao 2023, there in every layer)."""
    ngrams: tuple[int, ...] = ()
    """Lengths of the n-grams whose hashed embeddings are added to the token's, e.g. (2, 3) for bytes; () is off."""
    ngram_rows: int = 8192
    """Rows of each n-gram table."""
    ngram_ids: int | None = None
    """Ids below this have n-grams; None = those that stand for text: n-grams of pixels invite learning by heart."""
    mlp: Literal["gelu", "swiglu", "relu2"] = "relu2"
    num_experts: int | None = None
    """Experts of each layer: MLPs without biases, each of `mlp_dim`, of which every token is computed by a few; None = one MLP
    for all."""
    experts_per_token: int = 2
    expert_capacity: float | None = None
    """Where experts are spread over devices (mesh.expert): rows that a device takes from each other one, as a multiple of the
    even share; what is sent beyond is dropped, so that the result depends on the mesh. None = room for all, none is dropped."""
    use_bias: bool = False
    qk_norm: bool = True
    attention_gates: bool = False
    """Each head's output times a gate between 0 and 2, computed from the first 16 channels that attention reads: a head with
    nothing to say can be silent (modded-nanogpt, Jordan et al. 2024)."""
    embedding_skips: bool = False
    """Each block begins with a mixture of the residual stream and the embeddings, two learned numbers a block (modded-nanogpt,
    Jordan et al. 2024)."""
    windows: tuple[int | None, ...] = (None,)
    """Sliding windows [tokens], repeated over the layers: (None,) full attention, (64, None) every other layer local."""
    patterns: tuple[Literal["full", "strided", "fixed"], ...] = ("full",)
    """Sparse attention (Child et al. 2019), repeated over the layers. strided: the last `pattern_stride` tokens, and before
    them every pattern_stride-th; fixed: the query's own block of `pattern_stride` tokens, and the ends of earlier blocks."""
    pattern_stride: int | None = None
    """Length of a row or block of sparse layers [tokens]; None = a row of the run's pictures."""
    pattern_summary: int = 1
    """fixed only: tokens at the end of each block that all later queries see."""
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    tie_embeddings: bool = False
    dropout: float = 0.0
    init: Literal["gpt2", "zero", "half"] = "zero"
    """gpt2: N(0, 0.02), residual outputs scaled by 1/sqrt(2 L). zero, half: 1/sqrt(fan_in), residual outputs at zero, or
    at 0.5/sqrt(embed_dim), so that layers which must work together have a gradient from the first step."""
    attention: Literal["auto", "einsum", "blocked", "xla", "cudnn"] = "auto"
    """Backend of attention; auto chooses by device and shape."""
    scan_layers: bool = False
    """Compile one block and loop over it: quick to compile when deep, slower per step on CPU."""
    remat: Literal["none", "full", "dots", "weights", "offload"] = "none"
    """What the backward pass recomputes. none: nothing; full: whole blocks; dots: all but matrix products; weights: all but
    products with weights, so that scores of attention are not kept either; offload: as weights, and what is kept waits in the
    host's memory."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of activations; auto = float32 on CPU (bf16 is slower there), bfloat16 on accelerators."""
    vocab_multiple: int = 8
    """The vocabulary is padded up to a multiple of this, so that it can be sharded."""
    vocab_size: int | None = None
    """Rows of the embedding; None = derived from the tokenizer when the run starts."""
    image_start_id: int | None = None
    """rotary_2d only, as the next three: id after which a picture begins; None = derived from the run's image task."""
    picture_width: int | None = None
    """Cells in a row of a picture; None = derived."""
    picture_cells: int | None = None
    """Cells of a picture; None = derived."""
    tokens_per_cell: int | None = None
    """Tokens of a cell, 3 where each channel has its own; None = derived."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "loops", "embed_dim", "num_heads", "context_length", "vocab_multiple"):
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
            self.positions not in ("rotary", "rotary_2d") or self.width_of_head % 2 == 0,
            f"model.head_dim {self.width_of_head} is odd: rotary positions turn pairs of channels; use an even one.",
        )
        require(0 <= self.rotary_fraction <= 1, f"model.rotary_fraction is {self.rotary_fraction}: must lie in [0, 1].")
        self._check_pictures()
        self._check_experts()
        require(len(self.windows) >= 1, "model.windows is empty: use (None,) for full attention.")
        for window in self.windows:
            require(
                window is None or 1 <= window <= self.context_length,
                f"model.windows holds {window}: a window must lie between 1 and model.context_length "
                f"{self.context_length}, or be None for full attention.",
            )
        self._check_patterns()
        require(
            1 <= self.embedding_conv <= 16,
            f"model.embedding_conv is {self.embedding_conv}: must lie between 1 (off) and 16 tokens.",
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

    def _check_pictures(self) -> None:
        names = ("image_start_id", "picture_width", "picture_cells", "tokens_per_cell")
        if self.positions != "rotary_2d":
            for name in names:
                value = getattr(self, name)
                require(
                    value is None,
                    f"model.{name} is {value}, which only model.positions 'rotary_2d' reads: leave it out.",
                )
            return
        pairs = round(self.width_of_head // 2 * self.rotary_fraction)
        require(
            pairs >= 2,
            f"model.head_dim {self.width_of_head} with model.rotary_fraction {self.rotary_fraction} turns {pairs} pairs of "
            "channels: rotary_2d needs at least one for rows and one for columns; use wider heads or a larger fraction.",
        )
        for name in names:
            value, least = getattr(self, name), int(name != "image_start_id")
            require(
                value is None or value >= least, f"model.{name} is {value}: must be at least {least}; leave it out."
            )
        require(
            self.picture_cells is None or self.picture_width is None or self.picture_cells % self.picture_width == 0,
            f"model.picture_cells {self.picture_cells} is no multiple of model.picture_width {self.picture_width}: a "
            "picture has whole rows; leave both out.",
        )

    def _check_experts(self) -> None:
        experts, chosen, capacity = self.num_experts, self.experts_per_token, self.expert_capacity
        if experts is None:
            require(
                chosen == 2 and capacity is None,
                f"model.experts_per_token is {chosen} and model.expert_capacity {capacity}, and there are no experts: set "
                "model.num_experts, or leave them out.",
            )
            return
        require(experts >= 2, f"model.num_experts is {experts}: must be at least 2, or None for one MLP.")
        require(
            1 <= chosen <= experts,
            f"model.experts_per_token is {chosen}: must lie between 1 and model.num_experts {experts}.",
        )
        require(
            capacity is None or capacity > 0,
            f"model.expert_capacity is {capacity}: must be positive (1.25, for instance), or None to drop nothing.",
        )

    def _check_patterns(self) -> None:
        require(len(self.patterns) >= 1, "model.patterns is empty: use ('full',) for full attention.")
        stride = self.pattern_stride
        for layer in range(self.depth):
            kind, window = self.patterns[layer % len(self.patterns)], self.window_of(layer)
            require(
                kind == "full" or window is None,
                f"layer {layer} has model.patterns {kind!r} and model.windows {window}: a layer has one or the other; put "
                "None into windows, or 'full' into patterns, at that layer's place.",
            )
        require(
            stride is None or self.is_sparse,
            f"model.pattern_stride is {stride}, but every layer of model.patterns is full: name a sparse pattern, or leave "
            "the stride out.",
        )
        require(
            stride is None or 1 <= stride <= self.context_length,
            f"model.pattern_stride is {stride}: must lie between 1 and model.context_length {self.context_length}.",
        )
        require(
            self.pattern_summary == 1 or "fixed" in self.patterns,
            f"model.pattern_summary is {self.pattern_summary}, but no layer of model.patterns is fixed: leave it at 1.",
        )
        require(
            1 <= self.pattern_summary <= (stride or self.pattern_summary),
            f"model.pattern_summary is {self.pattern_summary}: must lie between 1 and model.pattern_stride {stride}.",
        )

    @property
    def picture(self) -> PictureGrid | None:
        """How pictures lie in the tokens; None where the config does not say it all, as before it is resolved."""
        if None in (self.image_start_id, self.picture_width, self.picture_cells, self.tokens_per_cell):
            return None
        return PictureGrid(
            start_id=self.image_start_id or 0,
            width=self.picture_width or 1,
            cells=self.picture_cells or 1,
            tokens_per_cell=self.tokens_per_cell or 1,
        )

    @property
    def is_sparse(self) -> bool:
        """Whether any layer has a sparse pattern."""
        return any(kind != "full" for kind in self.patterns)

    @property
    def depth(self) -> int:
        """Blocks that a token passes: layers times loops."""
        return self.num_layers * self.loops

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
