#!/bin/sh
# The table at the head of docs/performance.md: runs rollcall-load for each of its rows, which
# takes some ten minutes, and prints the results. The machine should have nothing else to do.
# usage: loadtest/budget.sh [DIRECTORY for the reports]
set -eu
out=${1:-$(mktemp -d)}
mkdir -p "$out"
load() {
	name=$1
	shift
	./bin/rollcall-load "$@" --json "$out/$name.json" --html "$out/$name.html"
}
load idle idle --nodes 1 --sessions 10000 --for 60s
load ramp ramp --nodes 1 --sessions 10000
load watchers-1000 celebrity --nodes 1 --sessions 1000 --acts 4 --for 30s --bare
load watchers-10000 celebrity --nodes 1 --sessions 10000 --acts 0.5 --rate 2000 --for 40s --bare
load batches-200 churn --nodes 1 --sessions 500 --actors 500 --watch 500 --acts 200 --for 30s --batch
load batches-600 churn --nodes 1 --sessions 500 --actors 500 --watch 500 --acts 600 --for 30s --batch
load six-nodes idle --nodes 6 --sessions 100000 --processes 6 --rate 1000 --for 30s
echo "the reports are in $out" >&2
