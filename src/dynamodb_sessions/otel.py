"""OpenTelemetry metrics of sessions: `on_event=OpenTelemetryEvents()`. It takes the extra `[otel]`, the API alone.

Names and attributes are those of OpenTelemetry's semantic conventions for database clients, where these have one. Where
the metrics go is for the provider and its exporters to say.
"""

from collections.abc import Iterable
from typing import Any

from dynamodb_sessions.events import SessionEvent

try:
    from opentelemetry import metrics
except ImportError as _missing:
    raise ImportError(
        f"dynamodb_sessions.otel takes OpenTelemetry's API ({_missing}): pip install 'dynamodb-sessions[otel]'"
    ) from _missing

BOUNDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
"""Seconds. Those that the conventions want (1, 5, 10, 50, 100, 500 ms, 1, 5, 10 s), and some between: DynamoDB answers
within 10 ms. A view of the provider's may set others."""

_NO_ERRORS = ("ok", "absent", "gone")
_MODES = ("dynamodb", "memory")


class OpenTelemetryEvents:
    """Turns each SessionEvent into metrics. One may be the `on_event` of many: the table's name tells them apart.

    - `db.client.operation.duration`, a histogram in seconds, of each operation. Its attributes: `db.system.name`
      ("aws.dynamodb", or "memory"), `db.operation.name` (the event's name, such as load), `db.collection.name` (the
      table), `dynamodb_sessions.outcome`, and, if it failed, `error.type`.
    - `dynamodb_sessions.consumed_capacity`, of the same operations, in capacity units.
    - `dynamodb_sessions.created`, `.ended` (by a logout or a revocation: nobody hears of those that expire),
      `.refused` (requests whose cookie or token does not verify) and `.throttled` (attempts, by AWS's reason as
      `error.type`): counters.
    - `dynamodb_sessions.mode`, a gauge: 1 for where sessions are kept just now, by the attribute
      `dynamodb_sessions.mode`, and 0 for where they are not. Alarm on 1 for "memory".

    `meter_provider`: None: the global one. Source: OpenTelemetry's "Semantic conventions for database client metrics".
    """

    def __init__(self, meter_provider: metrics.MeterProvider | None = None) -> None:
        meter = metrics.get_meter("dynamodb_sessions", meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=BOUNDS,
        )
        self._capacity = meter.create_counter(
            "dynamodb_sessions.consumed_capacity", unit="{unit}", description="Capacity units that DynamoDB consumed."
        )
        self._created = meter.create_counter(
            "dynamodb_sessions.created", unit="{session}", description="Sessions that were created."
        )
        self._ended = meter.create_counter(
            "dynamodb_sessions.ended", unit="{session}", description="Sessions that were ended, and did not expire."
        )
        self._refused = meter.create_counter(
            "dynamodb_sessions.refused",
            unit="{request}",
            description="Requests whose session cookie or token does not verify.",
        )
        self._throttled = meter.create_counter(
            "dynamodb_sessions.throttled", unit="{attempt}", description="Attempts that DynamoDB throttled."
        )
        self._modes: dict[str | None, str] = {}
        """Where each table's sessions are kept just now."""
        meter.create_observable_gauge(
            "dynamodb_sessions.mode",
            callbacks=[self._observe_modes],
            description="1 for where sessions are kept just now: in DynamoDB, or in this process's memory.",
        )

    def __call__(self, event: SessionEvent) -> None:
        """Take one event."""
        if event.mode is not None:
            self._modes[event.table] = event.mode
        place = _place(event)
        if event.name == "refused":
            self._refused.add(1, place)
        elif event.name == "throttled":
            self._throttled.add(1, {**place, "error.type": event.outcome})
        elif event.outcome == "ok" and event.name == "create":
            self._created.add(1, place)
        elif event.outcome == "ok" and event.name in ("delete", "revoke_owner", "revoke_tenant"):
            self._ended.add(event.count, place)
        if event.duration_ms:
            self._record(event, place)

    def _record(self, event: SessionEvent, place: dict[str, Any]) -> None:
        attributes = {**place, "db.operation.name": event.name, "dynamodb_sessions.outcome": event.outcome}
        if event.outcome not in _NO_ERRORS:
            attributes["error.type"] = event.outcome
        self._duration.record(event.duration_ms / 1000, attributes)
        if event.capacity_units is not None:
            self._capacity.add(event.capacity_units, attributes)

    def _observe_modes(self, _: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        for table, current in self._modes.copy().items():
            of_table = {} if table is None else {"db.collection.name": table}
            for mode in {*_MODES, current}:
                yield metrics.Observation(int(mode == current), {**of_table, "dynamodb_sessions.mode": mode})


def _place(event: SessionEvent) -> dict[str, Any]:
    """Return the attributes that say where something happened. `db.system.name` may be a word of one's own."""
    place = {"db.system.name": "memory" if event.mode == "memory" else "aws.dynamodb"}
    if event.table is not None:
        place["db.collection.name"] = event.table
    return place
