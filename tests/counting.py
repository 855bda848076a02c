"""Calls of a method, recorded while a test runs."""

from typing import Any

import pytest


def counted(owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Return a list that grows by the arguments of every call of a method, which works as before."""
    calls: list[tuple[Any, ...]] = []
    method = getattr(owner, name)

    def recording(self: object, *arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return method(self, *arguments, **options)

    monkeypatch.setattr(owner, name, recording)
    return calls
