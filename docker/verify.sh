#!/usr/bin/env bash
# Build the images and run all that docker/ offers; print sizes and times, and leave a record. Minutes, and 15 GB of disk.
#
#   docker/verify.sh                 with a registry: the base image is the Dockerfile's own
#   docker/verify.sh --stand-in      without one, as root on Debian: a base is made of the distribution's packages
#   BASE_IMAGE=... docker/verify.sh  another base: one with python3 (>= 3.11) and its venv
set -euo pipefail
cd "$(dirname "$0")/.."

: "${BASE_IMAGE:=}"                   # empty: what the Dockerfile names
: "${TORCH_INDEX:=}"                  # index of CPU wheels of torch, for cpu and bench; empty: the ordinary wheels
: "${NETWORK:=host}"                  # of the builds
: "${LINK:=1gbit}"                    # between the hosts of the benchmark
: "${RECORDS:=benchmarks/records}"
export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-$(docker buildx version >/dev/null 2>&1 && echo 1 || echo 0)}
work=$(mktemp -d)
record=$RECORDS/docker-$(date +%F).md
lines=()

compose() {
    if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

clean_up() {
    compose -p ffdist-bench -f docker/bench.compose.yaml --profile cpu down --volumes >/dev/null 2>&1 || true
    compose -p ffdist-ray -f docker/ray.compose.yaml --profile cpu down --volumes >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT

say() { printf '\n== %s\n' "$*"; }

# step NAME COMMAND...: run it, and note how long it took
step() {
    local name=$1 begun=$SECONDS
    shift
    say "$name"
    "$@"
    lines+=("| $name | $((SECONDS - begun)) s |")
}

make_stand_in() {
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base" >/dev/null
    cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/" # the authorities this machine trusts
    if [[ -f /etc/pip.conf ]]; then cp /etc/pip.conf "$work/base/etc/"; fi
    rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
    tar -C "$work/base" -c . | docker import - ffdist-base:stand-in >/dev/null
    rm -rf "$work/base"
    BASE_IMAGE=ffdist-base:stand-in
}

build() { # TARGET TORCH_INDEX
    docker build --quiet --network "$NETWORK" ${BASE_IMAGE:+--build-arg BASE_IMAGE="$BASE_IMAGE"} \
        ${2:+--build-arg TORCH_INDEX="$2"} -f docker/Dockerfile --target "$1" -t "ffdist:$1" .
}

check_image() { # neither root nor a compiler in it, and Docker finds it healthy
    local container
    docker run --rm --entrypoint sh "$1" -c '[ "$(id -u)" != 0 ] && ! command -v cc gcc g++ clang' >/dev/null
    docker run --rm "$1" --version
    container=$(docker run --detach --health-interval 3s --entrypoint sleep "$1" 120)
    grep --max-count 1 'health_status: healthy' \
        < <(timeout 120 docker events --since 1m --filter "container=$container" --filter event=health_status)
    docker rm --force "$container" >/dev/null
}

in_container() { docker run --rm "$@"; }

can_use_gpus() { in_container --entrypoint python "$1" -c 'import torch; assert torch.version.cuda, torch.__version__'; }

compare_hosts() {
    mkdir -m 777 "$work/results"
    RESULTS=$work/results LINK=$LINK compose -p ffdist-bench -f docker/bench.compose.yaml --profile cpu up --abort-on-container-exit
    python3 -c 'import json, sys
summary = json.load(open(sys.argv[1]))["summary"]
assert summary["hosts"] == 2 and summary["n"] >= 3 and summary["ours"] > 0 < summary["theirs"], summary
print(json.dumps({k: v for k, v in summary.items() if k != "qualifying"}))' "$work"/results/hosts-*.json
    cp "$work"/results/hosts-*.md "$work/hosts.md"
}

ray_job() {
    WHAT="--samples 512 --epochs 2 --threads 1" compose -p ffdist-ray -f docker/ray.compose.yaml --profile cpu \
        up --abort-on-container-exit --exit-code-from job
    compose -p ffdist-ray -f docker/ray.compose.yaml --profile cpu run --rm --no-deps --entrypoint ffdist job \
        eval /work/runs/ray --json | tee "$work/ray.json"
    grep -q '"accuracy"' "$work/ray.json"
}

if [[ ${1:-} == --stand-in ]]; then
    step "base image of the distribution's packages" make_stand_in
fi
step "build cpu" build cpu "$TORCH_INDEX"
step "build bench" build bench "$TORCH_INDEX"
step "build cuda" build cuda ""
for image in cpu cuda bench; do
    step "check $image" check_image "ffdist:$image"
done
step "torch of cuda is made for GPUs" can_use_gpus ffdist:cuda
step "run train (digits, 2 stages)" in_container ffdist:cpu train --samples 512 --epochs 2 --stages 2 --threads 1
step "run bench throughput" in_container ffdist:bench bench throughput --model mlp \
    --against ddp-static --rounds 1 --seconds 1 --json
step "compose: 2 hosts against DDP, link $LINK" compare_hosts
step "compose: Ray, head and worker, a submitted job" ray_job

mkdir -p "$RECORDS"
{
    printf '# Docker, %s\n\n    docker/verify.sh %s\n\n' "$(date +%F)" "$*"
    printf 'Docker %s, %s cores, base %s, ffdist %s; load averages at the end: %s.\n\n' \
        "$(docker version --format '{{.Server.Version}}')" "$(getconf _NPROCESSORS_ONLN)" "${BASE_IMAGE:-of the Dockerfile}" \
        "$(docker run --rm ffdist:cpu --version | cut -d' ' -f2)" "$(cut -d' ' -f1-3 /proc/loadavg)"
    printf '| step | time |\n|---|---|\n'
    printf '%s\n' "${lines[@]}"
    printf '\n| image | size | torch |\n|---|---|---|\n'
    for image in cpu bench cuda; do
        printf '| ffdist:%s | %s | %s |\n' "$image" "$(docker image ls --format '{{.Size}}' "ffdist:$image")" \
            "$(docker run --rm --entrypoint python "ffdist:$image" -c 'import torch; print(torch.__version__)')"
    done
    printf "\nThe job on Ray: %s\n\n" "$(tail -n 1 "$work/ray.json")"
    sed 's/^#/##/' "$work/hosts.md"
} >"$record"
say "all is well; the record is $record"
cat "$record"
