# The commands of the project; `just` lists them. `scripts/test` is what CI runs.

default:
    @just --list --unsorted

# The playground at http://127.0.0.1:8000, without Redis
dev *args:
    cargo run --release --bin drawbridge -- dev {{args}}

# Everything: installs what the tests need, then passes them all
test *stages:
    scripts/test {{stages}}

# Formats, and the checks that take seconds
check:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings
    scripts/check-architecture

# Rust tests of one crate, or of all
unit *args:
    cargo test --workspace {{args}}

# Black-box tests, some by `-k`: just black-box -k drain
black-box *args:
    cargo build --bin drawbridge
    cd tests/blackbox && ${DRAWBRIDGE_VENV:-../../.venv}/bin/python -m pytest {{args}}

# What a Cluster must do as one server does, on a Cluster: the broker's tests, and most black-box tests
cluster:
    DRAWBRIDGE_REDIS=cluster cargo test -p drawbridge --test broker_faults --test broker_functions --test broker_logs --test broker_sessions
    cargo build --bin drawbridge
    cd tests/blackbox && DRAWBRIDGE_REDIS=cluster ${DRAWBRIDGE_VENV:-../../.venv}/bin/python -m pytest test_areas.py test_auto_subscribe.py test_cluster.py test_connect.py test_delivery.py test_drain.py test_entities.py test_environments.py test_filters.py test_frames.py test_hostile.py test_http.py test_limits.py test_logged_publish.py test_message_sizes.py test_pattern_cover.py test_patterns.py test_payloads.py test_player_commands.py test_player_views.py test_presence.py test_publish.py test_reload.py test_sessions.py test_sessions_elsewhere.py test_sharded.py test_shards.py test_slow_consumer.py test_stored_state.py test_subscribe.py test_tail_and_publish.py test_token_refresh.py test_transport.py test_values.py

# All that concerns Redis against another server, which is named by its path
redis-versions server:
    DRAWBRIDGE_REDIS_SERVER={{server}} cargo test -p drawbridge --test broker_contract --test broker_faults --test broker_functions --test broker_leases --test broker_library --test broker_logs --test broker_sessions --test broker_slots
    cargo build --bin drawbridge
    cd tests/blackbox && DRAWBRIDGE_REDIS_SERVER={{server}} ${DRAWBRIDGE_VENV:-../../.venv}/bin/python -m pytest test_broker_away.py test_brokers.py test_chaos.py test_check_redis.py test_cluster.py test_entities.py test_logged_delivery.py test_logged_publish.py test_presence.py test_probe.py test_redis_truth.py test_sentinel.py test_sessions_elsewhere.py test_sharded.py test_sharded_cluster.py test_stored_state.py

# The leak test in full: 10,000 rounds
leak:
    cargo build --release --bin drawbridge
    cd tests/blackbox && DRAWBRIDGE_SLOW=1 ${DRAWBRIDGE_VENV:-../../.venv}/bin/python -m pytest -k slope

# Three nodes, a Redis, HAProxy, 500 players that check every event, and faults: just chaos --redis cluster --seed 7
chaos *args:
    cargo build --release --bin drawbridge
    scripts/chaos {{args}}

# The playground and the TypeScript client in a browser and in Node
browser:
    cargo build --bin drawbridge
    cd tests/browser && npm test

# The WebSocket conformance suite
autobahn *cases:
    scripts/autobahn {{cases}}

# One fuzz target for a while: just fuzz engine
fuzz target seconds='60':
    cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run {{target}} -- -max_total_time={{seconds}} -rss_limit_mb=2048 -max_len=16384 -timeout=25

# Figures beside the floor program's
bench *args:
    scripts/bench {{args}}

# What views cost: filters, areas, many updates in a tick
bench-views *args:
    scripts/bench-views {{args}}

# The archive to ship, with licences and documents: target/archives
dist *args:
    scripts/dist {{args}}

# Licences, advisories, duplicates
deny:
    cargo deny check
