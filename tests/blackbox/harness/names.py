"""Every name that the tests take from the server and that the contract does not fix. Change them here only."""

READY_LINE = r"drawbridge: ready listen=(?P<listen>\S+)(?: admin=(?P<admin>\S+))? node=(?P<node>\S+)"

# Gauges that must be back at zero when nobody is connected.
CONNECTIONS = "drawbridge_connections"
SUBSCRIPTIONS = "drawbridge_subscriptions"
TARGETS = "drawbridge_targets"
HUB_SUBJECTS = "drawbridge_redis_subscriptions"
# Of these, what a node holds for itself with nobody connected.
OWN_SUBJECTS = 1
# And once for each node, the channel on which other nodes answer it.
OWN_REPLIES = 1
# How many links a node has where its configuration does not say.
SUBSCRIBER_POOL = 2
SOCKETS = "drawbridge_sockets"
IDLE_GAUGES = (
    CONNECTIONS,
    SUBSCRIPTIONS,
    TARGETS,
    HUB_SUBJECTS,
    SOCKETS,
    "drawbridge_connections_open",
    "drawbridge_addresses",
    "drawbridge_views",
    "drawbridge_timers",
    "drawbridge_outbound_frame_bytes",
    "drawbridge_publishes_in_flight",
    "drawbridge_requests_deferred",
    "drawbridge_redis_patterns",
    "drawbridge_pattern_channels",
    "drawbridge_shard_queue_bytes",
    "drawbridge_publish_queue_bytes",
)

# A counter whose name holds one of these counts payloads that were dropped.
DROPPED_WORDS = ("dropped",)

# Counts connections to Redis, of subscriptions and of commands, that were lost.
RECONNECTS = "drawbridge_redis_reconnects_total"
