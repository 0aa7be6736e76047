#!/usr/bin/env bash
# This container as one host of several: limit its link, give up root, and run what follows by torchrun on all of them.
set -euo pipefail

: "${HOSTS:=2}"           # how many there are
: "${HEAD:=head:29500}"   # where they meet
: "${LINK:=}"             # what each may send a second, as tc writes it (100mbit, 1gbit, ...); empty: no limit
: "${RESULTS:=/results}"  # the folder for results

if [[ -n $LINK ]]; then
    tc qdisc add dev eth0 root tbf rate "$LINK" burst 256kb latency 100ms
fi
# Results belong to whoever owns the folder; one that Docker has made is root's.
if [[ $(stat -c %u "$RESULTS") == 0 ]]; then
    chown ffdist: "$RESULTS"
fi

export HOME=/tmp
exec setpriv --reuid="$(stat -c %u "$RESULTS")" --regid="$(stat -c %g "$RESULTS")" --clear-groups --inh-caps=-all \
    torchrun --nnodes="$HOSTS" --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint="$HEAD" "$@"
