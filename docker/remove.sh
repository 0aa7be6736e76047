#!/usr/bin/env bash
# Remove the images of docker/, and the layers that building them left. Runs are in volumes, and stay.
set -euo pipefail

ours=label=org.opencontainers.image.title=ffdist
docker image ls --filter "$ours" --format '{{.Repository}}:{{.Tag}}' | sed '/<none>/d' \
    | xargs --no-run-if-empty docker image rm
docker image prune --force --filter "$ours"
echo "BuildKit, where it built them, keeps a cache of all that it builds: docker builder prune"
docker volume ls --filter name=ffdist --format 'this volume stays, with the runs in it: {{.Name}}'
