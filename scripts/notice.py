#!/usr/bin/env python3
"""Prints the licences of the packages that the programs contain: each with its authors, and the texts that they come with.

They are those that cargo would link for this machine, as Cargo.lock has them; build scripts and tests contain none of the programs.
"""

import json
import pathlib
import re
import subprocess
import sys

NAMES = re.compile(r"^(licen[cs]e|copying|notice|unlicense)", re.IGNORECASE)


def linked(metadata):
    """The packages that the root needs at run time, but the root itself."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    reached, left = set(), [root]
    while left:
        for dependency in nodes[left.pop()]["deps"]:
            # A kind that is null is that of [dependencies].
            is_linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if is_linked and dependency["pkg"] not in reached:
                reached.add(dependency["pkg"])
                left.append(dependency["pkg"])
    packages = {package["id"]: package for package in metadata["packages"]}
    return sorted((packages[name] for name in reached), key=lambda it: (it["name"], it["version"]))


def texts(package):
    """The files of a package that are about its licence."""
    folder = pathlib.Path(package["manifest_path"]).parent
    for path in sorted(folder.iterdir()):
        if path.is_file() and NAMES.match(path.name):
            yield path.read_text(encoding="utf-8", errors="replace").strip()


def main():
    host = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    host = re.search(r"^host: (.*)$", host, re.MULTILINE).group(1)
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    packages = linked(metadata)
    print(f"The programs of mvirt-net contain {len(packages)} packages of others.\n")
    users = {}
    for package in packages:
        licence = package["license"] or "see its text below"
        authors = ", ".join(re.sub(r"\s*<[^>]*>", "", author) for author in package["authors"])
        print(f"{package['name']} {package['version']}: {licence}" + (f"; {authors}" if authors else ""))
        for text in texts(package):
            # The same text with other line breaks is the same.
            words = " ".join(text.split())
            users.setdefault(words, (text, []))[1].append(f"{package['name']} {package['version']}")
    for text, names in users.values():
        print(f"\n{'=' * 78}\nOf {', '.join(names)}:\n\n{text}")
    missing = [package["name"] for package in packages if not package["license"] and not list(texts(package))]
    if missing:
        sys.exit(f"no licence is known of {', '.join(missing)}")


main()
