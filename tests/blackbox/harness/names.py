"""Every name that the tests take from the server and that the contract does not fix. Change them here only."""

READY_LINE = r"drawbridge: ready listen=(?P<listen>\S+)(?: admin=(?P<admin>\S+))? node=(?P<node>\S+)"

# Gauges that must be back at zero when nobody is connected.
CONNECTIONS = "drawbridge_connections"
SUBSCRIPTIONS = "drawbridge_subscriptions"
TARGETS = "drawbridge_targets"
HUB_SUBJECTS = "drawbridge_hub_subjects"
PENDING_BYTES = "drawbridge_pending_bytes"
IDLE_GAUGES = (CONNECTIONS, SUBSCRIPTIONS, TARGETS, HUB_SUBJECTS)

# A counter whose name holds one of these counts payloads that were dropped.
DROPPED_WORDS = ("drop", "oversize", "too_large", "refused", "rejected")
