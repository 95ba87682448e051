#!/bin/sh
# How each cost grows, with users, with nodes and with the watchers of a user: runs
# rollcall-load some dozen times, which takes about a quarter of an hour, and prints three tables.
# usage: loadtest/growth.sh [DIRECTORY for the reports]
set -eu
out=${1:-$(mktemp -d)}
mkdir -p "$out"
load() {
	name=$1
	shift
	echo "$name" >&2
	./bin/rollcall-load "$@" --json "$out/$name.json" >"$out/$name.txt" 2>&1 || { cat "$out/$name.txt" >&2; exit 1; }
}
for n in 1000 5000 15000 50000; do
	load "users-$n" idle --nodes 4 --sessions $n --rate 1500 --for 60s
done
for n in 1 2 3 4; do
	load "nodes-$n" idle --nodes $n --sessions 6000 --rate 1500 --for 60s
done
for n in 1 10 100 1000; do
	load "watchers-$n" churn --nodes 2 --sessions 1000 --actors 20 --watch $n --acts 20 --for 30s
done
for by in sessions nodes watch; do
	case $by in sessions) files=users ;; nodes) files=nodes ;; *) files=watchers ;; esac
	echo
	./bin/rollcall-load growth --by $by "$out/$files"-*.json
done
echo "the reports are in $out" >&2
