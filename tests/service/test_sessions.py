from __future__ import annotations

from ruler.service.keys import Caller
from ruler.service.sessions import SESSION_SECONDS, Sessions

CALLER = Caller("team", sees_all=False)


def test_a_session_ends_after_its_time_or_when_it_is_closed() -> None:
    now = [0.0]
    sessions = Sessions(clock=lambda: now[0])
    first, second = sessions.open(CALLER), sessions.open(CALLER)
    assert len({first, second}) == 2
    assert len(first) >= 43  # 256 bits
    assert sessions.find(first) is CALLER
    assert sessions.find(None) is None
    assert sessions.find("") is None
    sessions.close(first)
    sessions.close(first)
    assert sessions.find(first) is None
    now[0] = SESSION_SECONDS
    assert sessions.find(second) is None
    assert len(sessions) == 0


def test_a_thousand_sessions_are_open_and_the_oldest_makes_room() -> None:
    sessions = Sessions()
    tokens = [sessions.open(CALLER) for _ in range(1_001)]
    assert len(sessions) == 1_000
    assert sessions.find(tokens[0]) is None
    assert all(sessions.find(token) for token in tokens[1:])
