"""The models of one server, each with its engine."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from reelray.cluster.engine_api import Engine
from reelray.cluster.model_catalog import ModelEntry
from reelray.proto.errors import UnknownModelError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A model that is loaded.

    Args:
        entry: What it is called and what it can do.
        engine: Where it runs.
    """

    entry: ModelEntry
    engine: Engine


class ServedModels:
    """Finds models by name, counts what runs, and closes all of them in the end.

    Args:
        models: At least one; the first is taken where a client names none.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        assert models, "a server serves something"
        self._models = {model.entry.name: model for model in models}
        self._running: Counter[str] = Counter()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def find(self, name: str) -> ServedModel:
        """The model of this name, or the first for an empty one.

        Raises:
            UnknownModelError: It is not served here; the message lists what is.
        """
        if not name:
            return next(iter(self))
        if name not in self._models:
            raise UnknownModelError(f"model '{name}' is not served here; models here: {', '.join(self._models)}")
        return self._models[name]

    @contextmanager
    def running(self, model: ServedModel) -> Iterator[None]:
        """Count a request while it runs."""
        self._running[model.entry.name] += 1
        try:
            yield
        finally:
            self._running[model.entry.name] -= 1

    def count(self, model: ServedModel) -> int:
        """Requests that run on it."""
        return self._running[model.entry.name]

    def close(self) -> None:
        """Free every engine."""
        for model in self:
            model.engine.close()
