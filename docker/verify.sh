#!/usr/bin/env bash
# Build the images and run all that docker/ offers; print sizes and times, and leave a record. Minutes, and 20 GB of disk.
#
#   docker/verify.sh                 with a registry: the base image is the Dockerfile's own
#   docker/verify.sh --stand-in      without one, as root on Debian: a base is made of the distribution's packages
#   docker/verify.sh --newest        with the newest versions of all that ffdist needs, which constraints.txt then holds
#   docker/verify.sh --remove        take the images and their layers away at the end, as docker/remove.sh does
#   BASE_IMAGE=... docker/verify.sh  another base, of Debian: one with python3 (>= 3.11) and its venv
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
for ((number = 2; ; number++)); do # none is written over
    [[ -e $record ]] || break
    record=$RECORDS/docker-$(date +%F)-$number.md
done
commit=$(git rev-parse --short=12 HEAD 2>/dev/null || true)
if [[ -n $commit && -n $(git status --porcelain --untracked-files=no ffdist) ]]; then commit+=+; fi
newest='' stand_in='' remove=''
for word; do
    case $word in
        --stand-in) stand_in=1 ;;
        --newest) newest=1 ;;
        --remove) remove=1 ;;
        *)
            sed -n '2,/^set/{/^#/s/^# \?//p}' "$0" >&2
            exit 2
            ;;
    esac
done
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
    tar -C "$work/base" -c . | docker import --change 'LABEL org.opencontainers.image.title=ffdist' - \
        ffdist-base:stand-in >/dev/null
    rm -rf "$work/base"
    BASE_IMAGE=ffdist-base:stand-in
}

build() { # TARGET TORCH_INDEX
    docker build --quiet --network "$NETWORK" ${BASE_IMAGE:+--build-arg BASE_IMAGE="$BASE_IMAGE"} \
        ${2:+--build-arg TORCH_INDEX="$2"} ${newest:+--build-arg PIP_CONSTRAINT=} --build-arg FFDIST_COMMIT="$commit" -f docker/Dockerfile --target "$1" -t "ffdist:$1" .
}

check_image() { # neither root, nor a compiler, nor what needs one; and sends between its processes
    docker run --rm --entrypoint sh "$1" -c '[ "$(id -u)" != 0 ] && ! command -v cc gcc g++ clang' >/dev/null
    docker run --rm --entrypoint python "$1" -c 'import importlib.util; assert not importlib.util.find_spec("triton")'
    docker run --rm --entrypoint bash "$1" -lc 'ffdist --version' # a login shell has its own PATH
    docker run --rm "$1" doctor
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

if [[ -n $stand_in ]]; then
    step "base image of the distribution's packages" make_stand_in
fi
step "build cpu" build cpu "$TORCH_INDEX"
step "build bench" build bench "$TORCH_INDEX"
step "build cuda" build cuda ""
for image in cpu cuda bench; do
    step "check $image" check_image "ffdist:$image"
done
step "torch of cuda is made for GPUs" can_use_gpus ffdist:cuda
step "any user, any folder, stops" docker/usage.sh ffdist:cpu
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
if [[ -n $newest ]]; then
    {
        sed -n 1p docker/constraints.txt
        in_container --entrypoint pip ffdist:bench freeze | grep -v -E '^(cuda|nvidia|ffdist)'
    } >"$work/constraints.txt"
    cp "$work/constraints.txt" docker/constraints.txt
fi
cat "$record"
say "all is well; the record is $record"
if [[ -n $remove ]]; then
    docker/remove.sh
else
    echo "the images and what building them left stay here; docker/remove.sh takes them away:"
    docker system df
fi
