"""Programs are counted while the count is open, once each."""

import jax
import jax.numpy as jnp

from jgpt.compiled import Programs


def test_each_program_is_counted_once_and_only_while_the_count_is_open() -> None:
    double = jax.jit(lambda x: 2 * x + 1)
    few, many = jnp.ones(3), jnp.ones(5)
    with Programs() as programs:
        double(few)
        assert programs.count == 1
        double(few)
        assert programs.count == 1 and str(programs) == "compiled 1 program"
        double(many)
    assert programs.count == 2 and str(programs) == "compiled 2 programs"
    jax.jit(lambda x: 3 * x)(few)
    assert programs.count == 2


def test_two_counts_may_be_open_at_once() -> None:
    x = jnp.ones(3)
    with Programs() as outer:
        with Programs() as inner:
            jax.jit(lambda x: x - 7)(x)
        jax.jit(lambda x: x - 8)(x)
    assert (outer.count, inner.count) == (2, 1)
