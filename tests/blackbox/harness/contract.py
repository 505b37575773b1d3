"""The shape of every server message, checked on each one that any test receives: fields, types, closed vocabularies.
A field that the contract does not name is a failure too: what is sent becomes a promise."""

MAX_ID = 2**53 - 1

CODES = {
    "BAD_MESSAGE": False,
    "UNSUPPORTED": False,
    "UNAUTHENTICATED": False,
    "TOKEN_EXPIRED": False,
    "FORBIDDEN": False,
    "CHANNEL_INVALID": False,
    "FILTER_INVALID": False,
    "NOT_SUBSCRIBED": False,
    "LIMIT_EXCEEDED": False,
    "TOO_LARGE": False,
    "RATE_LIMITED": True,
    "REJECTED": False,
    "LOGIC_UNAVAILABLE": True,
    "BROKER_UNAVAILABLE": True,
    "BROKER_REFUSED": False,
    "INTERNAL": True,
}

_ID = (int, str)
_ANY = object
# type: (required, optional), each field: accepted types
SHAPES = {
    "WELCOME": (
        {
            "connection": str,
            "session": str,
            "resumed": bool,
            "player": str,
            "node": str,
            "server_time_ms": int,
            "heartbeat_ms": int,
            "resume_window_ms": int,
            "limits": dict,
            "subscriptions": list,
        },
        {"id": _ID},
    ),
    "CHANNEL_SUBSCRIBED": (
        {"channel": str},
        {"id": _ID, "epoch": str, "offset": int, "pattern": bool, "by": str, "auto": bool, "recovered": bool},
    ),
    "CHANNEL_UNSUBSCRIBED": ({"channel": str, "reason": str}, {"id": _ID, "by": str}),
    "EVENT": (
        {"channel": str, "event": str, "data": _ANY},
        {"from": str, "offset": int, "ts": int, "key": str, "tags": _ANY, "encoding": str},
    ),
    "FILTER_UPDATED": ({"id": _ID, "channel": str}, {}),
    "VIEW_ENTER": ({"channel": str, "complete": bool, "entities": list}, {"reset": bool, "reason": str}),
    "VIEW_LEAVE": ({"channel": str, "keys": list, "reason": str}, {}),
    "EVENT_PUBLISHED": ({"id": _ID, "channel": str}, {"offset": int, "local": bool, "result": _ANY}),
    "TOKEN_REFRESHED": ({"id": _ID}, {"expires_ms": int}),
    "PONG": ({"server_time_ms": int}, {"id": _ID, "t": _ANY}),
    "STATUS": ({"broker": str}, {}),
    "RESYNC": ({"channel": str, "reason": str}, {"epoch": str, "offset": int}),
    "PRESENCE": ({"id": _ID, "channel": str, "players": list, "total": int}, {"next": str}),
    "PRESENCE_CHANGED": ({"channel": str, "joined": list, "left": list}, {"reset": bool}),
    "POSITION": ({"channel": str, "epoch": str, "offset": int}, {}),
    "HISTORY": ({"id": _ID, "channel": str, "epoch": str, "events": list}, {"gap": bool, "next": dict}),
    "GOODBYE": ({"reason": str, "reconnect_in_ms": int}, {}),
    "ERROR": (
        {"code": str, "message": str, "retryable": bool},
        {
            "id": _ID,
            "channel": str,
            "retry_after_ms": int,
            "outcome": str,
            "reason": str,
            "position": int,
            "hint": str,
        },
    ),
}

SUBSCRIPTION = (
    {"channel": str},
    {"auto": bool, "pending": bool, "pattern": bool, "epoch": str, "offset": int, "recovered": bool},
)

VOCABULARY = {
    ("STATUS", "broker"): {"ok", "degraded"},
    ("RESYNC", "reason"): {"gap", "epoch", "broker", "slow_consumer", "too_large"},
    ("CHANNEL_UNSUBSCRIBED", "reason"): {"client", "server", "forbidden", "broker_refused", "limit"},
    ("CHANNEL_UNSUBSCRIBED", "by"): {"server"},
    ("CHANNEL_SUBSCRIBED", "by"): {"server"},
    ("EVENT", "encoding"): {"base64"},
    ("VIEW_ENTER", "reason"): {"area_required"},
    ("ERROR", "outcome"): {"not_done", "unknown"},
    ("GOODBYE", "reason"): {"drain"},
}


def check(message):
    """Fails where `message` is not one that the contract lets a server send."""
    kind = message.get("type")
    assert kind in SHAPES, f"unknown type in {message!r}"
    _check_fields(message, *SHAPES[kind], also=("type",))
    for (owner, field), words in VOCABULARY.items():
        if owner == kind and field in message:
            assert message[field] in words, f"{field} is none of {words} in {message!r}"
    if kind == "ERROR":
        _check_error(message)
    if kind == "WELCOME":
        assert set(message["limits"]) >= {"message_bytes", "subscriptions"}, message
        for subscription in message["subscriptions"]:
            _check_fields(subscription, *SUBSCRIPTION)
    if kind in ("CHANNEL_SUBSCRIBED", "RESYNC") and message.get("pattern"):
        assert "offset" not in message and "epoch" not in message, f"a pattern has no position: {message!r}"


def _check_error(message):
    code = message["code"]
    assert code in CODES, f"unknown code in {message!r}"
    assert message["retryable"] == CODES[code], f"retryable is wrong in {message!r}"
    assert message["message"], f"an error explains itself: {message!r}"
    if code == "RATE_LIMITED":
        assert message.get("retry_after_ms", 0) >= 1, message
    if code == "BROKER_UNAVAILABLE":
        assert "outcome" in message, message


def _check_fields(message, required, optional, also=()):
    for field, accepted in required.items():
        assert field in message, f"`{field}` is missing in {message!r}"
        _check_type(message, field, accepted)
    for field, value in message.items():
        if field in required or field in also:
            continue
        assert field in optional, f"`{field}` is not of the contract in {message!r}"
        _check_type(message, field, optional[field])
        if field == "id" and isinstance(value, int):
            assert 0 <= value <= MAX_ID, message


def _check_type(message, field, accepted):
    value = message[field]
    right = isinstance(value, accepted)
    if accepted is int or accepted is _ID:
        right = right and not isinstance(value, bool)
    assert right, f"`{field}` has the wrong type in {message!r}"
