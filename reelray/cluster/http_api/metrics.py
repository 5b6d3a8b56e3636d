"""What Prometheus is told: numbers of this server and its models, and of the store's renders; of no tenant."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from reelray.cluster.coordinator.messages import Load
from reelray.cluster.gateway.archive import Archive, in_plain_words
from reelray.cluster.gateway.served_models import ServedModels
from reelray.cluster.renders.spec import queue_of

PLACES = {"paused": "delayed", "running": "leases", "ended": "ends"}
"""Sorted sets of the store that hold the jobs of a state, beside the queues of those that wait."""
BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)


class Metrics:
    """The numbers of one server; each has its own.

    Args:
        models: What is served.
        archive: Where renders are kept.
        loads: How much the engines of each model have to do, as the coordinator says.
    """

    def __init__(self, models: ServedModels, archive: Archive, loads: Mapping[str, Load]) -> None:
        self._models, self._archive, self._loads, self._registry = models, archive, loads, CollectorRegistry()
        self._requests = Counter(
            "reelray_http_requests", "HTTP requests", ("route", "method", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "reelray_http_request_seconds",
            "Seconds from an HTTP request to the end of its answer",
            ("route",),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._renders = Gauge("reelray_renders", "Renders in the store by state", ("state",), registry=self._registry)
        self._waiting = Gauge(
            "reelray_renders_waiting", "Renders that wait for a model served here", ("model",), registry=self._registry
        )
        self._running = Gauge(
            "reelray_requests_running", "Videos.Generate calls of a model now", ("model",), registry=self._registry
        )
        self._ready = Gauge(
            "reelray_model_ready", "Whether a model takes requests", ("model",), registry=self._registry
        )
        self._queue_s = Gauge(
            "reelray_queue_seconds",
            "Seconds that all engines of a model together would work on what waits; scale by it",
            ("model",),
            registry=self._registry,
        )
        self._busy = Gauge(
            "reelray_lanes_busy",
            "Share of the lanes of a model's engines that work",
            ("model",),
            registry=self._registry,
        )

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            route: Its pattern, never its path, which holds ids.
            method: Its method.
            status: Of the answer.
            seconds: How long it took.
        """
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    async def told(self) -> bytes:
        """All numbers as text.

        Raises:
            StoreError: The store does not answer.
        """
        for model in self._models:
            self._running.labels(model.entry.name).set(model.running)
            self._ready.labels(model.entry.name).set(model.is_ready)
        for name, load in list(self._loads.items()):
            self._queue_s.labels(name).set(float("inf") if load.queue_s is None else load.queue_s)
            self._busy.labels(name).set(load.busy)
        with in_plain_words():
            waiting = 0
            for model in self._models:
                count = await self._count("ready", queue_of(model.entry.name))
                self._waiting.labels(model.entry.name).set(count)
                waiting += count
            self._renders.labels("queued").set(waiting)
            for state, name in PLACES.items():
                self._renders.labels(state).set(await self._count(name))
        return generate_latest(self._registry)

    async def _count(self, *key: str) -> int:
        connection = self._archive.store.connection
        return int(await connection.command("ZCARD", connection.key(*key)))
