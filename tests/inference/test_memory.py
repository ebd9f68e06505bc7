"""What the compiler makes of the memory of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from hat.inference.memory import buffer_step, empty_memory, ring_step


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("ring", [True, False])
def test_a_step_writes_its_memory_in_place(rows, ring):
    """No copy of the whole in a loop of steps, of a single row's neither."""

    def steps(memory, x):
        def step(clock, carry):
            x, memory = carry
            position = jnp.full(rows, clock)
            place = ring_step(clock, position) if ring else buffer_step(jnp.arange(rows), position)
            out, memory = place(x, 2 * x, 3 * x, memory)
            return jnp.tanh(out), memory

        return jax.lax.fori_loop(0, 20, step, (x, memory))

    memory = empty_memory(rows, 2, 64, 8, jnp.float32)
    lowered = jax.jit(steps, donate_argnums=0).lower(memory, jnp.ones((rows, 1, 2, 8)))
    lines = lowered.compile().as_text().splitlines()
    assert any(f"f32[{rows},2,64,8]" in line for line in lines)
    assert not [line for line in lines if " copy(" in line and f"f32[{rows},2,64,8]" in line]
