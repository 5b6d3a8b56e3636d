"""The models of one server, each with its engine, which is opened again when it was lost."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from reelray.cluster.engine_api import Engine
from reelray.cluster.model_catalog import ModelEntry
from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import EngineError, InputError, UnknownModelError
from reelray.proto.request import RequestId
from reelray.proto.session import Stop

LOG = logging.getLogger("reelray.gateway")
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
ANSWER_S = 10.0
NOBODY = RequestId("nobody")


class ServedModel:
    """A model that is loaded.

    Args:
        entry: What it is called and what it can do.
        open_engine: Loads it; called at once, and again after every loss.
        together: Requests that each lane of it takes at once, because they share forwards.
        known: What the engine says of itself where that is known from before; it is then loaded by `open_beside`.

    Raises:
        ReelrayError: It cannot be loaded.
    """

    def __init__(
        self,
        entry: ModelEntry,
        open_engine: Callable[[], Engine],
        *,
        together: int = 1,
        known: EngineDescription | None = None,
    ) -> None:
        self.entry, self.together = entry, together
        self._open = open_engine
        self._engine: Engine | None = None
        if known is None:
            self._engine = open_engine()
        self.description = known or self.engine.description
        self.running = 0
        self.when_tried_again: Callable[[], None] = lambda: None
        self.listeners: list[Callable[[], None]] = []
        """Called, from any thread, when the engine was lost or is there again."""
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self._engine is not None

    @property
    def engine(self) -> Engine:
        """Where it runs.

        Raises:
            EngineError: It was lost and is being opened again.
        """
        engine = self._engine
        if engine is None:
            raise EngineError(f"the engine of model '{self.entry.name}' was lost and starts again; try again soon")
        return engine

    def look_after(self) -> None:
        """After a failure: open the engine again if it is lost. Returns when it is there, or was never away."""
        engine = self._engine
        if engine is None or not is_lost(engine):
            return
        with self._lock:
            if self._closed.is_set() or self._engine is not engine:
                return
            self._engine = None
        self._tell()
        LOG.warning("the engine of model '%s' was lost; opening it again", self.entry.name)
        with suppress(Exception):  # it is gone
            engine.close()
        self._open_again()

    def open_beside(self) -> None:
        """Begin to load a model that is not there, as often as it takes, and return."""
        threading.Thread(target=self._open_again, name=f"open {self.entry.name}", daemon=True).start()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request while it runs."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def close(self) -> None:
        """Free the engine; it is not opened again."""
        self._closed.set()
        with self._lock:
            if self._engine is not None:
                self._engine.close()

    def _open_again(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._closed.is_set():
            try:
                engine = self._try_to_open()
            except Exception as error:  # noqa: BLE001  whatever it was, nobody else would try again
                LOG.warning("model '%s' cannot be opened: %s; next try in %.0f s", self.entry.name, error, wait_s)
                self._closed.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                continue
            with self._lock:
                if self._closed.is_set():
                    engine.close()
                    return
                self.description, self._engine = engine.description, engine
            self._tell()
            LOG.warning("model '%s' is there again", self.entry.name)
            return

    def _tell(self) -> None:
        for listen in self.listeners:
            listen()

    def _try_to_open(self) -> Engine:
        try:
            return self._open()
        finally:
            with suppress(RuntimeError):  # whoever listened has ended
                self.when_tried_again()


class ServedModels:
    """Finds models by name, and closes all of them in the end.

    Args:
        models: At least one; the first is taken where a client names none.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        assert models, "a server serves something"
        self._models = {model.entry.name: model for model in models}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def find(self, name: str) -> ServedModel:
        """The model of this name, or the first for an empty one.

        Raises:
            UnknownModelError: It is not served here; the message lists what is.
        """
        if not name:
            return next(iter(self))
        if name not in self._models:
            raise UnknownModelError(f"model {name[:80]!r} is not served here; models here: {', '.join(self._models)}")
        return self._models[name]


def is_lost(engine: Engine) -> bool:
    """Whether an engine answers no more, or not in time; one that does knows that nobody is not there."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            engine.tell(NOBODY, Stop())
        except InputError:
            answers.append(True)
        except Exception:  # noqa: BLE001  nothing that is there says anything else
            answers.append(False)

    asking = threading.Thread(target=ask, name="is it lost", daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    return answers != [True]
