"""The dimension key: what every axis of the model is.

Owns the letter, the logical name and the meaning of every axis. Arrays in the core carry the letters as a suffix
(`q_BSHK`), parameters carry the logical names, and `layout.RULES` maps the logical names to mesh axes. What one module
alone has (matrices of an optimizer, candidates of a sampler, blocks of rows) that module names itself.
"""

from typing import Final, NamedTuple


class Axis(NamedTuple):
    """One dimension of the model: its letter in variable names, its logical name in the sharding rules, its meaning."""

    letter: str
    name: str
    meaning: str


BATCH: Final = Axis("B", "batch", "sequences, over all devices")
SEQ: Final = Axis("S", "seq", "positions being computed (queries)")
KV_SEQ: Final = Axis("T", "kv_seq", "positions attended to (keys, values; cache length)")
EMBED: Final = Axis("D", "embed", "residual width")
HEADS: Final = Axis("H", "heads", "query heads")
KV_HEADS: Final = Axis("G", "kv_heads", "key-value heads")
HEAD_DIM: Final = Axis("K", "head_dim", "width of one head")
MLP: Final = Axis("F", "mlp", "hidden width of the MLP")
VOCAB: Final = Axis("V", "vocab", "token ids")
LAYERS: Final = Axis("L", "layers", "blocks")
MICROBATCH: Final = Axis("M", "microbatch", "accumulation steps")
TOKENS: Final = Axis("N", "tokens", "positions of all rows, one after the other: see layout.flatten")
NORM: Final = Axis("U", "norm", "entries of a scale or bias: as wide as what they scale, never sharded")
GATE_INPUT: Final = Axis("I", "gate_input", "channels that the gates of attention's heads read")
BACK: Final = Axis("W", "back", "tokens before each, that a convolution reaches")
POSITION: Final = Axis("P", "position", "rows of the learned position table")
NGRAM: Final = Axis("R", "ngram", "rows of an n-gram table")
GATE: Final = Axis("C", "gate", "branches of a gated MLP (gate, value)")
EXPERTS: Final = Axis("E", "experts", "experts of a mixture")
CHOICE: Final = Axis(
    "J", "choice", "experts that a router chooses from: never sharded, every device routes its own tokens"
)

AXES: Final = {
    axis.name: axis
    for axis in (
        BATCH, SEQ, KV_SEQ, EMBED, HEADS, KV_HEADS, HEAD_DIM, MLP, VOCAB, LAYERS, MICROBATCH, NORM, POSITION, GATE,
        NGRAM, EXPERTS, CHOICE, BACK, GATE_INPUT, TOKENS,
    )
}  # fmt: skip
