"""Named tuples that kernels pass by address.

Numba passes a tuple of arrays as all of their fields: several hundred arguments for some tens of
arrays. It counts references to each, and compiling that takes longer than all else. A kernel with
few arrays is better off without, since a field behind an address is read again after each store.
"""

from __future__ import annotations

import hashlib
from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    models,
    register_model,
)


class Held(types.Type):
    """The address of a named tuple, whose fields are read as its own are."""

    def __init__(self, content: Any) -> None:
        self.content = content
        digest = hashlib.sha256(content.name.encode()).hexdigest()[:16]
        super().__init__(name=f"{content.instance_class.__name__}@{digest}")

    def has_none(self, field: str) -> bool:
        """Return whether a field is always None."""
        return isinstance(self.content[self.content.fields.index(field)], types.NoneType)


@register_model(Held)
class _HeldModel(models.OpaqueModel):
    pass


@infer_getattr
class _HeldAttributes(AttributeTemplate):
    key = Held

    # Numba's own is NotImplemented, which is no method.
    def generic_resolve(self, value: Held, attr: str) -> Any:  # type: ignore[override]
        """Return the type of a field, or None where there is none of this name."""
        fields = value.content.fields
        return value.content[fields.index(attr)] if attr in fields else None


@lower_getattr_generic(Held)
def _read(context: Any, builder: ir.IRBuilder, held: Held, address: ir.Value, name: str) -> Any:
    content = held.content
    place = content.fields.index(name)
    whole = builder.bitcast(address, context.get_value_type(content).as_pointer())
    field = builder.load(cgutils.gep_inbounds(builder, whole, 0, place))
    return impl_ret_borrowed(context, builder, content[place], field)


def _hold(typing: Any, content: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        place = cgutils.alloca_once_value(builder, arguments[0])
        return builder.bitcast(place, ir.IntType(8).as_pointer())

    return Held(content)(content), generate


#: Takes a named tuple that a kernel is given, and returns it as its address, to be passed on while
#: the kernel runs.
hold: Any = intrinsic(_hold)
if config.DISABLE_JIT:  # type: ignore[attr-defined]

    def hold(content: Any) -> Any:
        """Return a named tuple as it is."""
        return content
