"""Type parameters and a public module, for public classes that are classes of C in the compiled build.

Such a class has a base of C first and no `Generic`, and nobody may set its `__module__`.
"""

from __future__ import annotations

from types import GenericAlias
from typing import TYPE_CHECKING, Any, TypeVar

from ratchet import _native

__all__ = ["TypeParameters", "set_module"]

if TYPE_CHECKING:
    from typing import Generic as TypeParameters
else:

    class TypeParameters:
        """`typing.Generic` to a type checker; a class of C cannot have what that is at run time.

        A class with its own type variables is the class itself, so that it may be a base.
        """

        __slots__ = ()

        @classmethod
        def __class_getitem__(cls, parameters: Any) -> Any:
            own = isinstance(parameters, tuple) and all(isinstance(each, TypeVar) for each in parameters)
            return cls if own else GenericAlias(cls, parameters)


def set_module(thing: object, module: str) -> None:
    """Have a class or function say where a program finds it; its repr and its pickle say so.

    Here, because `ratchet.bus` is not compiled, and would get `_native`'s function of the pure build.
    """
    _native.set_module(thing, module)
