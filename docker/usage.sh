#!/usr/bin/env bash
# What docker/README.md promises of an image, tried: any user, any kind of folder for the runs, stops, the CPU's share.
#
#   docker/usage.sh ffdist:cpu
set -euo pipefail

image=${1:?which image?}
small=(train --samples 64 --epochs 1 --stages 2 --threads 1)
long=(train --epochs 100000 --stages 2 --threads 1)
work=$(mktemp -d)
volume=ffdist-usage-$$

clean_up() {
    docker rm --force "$volume" >/dev/null 2>&1 || true
    docker volume rm --force "$volume" >/dev/null
    as_root rm -rf /host/root /host/mine
    rm -rf "$work"
}
trap clean_up EXIT

as_root() { docker run --rm --user root --entrypoint "$1" --volume "$work:/host" "$image" "${@:2}"; }

fail() {
    printf '%s\n' "$*" "what it said:" >&2
    cat "$work/said" >&2
    exit 1
}

# expect STATUS TEXT ARGUMENTS...: what `docker run` with these ends with, and says
expect() {
    local wanted=$1 text=$2 status=0
    shift 2
    docker run --rm "$@" >"$work/said" 2>&1 || status=$?
    [[ $status == "$wanted" ]] || fail "status $status, not $wanted: docker run $*"
    grep --quiet --fixed-strings -- "$text" "$work/said" || fail "not a word of '$text': docker run $*"
    if grep --quiet Traceback "$work/said"; then fail "a traceback: docker run $*"; fi
    printf '%3s  %s\n' "$status" "$*"
}

# stopped SECONDS ARGUMENTS...: after so long, `docker stop` ends it at once, by the signal or with its last snapshot made
stopped() {
    local after=$1 begun status
    shift
    docker run --detach --name "$volume" "$@" >/dev/null
    sleep "$after"
    begun=$SECONDS
    docker stop -t 60 "$volume" >/dev/null
    begun=$((SECONDS - begun))
    status=$(docker inspect --format '{{.State.ExitCode}}' "$volume")
    docker logs "$volume" >"$work/said" 2>&1
    docker rm "$volume" >/dev/null
    [[ $status == 143 ]] || fail "status $status, not 143, stopped after $after s: docker run $*"
    if grep --quiet Traceback "$work/said"; then fail "a traceback, stopped after $after s: docker run $*"; fi
    printf '%3s  in %s s, stopped after %s s: %s\n' "$status" "$begun" "$after" "$*"
}

hard=(--read-only --cap-drop ALL --security-opt no-new-privileges --network none)
as_root install -d -m 755 /host/root
as_root install -d -m 755 -o 1234 -g 1234 /host/mine

expect 0 "goes with it" "$image" "${small[@]}"
expect 0 "goes with it" --user 1234 "$image" "${small[@]}"
expect 0 "docker run ... IMAGE eval runs/one" --user 1234:1234 --volume "$volume:/work" "$image" "${small[@]}" --out runs/one
expect 0 '"accuracy"' --user 1234:1234 --volume "$volume:/work" "$image" eval runs/one --json
expect 0 "run folder" --volume "$volume:/work" "$image" "${small[@]}"
expect 0 "run folder" --user 1234:1234 --volume "$work/mine:/work" "$image" "${small[@]}"
expect 1 "/work is of user 0, mode 755; this is user 1234" --user 1234 --volume "$work/root:/work" "$image" "${small[@]}"
expect 1 "docker run --user 1234" --volume "$work/mine:/work" "$image" "${small[@]}" --out other
expect 1 "no temporary file can be written" "${hard[@]}" "$image" "${small[@]}"
expect 1 "Read-only file system" "${hard[@]}" --tmpfs /tmp "$image" "${small[@]}"
expect 0 "goes with it" "${hard[@]}" --tmpfs /tmp --tmpfs /work/runs "$image" "${small[@]}"
expect 0 "run folder" "${hard[@]}" --tmpfs /tmp --user 1234 --volume "$volume:/work" "$image" "${small[@]}" --out runs/two
expect 1 "cifar10 cannot be downloaded" --network none --user 1234 "$image" data prepare cifar10
expect 0 "1 (control groups allow" --cpus 1 "$image" doctor
for after in 0.5 2 4 8; do
    stopped "$after" --volume "$volume:/work" "$image" "${long[@]}" --out "runs/stopped-$after"
    if docker run --rm --volume "$volume:/work" --entrypoint sh "$image" -c "ls runs/stopped-$after/snapshots/*/*" >/dev/null 2>&1; then
        expect 0 '"accuracy"' --volume "$volume:/work" "$image" eval "runs/stopped-$after" --json
    else
        expect 0 "run folder" --volume "$volume:/work" "$image" "${small[@]}" --out "runs/stopped-$after"
    fi
done
