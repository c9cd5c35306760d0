"""What may be asked of the sampler: how to draw (`Sampling`) and which ids may stand where (`Allowed`).

Owns their rules. Imports no jax, so that tasks can say what they allow and a command line can be parsed before an
accelerator is opened; `filters` and `sampler` do what is asked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import Bool, Int

from jgpt.check import require

LARGEST: Final = 1e6  # of temperature and penalty: far beyond any use, and far from where f32 overflows
GuidanceSchedule = Literal["constant", "linear", "cosine"]
GUIDANCE_SCHEDULES: Final[tuple[str, ...]] = get_args(GuidanceSchedule)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one row is sampled; the defaults draw from the model's own distribution.

    Filters act in the order of the fields: guidance, penalties, biases, temperature, top-k, top-p, min-p, typical-p. The
    last three see the distribution that the filters before them left.
    """

    guidance: float = 1.0
    """Scale of classifier-free guidance: 0 = as if without the condition, 1 = off, above 1 = follow it more closely."""
    guidance_schedule: GuidanceSchedule = "constant"
    """How the scale runs over the generated tokens: constant, or rising from 1 at the first to `guidance` at the last."""
    repetition_penalty: float = 1.0
    """Make ids already in the row's prompt or output less likely; 1 = off, 1.2 is the paper's choice."""
    presence_penalty: float = 0.0
    """Subtract this from the logit of every id in the row's output so far; 0 = off, negative invites repetition."""
    frequency_penalty: float = 0.0
    """Subtract this from the logit of an id once for every time that it stands in the row's output so far; 0 = off."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(id, what is added to its logit): -100 all but forbids an id, 100 all but forces it."""
    min_new_tokens: int = 0
    """No stop id before this many tokens, as long as another id is allowed."""
    temperature: float = 1.0
    """Divide logits by this: below 1 sharper, above 1 flatter, 0 = always the most probable id."""
    top_k: int | None = None
    """Keep this many of the most probable ids."""
    top_p: float | None = None
    """Keep the fewest most probable ids that together hold this probability."""
    min_p: float | None = None
    """Drop ids less probable than this share of the most probable one."""
    typical_p: float | None = None
    """Keep the ids whose surprise is closest to the expected one, the fewest that together hold this probability."""

    def __post_init__(self) -> None:
        require(
            0 <= self.guidance <= LARGEST,
            f"guidance is {self.guidance}: must lie between 0 and {LARGEST:g}; use --guidance 1 for none, 2 to 5 to follow "
            "the caption more closely.",
        )
        require(
            self.guidance_schedule in GUIDANCE_SCHEDULES,
            f"guidance_schedule is {self.guidance_schedule!r}: use one of {', '.join(GUIDANCE_SCHEDULES)}.",
        )
        require(
            self.guidance_schedule == "constant" or self.guidance != 1.0,
            f"guidance_schedule is {self.guidance_schedule!r} but guidance is 1, which is off: set --guidance, or leave "
            "the schedule out.",
        )
        require(
            0 <= self.temperature <= LARGEST,
            f"temperature is {self.temperature}: must lie between 0 and {LARGEST:g}; use --temperature 0 for the most "
            "probable id each time, 1 for the model's own distribution.",
        )
        require(
            self.top_k is None or self.top_k >= 1,
            f"top_k is {self.top_k}: must be at least 1; drop --top-k to keep all ids.",
        )
        require(
            self.top_p is None or 0 < self.top_p <= 1,
            f"top_p is {self.top_p}: must lie in (0, 1]; drop --top-p to keep all ids.",
        )
        require(
            self.min_p is None or 0 <= self.min_p < 1,
            f"min_p is {self.min_p}: must lie in [0, 1); drop --min-p to keep all ids.",
        )
        require(
            1 / LARGEST <= self.repetition_penalty <= LARGEST,
            f"repetition_penalty is {self.repetition_penalty}: must be positive, {1 / LARGEST:g} to {LARGEST:g}; use "
            "--repetition-penalty 1 for none, above 1 to discourage repetition.",
        )
        require(
            self.typical_p is None or 0 < self.typical_p <= 1,
            f"typical_p is {self.typical_p}: must lie in (0, 1]; drop --typical-p to keep all ids.",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            require(
                abs(value) <= LARGEST,
                f"{name} is {value}: must lie between {-LARGEST:g} and {LARGEST:g}; use --{name.replace('_', '-')} 0 for "
                "none, up to 2 to discourage repetition.",
            )
        for i, bias in self.logit_bias:
            require(
                i >= 0 and abs(bias) <= LARGEST,
                f"logit_bias adds {bias} to id {i}: ids count from 0 and biases lie between {-LARGEST:g} and {LARGEST:g}.",
            )
        ids = [i for i, _ in self.logit_bias]
        require(len(set(ids)) == len(ids), f"logit_bias names an id twice among {ids}: add its biases up.")
        require(self.min_new_tokens >= 0, f"min_new_tokens is {self.min_new_tokens}: must be at least 0.")


@dataclass(frozen=True)
class Allowed:
    """Which ids may stand at each generated position.

    Worked example, a picture of 2 x 2 pixels with image ids 5 and 6 and end id 3, from
    `Allowed.phases([((5, 6), 4), ((3,), None)], num_ids=8)`: table_GV has the rows {5, 6} and {3}, group_BT is
    [[0, 0, 0, 0, 1]], and whatever is generated after the fifth token is again from {3}.

    Attributes:
        table_GV: ids of each group.
        group_BT: group of each generated token, one row for all prompts or one a prompt; the last entry holds for all
            later tokens as well.
    """

    table_GV: Bool[np.ndarray, "G V"]
    group_BT: Int[np.ndarray, "B T"]

    def __post_init__(self) -> None:
        groups = self.table_GV.shape[0]
        require(self.group_BT.size > 0, f"allowed.group_BT has shape {self.group_BT.shape}: name at least one group.")
        require(
            bool(((0 <= self.group_BT) & (self.group_BT < groups)).all()),
            f"allowed.group_BT holds groups {self.group_BT.min()} to {self.group_BT.max()}: table_GV has {groups} "
            f"rows, use groups 0 to {groups - 1}.",
        )
        for group in np.unique(self.group_BT):
            first = (self.group_BT == group).any(0).argmax()
            require(
                bool(self.table_GV[group].any()),
                f"allowed group {group}, first used at generated token {first}, holds no id: nothing could be drawn; "
                "allow at least one id at every position.",
            )

    @classmethod
    def phases(cls, phases: Sequence[tuple[Iterable[int], int | None]], num_ids: int) -> "Allowed":
        """Return the mask of phases that follow each other: `(ids, number of tokens, or None for the rest)`.

        Raises:
            ValueError: a phase has no id, an id outside the vocabulary, no length, or follows one without an end.
        """
        require(len(phases) > 0, "allowed has 0 phases: give at least one, such as (range(num_ids), None).")
        rows: dict[
            tuple[int, ...], int
        ] = {}  # phases that allow the same ids share a row: colours take turns by thousands
        groups = []
        for phase, (members, count) in enumerate(phases):
            ids = tuple(members)
            require(len(ids) > 0, f"allowed phase {phase} has 0 ids: nothing could be drawn; allow at least one id.")
            require(
                ids in rows or (0 <= min(ids) and max(ids) < num_ids),
                f"allowed phase {phase} has ids {min(ids)} to {max(ids)}: the vocabulary has {num_ids}, use ids 0 to "
                f"{num_ids - 1}.",
            )
            require(
                count is not None or phase == len(phases) - 1,
                f"allowed phase {phase} lasts for the rest (None) but {len(phases) - 1 - phase} more follow: only the "
                "last phase may; give this one a number of tokens.",
            )
            require(
                count is None or count >= 1,
                f"allowed phase {phase} lasts {count} tokens: use at least 1, or leave it out.",
            )
            groups += [rows.setdefault(ids, len(rows))] * (1 if count is None else count)
        table_GV = np.zeros((len(rows), num_ids), bool)
        for ids, row in rows.items():
            table_GV[row, list(ids)] = True
        return cls(table_GV=table_GV, group_BT=np.array([groups], np.int32))
