"""A device that is behind: an event has passed when it was waited for, or asked about often enough."""


class SlowDevice:
    """Makes events; see `reelray.workers.engine.run_ahead.Event`.

    Args:
        asks: How often an event is asked about before it has passed.
    """

    def __init__(self, asks: int = 0) -> None:
        self.asks = asks
        self.waits = 0
        self.marks = 0

    def __call__(self) -> "SlowEvent":
        return SlowEvent(self)


class SlowEvent:
    """One event of a `SlowDevice`.

    Args:
        device: Whose.
    """

    def __init__(self, device: SlowDevice) -> None:
        self._device = device
        self._left = device.asks
        self._at = -1

    def record(self) -> None:
        """Be at the next second of the device."""
        self._device.marks += 1
        self._at = self._device.marks

    def query(self) -> bool:
        """Whether it has passed."""
        assert self._at > 0, "never recorded"
        self._left -= 1
        return self._left < 0

    def synchronize(self) -> None:
        """Wait for it."""
        assert self._at > 0, "never recorded"
        self._device.waits += self._left > 0
        self._left = 0

    def elapsed_time(self, end_event: "SlowEvent", /) -> float:
        """A second for each event."""
        assert self._at > 0
        return 1000.0 * (end_event._at - self._at)
