#!/bin/sh
# Installs the system packages that the tests need and this machine lacks. The gateway itself needs none.
set -eu

missing=""
need() { # package, then programs of which one must be there
	package=$1
	shift
	for program in "$@"; do
		if command -v "$program" >/dev/null 2>&1; then return; fi
	done
	missing="$missing $package"
}
need gcc gcc # for the race detector
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"
need curl curl # for the README's transcript
need nodejs node
need npm npm
need redis-server redis-server
need chromium chromium
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null 2>&1 || { echo "make test needs, and cannot install without apt-get:$missing" >&2; exit 1; }
as_root=""
if [ "$(id -u)" != 0 ]; then
	as_root="sudo -n"
	$as_root true 2>/dev/null || { echo "make test needs:$missing. Run as root: apt-get install$missing" >&2; exit 1; }
fi
echo "installing$missing"
# RUNLEVEL keeps Debian from starting a Redis of its own.
$as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
# shellcheck disable=SC2086 # the packages are words
$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends $missing
