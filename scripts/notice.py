#!/usr/bin/env python3
"""Writes what the programs contain of others into a folder: NOTICE, with the licence of each package, its authors and its text, and
mvirt-net.cdx.json, the same packages for programs (an SBOM, CycloneDX 1.5).

They are those that cargo would link for this machine, as Cargo.lock has them; build scripts and tests contain none of the programs.
Both files are the same for the same Cargo.lock.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).parent.parent
NAMES = re.compile(r"^(licen[cs]e|copying|notice|unlicense)", re.IGNORECASE)


def linked(metadata):
    """The packages that the root needs at run time, but the root itself."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    needs, left = {}, [root]
    while left:
        node = left.pop()
        # A kind that is null is that of [dependencies].
        is_linked = lambda it: any(kind["kind"] is None for kind in it["dep_kinds"])
        needs[node] = [it["pkg"] for it in nodes[node]["deps"] if is_linked(it)]
        left.extend(name for name in needs[node] if name not in needs)
    packages = {package["id"]: package for package in metadata["packages"]}
    order = lambda name: (packages[name]["name"], packages[name]["version"])
    return packages, {name: sorted(set(needs[name]), key=order) for name in sorted(needs, key=order)}


def holders(package):
    """Who has the rights, as far as the package says."""
    return ", ".join(re.sub(r"\s*<[^>]*>", "", author) for author in package["authors"]) or f"the authors of {package['name']}"


def texts(package):
    """The files of a package that are about its licence; where it has none, the text that its licence has."""
    folder = pathlib.Path(package["manifest_path"]).parent
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and NAMES.match(path.name)]
    if files:
        return [path.read_text(encoding="utf-8", errors="replace").strip() for path in files]
    # Any of several is enough.
    choices = re.split(r"\s+OR\s+|/", package["license"] or "")
    if "MIT" in choices:
        ours = (ROOT / "LICENSE-MIT").read_text().strip()
        return [re.sub(r"^Copyright .*$", f"Copyright (c) {holders(package)}", ours, flags=re.MULTILINE)]
    if "Apache-2.0" in choices:
        return [(ROOT / "LICENSE-APACHE").read_text().strip()]
    sys.exit(f"{package['name']} {package['version']} ({package['license']}) comes without the text of its licence")


def notice(packages):
    lines = [f"The programs of mvirt-net contain {len(packages)} packages of others.", ""]
    users = {}
    for package in packages:
        name = f"{package['name']} {package['version']}"
        lines.append(f"{name}: {package['license'] or 'see its text below'}; {holders(package)}")
        for text in texts(package):
            # The same text with other line breaks is the same.
            users.setdefault(" ".join(text.split()), (text, []))[1].append(name)
    for text, names in users.values():
        lines.append(f"\n{'=' * 78}\nOf {', '.join(names)}:\n\n{text}")
    return "\n".join(lines) + "\n"


def component(package, checksums):
    name, version = package["name"], package["version"]
    purl = f"pkg:cargo/{name}@{version}"
    it = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if package["license"]:
        # What cargo takes for OR in older packages.
        it["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if package["authors"]:
        it["author"] = holders(package)
    if checksum := checksums.get((name, version)):
        it["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return it


def sbom(packages, needs):
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(it["name"], it["version"]): it.get("checksum") for it in lock["package"]}
    parts = {name: component(packages[name], checksums) for name in needs}
    root = next(name for name in needs if packages[name]["source"] is None)
    parts[root]["type"] = "application"
    depends = [{"ref": parts[it]["bom-ref"], "dependsOn": [parts[to]["bom-ref"] for to in needs[it]]} for it in needs]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": parts[root]},
        "components": [part for name, part in parts.items() if name != root],
        "dependencies": depends,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    folder = pathlib.Path(sys.argv[1])
    host = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    host = re.search(r"^host: (.*)$", host, re.MULTILINE).group(1)
    command = [os.environ.get("CARGO", "cargo"), "metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    packages, needs = linked(metadata)
    others = [packages[name] for name in needs if packages[name]["source"] is not None]
    (folder / "NOTICE").write_text(notice(others), encoding="utf-8")
    (folder / "mvirt-net.cdx.json").write_text(sbom(packages, needs), encoding="utf-8")


main()
