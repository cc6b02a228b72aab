#!/bin/bash
# Makes the client for Python: generates its messages and calls from proto/net.proto, and builds a wheel, in target/clients. It needs
# a protoc (Debian's protobuf-compiler, or the package grpcio-tools), and Python's protobuf and pip. PYTHON= is another Python than python3.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${CARGO_TARGET_DIR:-target}/clients

if command -v protoc >/dev/null; then
    protoc=(protoc)
elif "$python" -c "import grpc_tools" 2>/dev/null; then
    protoc=("$python" -m grpc_tools.protoc)
else
    echo "no protoc: install Debian's protobuf-compiler and python3-protobuf, or pip's grpcio-tools" >&2
    exit 1
fi

# What is generated is nobody's source: it is made beside copies.
rm -rf "$out"
mkdir -p "$out"
cp -r clients/python "$out/build"
cp proto/net.proto "$out/build/mvirt_net/"
sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1 >"$out/build/VERSION"
(
    cd "$out/build"
    "${protoc[@]}" -I. --python_out=. --pyi_out=. --include_source_info --descriptor_set_out=descriptors \
        mvirt_net/net.proto mvirt_net/details.proto
    "$python" generate.py descriptors >mvirt_net/client.py
)
# Where the tools that build are there they are used, and else fetched.
isolated=()
! "$python" -c "import setuptools, wheel" 2>/dev/null || isolated=(--no-build-isolation)
"$python" -m pip --quiet --disable-pip-version-check wheel --no-deps "${isolated[@]}" --wheel-dir "$out" "$out/build"
echo "$out"/*.whl
