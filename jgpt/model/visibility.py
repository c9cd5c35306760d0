"""Who may see whom: causality, documents, windows and sparse patterns, as one rule that every attention computes.

Owns the rule and its mask; refuses to attend.
"""

from typing import Final, NamedTuple

from jaxtyping import Array, Bool, Int

from jgpt.check import require

MASKED: Final = -1e30  # score of a key that is not seen; finite, so that a row without any visible key stays finite too


class Pattern(NamedTuple):
    """A sparse pattern over rows and columns (Child et al. 2019, section 4.3), on the positions within a document.

    strided: of all keys not later, those less than `stride` away (the row that leads up to the query), and those whose
    distance is a multiple of it (the column above). The paper's equation for A(1) and A(2), both in one head.
    fixed: those in the same block of `stride` positions, and the last `summary` positions of every earlier block.

    Worked example, stride 3: the query at position 7 sees 1 4 5 6 7 in the strided pattern, and 2 5 6 7 in the fixed one.

    Attributes:
        kind: "strided" or "fixed".
        stride: length of a row or block [tokens].
        summary: fixed only: positions at the end of a block that later queries see.
    """

    kind: str
    stride: int
    summary: int = 1

    def mask(self, q_positions_BS1: Int[Array, "B S 1"], kv_positions_B1T: Int[Array, "B 1 T"]) -> Bool[Array, "B S T"]:
        """Return true where the pattern lets the query see the key; keys that are later are left to others."""
        stride = self.stride
        if self.kind == "strided":
            distance_BST = q_positions_BS1 - kv_positions_B1T
            return (distance_BST < stride) | (distance_BST % stride == 0)
        same_BST = q_positions_BS1 // stride == kv_positions_B1T // stride
        return same_BST | (kv_positions_B1T % stride >= stride - self.summary)


class Visibility(NamedTuple):
    """What decides which keys a query sees: not later, in the same segment, in the window, and in the pattern.

    Worked example, one row packed with documents of 2 and 3 tokens: positions 0 1 0 1 2, segments 1 1 2 2 2; the query
    at index 3 sees index 2 and 3 alone. With window 2 the query at index 4 sees index 3 and 4. Patterns: see `Pattern`.

    Attributes:
        q_positions_BS: position of each query in its document.
        kv_positions_BT: position of each key.
        q_segments_BS: document of each query; None where every row is one document.
        kv_segments_BT: document of each key; None as above.
        window: keys seen at most, the query's own included [tokens]; None for all.
        pattern: sparse pattern; None for all.
        q_real_BS: false where a token only pads the end of its row, or stands past the end of the cache: its key is not kept
            for later queries; None where there is none such.
        documents: that a row holds at most; None where nobody knows.
    """

    q_positions_BS: Int[Array, "B S"]
    kv_positions_BT: Int[Array, "B T"]
    q_segments_BS: Int[Array, "B S"] | None = None
    kv_segments_BT: Int[Array, "B T"] | None = None
    window: int | None = None
    pattern: Pattern | None = None
    q_real_BS: Bool[Array, "B S"] | None = None
    documents: int | None = None

    def mask(self) -> Bool[Array, "B S T"]:
        """Return true where the query at S sees the key at T. Raises ValueError where only one side has segments."""
        distance_BST = self.q_positions_BS[:, :, None] - self.kv_positions_BT[:, None, :]
        mask_BST = distance_BST >= 0
        if self.window is not None:
            mask_BST &= distance_BST < self.window
        if self.pattern is not None:
            mask_BST &= self.pattern.mask(self.q_positions_BS[:, :, None], self.kv_positions_BT[:, None, :])
        require(
            (self.q_segments_BS is None) == (self.kv_segments_BT is None),
            "segments are given of queries or of keys alone: give both, or documents would see each other.",
        )
        if self.q_segments_BS is not None and self.kv_segments_BT is not None:
            mask_BST &= self.q_segments_BS[:, :, None] == self.kv_segments_BT[:, None, :]
        return mask_BST
