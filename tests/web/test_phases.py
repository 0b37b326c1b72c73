"""The table of a request: every cell of it, as the design has it."""

import pytest

from dynamodb_sessions.web.phases import Action, Ending, Kind, Phase, kind_of, saves_late, transition

CELLS = {
    (Phase.RUNNING, Kind.START): (Action.COMMIT_THEN_HEADERS, Phase.STARTED),
    (Phase.RUNNING, Kind.FAILURE): (Action.LOGOUT_THEN_HEADERS, Phase.FAILED),
    (Phase.RUNNING, Kind.CLOSE): (Action.COMMIT_WITHOUT_COOKIE, Phase.STARTED),
    (Phase.STARTED, Kind.PART): (Action.PASS, Phase.STREAMING),
    (Phase.STREAMING, Kind.END): (Action.SAVE_LATE_THEN_PASS, Phase.STARTED),
}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", Kind)
def test_every_message_in_every_phase_has_one_action(phase: Phase, kind: Kind) -> None:
    swallowed = phase in (Phase.REFUSED, Phase.OVER)
    expected = (Action.SWALLOW if swallowed else Action.PASS, phase)
    assert transition(phase, kind) == CELLS.get((phase, kind), expected)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"type": "http.response.start", "status": 499}, Kind.START),
        ({"type": "http.response.start", "status": 500}, Kind.FAILURE),
        ({"type": "websocket.http.response.start", "status": 403}, Kind.START),
        ({"type": "websocket.http.response.start", "status": 503}, Kind.FAILURE),
        ({"type": "websocket.accept"}, Kind.START),
        ({"type": "websocket.close"}, Kind.CLOSE),
        ({"type": "http.response.body", "more_body": True}, Kind.PART),
        ({"type": "http.response.body", "more_body": False}, Kind.END),
        ({"type": "http.response.body"}, Kind.END),
        ({"type": "websocket.http.response.body"}, Kind.END),
        ({"type": "websocket.send"}, Kind.OTHER),
        ({"type": "http.response.trailers"}, Kind.OTHER),
    ],
)
def test_a_message_has_one_kind(message: dict[str, object], kind: Kind) -> None:
    assert kind_of(message) is kind


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("ending", Ending)
def test_only_what_a_response_has_not_called_a_failure_is_saved_late(phase: Phase, ending: Ending) -> None:
    assert saves_late(phase, ending) is (phase in (Phase.STARTED, Phase.STREAMING) and ending is not Ending.RAISED)
