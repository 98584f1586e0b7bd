"""Test that a picture takes few programs: each one more costs every start milliseconds."""

import contextlib

import jax
import random_cascades

STAGES = ["begin", "run", "text_kv", "decode"] * 2
# what JAX puts an array on a device with
PUT = ("stage", "convert_element_type")
REST = ["keys_of", "encode", "encode", "normals", "normals", "fold", "enlarged"]


@contextlib.contextmanager
def compiled():
    """Yield a list that gets the name of each program that is compiled in the block."""
    names, tell = [], jax.monitoring.register_event_duration_secs_listener

    def heard(event, seconds, **more):
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            names.append(more["fun_name"].removeprefix("jit(").removesuffix(")"))

    tell(heard)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def test_a_picture_takes_the_programs_of_its_stages_and_a_few_small_ones():
    cascade = random_cascades.cascade()
    jax.clear_caches()
    with compiled() as names:
        cascade.generate(["a"], [3], final=True)
    assert sorted(name for name in names if name not in PUT) == sorted(STAGES + REST)
