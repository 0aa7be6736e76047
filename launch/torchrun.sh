#!/usr/bin/env bash
# Train with torchrun: a process a stage, on one node or several. What follows the script's name goes to `ffdist train`.
#
#   launch/torchrun.sh --epochs 12                                      one node
#   NNODES=2 NODE_RANK=0 HEAD=10.0.0.1:29500 launch/torchrun.sh ...     node 0 of two, where the others find it
#   NNODES=2 NODE_RANK=1 HEAD=10.0.0.1:29500 launch/torchrun.sh ...     the other one
#
# Told to stop, it ends with 130 (Ctrl-C), 143 (SIGTERM) or 129 (SIGHUP), the run behind a snapshot.
# A rank that dies takes all ranks back to the last snapshot, up to RESTARTS times in a row without a new one; nobody has
# to type --resume.
# On several nodes --out must be a folder that all of them see under the same path: each stage writes its own blocks there.
set -euo pipefail

: "${NNODES:=1}"        # nodes; MIN:MAX lets nodes come and go: the stages are dealt anew, the snapshots fit any number
: "${NPROC:=}"          # processes (stages) a node; empty: one a GPU, or 2 where there is none
: "${HEAD:=}"           # host:port where the nodes meet, on node 0; an IPv6 address in brackets
: "${NODE_RANK:=}"      # 0 on the node that HEAD names; may stay empty where host names tell (DNS, containers)
: "${RUN_ID:=ffdist}"   # the run's name at the meeting place, equal on all nodes
: "${RESTARTS:=3}"      # how often in a row a failed run starts again
: "${IFACE:=}"          # network interface between the nodes, e.g. ib0; empty: the one that the host's name resolves to

if [[ -z $NPROC ]]; then
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then # what torch will see, and nvidia-smi does not heed
        gpus=$(tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^[^-]' || true) # -1 stands for none
    else
        gpus=$( (nvidia-smi --list-gpus 2>/dev/null || true) | grep -c ^GPU || true) # not the parts of one (MIG)
    fi
    NPROC=$((gpus > 0 ? gpus : 2))
fi

if [[ -n $IFACE ]]; then
    # gloo and NCCL each look for an interface by themselves, and take the wrong one on hosts with several.
    export GLOO_SOCKET_IFNAME=$IFACE NCCL_SOCKET_IFNAME=$IFACE
fi
# Other settings worth knowing: NCCL_DEBUG=INFO says which network NCCL chose; NCCL_IB_DISABLE=1 keeps it off InfiniBand.
# Leave TORCH_DISABLE_SHARE_RDZV_TCP_STORE unset: a restarted run finds its directory in the store that it takes away.

meeting=(--standalone)
if [[ $NNODES != 1 ]]; then
    : "${HEAD:?names node 0 as host:port when there are several nodes}"
    if ! [[ $HEAD =~ ^([^]:[/]+(:[0-9]+)?|\[[^]/[]+\]:[0-9]+)$ ]]; then
        echo "torchrun.sh: HEAD is host:port, with an IPv6 address in brackets ([fd00::1]:29500), not $HEAD" >&2
        exit 1
    fi
    meeting=(--nnodes="$NNODES" --rdzv-backend=c10d --rdzv-endpoint="$HEAD" --rdzv-id="$RUN_ID")
    if [[ -n $NODE_RANK ]]; then
        meeting+=(--rdzv-conf="is_host=$((NODE_RANK == 0))")
    fi
    if [[ -n $IFACE ]]; then
        # of either family; of IPv6, none that holds within one link alone, and none that is not ready
        address=$(ip -o address show dev "$IFACE" -tentative | awk '$4 !~ /^fe80/ && !n++ {sub("/.*", "", $4); print $4}')
        if [[ -z $address ]]; then
            echo "torchrun.sh: the interface $IFACE has no address; these have one:" >&2
            ip -o address show | awk '{print "  " $2, $4}' >&2
            exit 1
        fi
        meeting+=(--local-addr="$address")
    fi
fi

exec python3 -m ffdist.runtime.agent "${meeting[@]}" --nproc-per-node="$NPROC" --max-restarts="$RESTARTS" -m ffdist train "$@"
