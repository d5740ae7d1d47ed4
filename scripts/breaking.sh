#!/bin/sh
# Compare proto/ with main, or on main itself with the commit before, and fail on breaking changes.
set -eu
cd "$(dirname "$0")/.."

main=$(git rev-parse --verify --quiet main || git rev-parse --verify --quiet origin/main || true)
head=$(git rev-parse HEAD)
if [ -n "$main" ] && [ "$main" != "$head" ]; then
    base=$main
else
    base=$(git rev-parse --verify --quiet HEAD~1 || echo "$head")
fi
# A shallow clone's only commit, or one from before proto/ existed, has nothing older to break.
git cat-file -e "$base:proto" 2>/dev/null || base=$head

against=$(mktemp -d)
trap 'rm -rf "$against"' EXIT
git archive "$base" proto buf.yaml | tar -x -C "$against"
scripts/buf.sh breaking --against "$against"
echo "proto/ breaks nothing of $(git log -1 --format='%h (%s)' "$base")"
