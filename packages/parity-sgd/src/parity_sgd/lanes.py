"""Sixteen float32 numbers as one value inside numba code: one register of AVX-512, two of AVX2, four of NEON or SSE.

Loops over short rows of an array cost more in checks for overlap than in arithmetic; with a vector type there is
nothing to check, and what is summed stays in registers.
"""

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INT = ir.IntType(32)


class Lanes(types.Type):
    """The numba type of a vector of `LANES` float32."""

    def __init__(self) -> None:
        super().__init__("float32x16")


LANES_TYPE = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _address(context: Any, builder: Any, array_type: Any, array: Any, start: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [start]), _VECTOR.as_pointer())


@intrinsic
def load(typing_context: Any, array: Any, start: Any) -> Any:
    """array[start : start + LANES] of a contiguous one-dimensional float32 array; bounds are not checked."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *values), align=4)

    return LANES_TYPE(array, types.intp), generate


@intrinsic
def store(typing_context: Any, array: Any, start: Any, value: Any) -> Any:
    """array[start : start + LANES] = value."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _address(context, builder, signature.args[0], *values[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES_TYPE), generate


@intrinsic
def fill(typing_context: Any, number: Any) -> Any:
    """The same number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(undefined, values[0], ir.Constant(_INT, 0))
        return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))

    return LANES_TYPE(types.float32), generate


def _number(value: float) -> Any:
    return ir.Constant(_VECTOR, [ir.Constant(ir.FloatType(), value)] * LANES)


@intrinsic
def threshold(typing_context: Any, x: Any, limit: Any) -> Any:
    """st(x): 1 where x >= limit, -1 where x <= -limit, 0 where neither or both (limit 0 at x = 0) hold."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        x, limit = values
        up = builder.fcmp_ordered(">=", x, limit)
        down = builder.fcmp_ordered("<=", x, builder.fsub(_number(0.0), limit))
        one, zero = _number(1.0), _number(0.0)
        return builder.fsub(builder.select(up, one, zero), builder.select(down, one, zero))

    return LANES_TYPE(LANES_TYPE, LANES_TYPE), generate


@intrinsic
def magnitude(typing_context: Any, x: Any) -> Any:
    """|x| in every lane."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        integers = ir.VectorType(_INT, LANES)
        mask = ir.Constant(integers, [0x7FFFFFFF] * LANES)
        return builder.bitcast(builder.and_(builder.bitcast(values[0], integers), mask), _VECTOR)

    return LANES_TYPE(LANES_TYPE), generate


def _define(python_operator: Any, instruction: str) -> None:
    @intrinsic
    def apply(typing_context: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return getattr(builder, instruction)(*values)

        return LANES_TYPE(LANES_TYPE, LANES_TYPE), generate

    @overload(python_operator)
    def lanewise(x, y):  # type: ignore[no-untyped-def] # numba compares this signature with the lambda's
        return (lambda x, y: apply(x, y)) if x == y == LANES_TYPE else None


for _operator, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _define(_operator, _instruction)
