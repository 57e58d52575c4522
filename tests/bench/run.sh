#!/usr/bin/env bash
# make bench: the router's speed as a ratio to reading the oplog with the bare driver, and that of replication as a ratio to a
# plain loader, on this machine, in one run.
#
#   EVENTS=1000000 OPERATIONS=200000 ROUNDS=3 PARTS="reading chain replication" tests/bench/run.sh
#
# Starts two mongods and a Redis of its own in a temporary folder, and stops and removes them at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'bench: %s\n' "$*" >&2; }

{ read -r mongod; read -r redis; } < <(tests/servers/fetch.sh mongod-6.0.5 redis) || true
[ -n "${mongod:-}" ] && [ -n "${redis:-}" ] || { say "the servers could not be had"; exit 1; }

say "building (release)"
cargo build --release --quiet -p oplogue --bin oplogue --example bench
target=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

dir=$(mktemp -d "${TMPDIR:-/tmp}/oplogue-bench.XXXXXX")
pids=()
stop() {
  trap - EXIT INT TERM HUP
  if [ ${#pids[@]} -gt 0 ]; then
    kill "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
  fi
  rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT TERM HUP

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}
mongo_port=$(free_port)
peer_port=$(free_port)
redis_port=$(free_port)

say "starting mongods on $mongo_port and $peer_port, redis on $redis_port"
for port in "$mongo_port" "$peer_port"; do
  mkdir "$dir/db-$port"
  "$mongod/bin/mongod" --replSet rs0 --port "$port" --bind_ip 127.0.0.1 --dbpath "$dir/db-$port" --oplogSize 2048 \
    --wiredTigerCacheSizeGB 1 --setParameter diagnosticDataCollectionEnabled=false >"$dir/mongod-$port.log" 2>&1 &
  pids+=($!)
done
"$redis/bin/redis-server" --port "$redis_port" --bind 127.0.0.1 --save '' --dir "$dir" >"$dir/redis.log" 2>&1 &
pids+=($!)

export BENCH_MONGO="mongodb://127.0.0.1:$mongo_port/?replicaSet=rs0" BENCH_PEER="mongodb://127.0.0.1:$peer_port/?replicaSet=rs0"
export BENCH_REDIS="redis://127.0.0.1:$redis_port"
export BENCH_OPLOGUE="$target/release/oplogue" BENCH_DIR="$dir"
export BENCH_EVENTS="${EVENTS:-1000000}" BENCH_OPERATIONS="${OPERATIONS:-200000}" BENCH_ROUNDS="${ROUNDS:-3}"
export BENCH_PARTS="${PARTS:-reading chain replication}" BENCH_TICKS
BENCH_TICKS=$(getconf CLK_TCK)

"$target/release/examples/bench"
