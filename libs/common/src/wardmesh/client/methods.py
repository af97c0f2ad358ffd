"""Methods made from contracts: the one place where a contract becomes a Python call.

    class Secrets(Surface):
        list = method(contracts.secrets.LIST)       # await mesh.secrets.list(prefix="openai/")

A method takes the fields of the contract's request as keyword arguments and returns its response, and a type checker
knows both. What is wrong with the arguments is an `InvalidRequest`, as if the service had said so.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from pydantic import ValidationError

from wardmesh.client.caller import Caller, invalid_request
from wardmesh.contracts.operation import Contract, Message

P = ParamSpec("P")
ResponseT = TypeVar("ResponseT", bound=Message)


@dataclass(frozen=True, slots=True)
class Timed:
    """A caller with the deadline of the view (`mesh.within`) that a call is made through."""

    caller: Caller
    deadline: timedelta | None = None


class Surface:
    """The operations of one service, as methods."""

    def __init__(self, timed: Timed) -> None:
        self._timed = timed


class Method(Generic[P, ResponseT]):
    """A descriptor that binds a contract to a surface."""

    def __init__(self, contract: Contract[P, Any, ResponseT]) -> None:
        self.contract = contract
        self.__doc__ = contract.summary

    @overload
    def __get__(self, surface: None, owner: type) -> Self: ...
    @overload
    def __get__(self, surface: Surface, owner: type) -> Callable[P, Coroutine[Any, Any, ResponseT]]: ...
    def __get__(self, surface: Surface | None, owner: type) -> Self | Callable[P, Coroutine[Any, Any, ResponseT]]:
        if surface is None:
            return self
        contract, timed = self.contract, surface._timed

        async def call(*args: P.args, **kwargs: P.kwargs) -> ResponseT:
            try:
                request = contract.arguments(*args, **kwargs)
            except ValidationError as error:
                raise invalid_request(error) from None  # the cause would show the arguments
            return (await timed.caller.call(contract, request, deadline=timed.deadline)).response

        return call


def method(contract: Contract[P, Any, ResponseT]) -> Method[P, ResponseT]:
    """Return the method that calls `contract`."""
    return Method(contract)
