"""What may be asked of the sampler: masks of ids by phase, and the errors of those that allow nothing."""

import subprocess
import sys

import numpy as np
import pytest

from jgpt.sampling import Allowed


def test_phases_lay_groups_along_the_answer() -> None:
    """The worked example of the docstring."""
    allowed = Allowed.phases([((5, 6), 4), ((3,), None)], num_ids=8)
    assert [np.flatnonzero(row).tolist() for row in allowed.table_GV] == [[5, 6], [3]]
    assert allowed.group_BT.tolist() == [[0, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("phases", "value", "fix"),
    [
        ([], "0 phases", "at least one"),
        ([((), 3)], "phase 0 has 0 ids", "at least one id"),
        ([((1, 8), 3)], "ids 1 to 8", "0 to 7"),
        ([((-1,), 3)], "ids -1 to -1", "0 to 7"),
        ([((1,), None), ((2,), 1)], "phase 0 lasts for the rest", "number of tokens"),
        ([((1,), 0)], "lasts 0 tokens", "at least 1"),
    ],
)
def test_phases_that_allow_nothing_are_refused(phases: list, value: str, fix: str) -> None:
    """Each message names the phase, what is wrong and what to give instead."""
    with pytest.raises(ValueError) as error:
        Allowed.phases(phases, 8)
    assert value in str(error.value) and fix in str(error.value)


def test_masks_that_allow_nothing_are_refused() -> None:
    """A group without an id names the token where it is first used; one that is never used may be empty."""
    table_GV = np.eye(3, 8, dtype=bool)
    table_GV[1] = False
    Allowed(table_GV, np.array([[0, 2]]))
    with pytest.raises(ValueError, match="group 1, first used at generated token 2, holds no id.*at least one id"):
        Allowed(table_GV, np.array([[0, 0, 1], [0, 0, 2]]))
    with pytest.raises(ValueError, match="groups 0 to 3: table_GV has 3 rows, use groups 0 to 2"):
        Allowed(table_GV, np.array([[0, 3]]))
    with pytest.raises(ValueError, match="name at least one group"):
        Allowed(table_GV, np.zeros((1, 0), int))


def test_asking_imports_no_jax() -> None:
    """A command line is parsed, and a task says what it allows, before an accelerator may be opened."""
    code = "import sys, jgpt.sampling; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
