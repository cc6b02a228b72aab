#!/usr/bin/env python3
"""Prints mvirt_net/client.py: a method for each call of the API, with what proto/net.proto says of it.

Takes a file of descriptors, as protoc writes it with --descriptor_set_out and --include_source_info.
"""

import re
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2

HEAD = '''"""The calls of the API, each a method. Generated from proto/net.proto by clients/python/generate.py."""

from __future__ import annotations

from . import net_pb2 as net
from .connection import Connection, Stream


class Client(Connection):
    """A client of the API. Calls raise `Error` when they fail: `Refused`, `Unreachable`, `Late`."""

    def __enter__(self) -> Client:
        return self
'''

METHOD = '''
    def {name}(self, request: net.{request} | None = None) -> {returns}:
        """{comment}
        """
        asked = net.{request}() if request is None else request
        return self.{how}("{method}", asked, net.{answer})
'''


def main() -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(Path(sys.argv[1]).read_bytes())
    file = next(file for file in files.file if file.package == "mvirt.net")
    # By their place: field 6 of a file are services, field 2 of those are methods.
    comments = {tuple(it.path): it.leading_comments for it in file.source_code_info.location}
    text = HEAD
    for at, method in enumerate(file.service[0].method):
        request, answer = (it.rsplit(".", 1)[-1] for it in (method.input_type, method.output_type))
        lines = [line.strip() for line in comments[6, 0, 2, at].strip().splitlines()]
        text += METHOD.format(
            name=re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower(),
            request=request,
            returns=f"Stream[net.{answer}]" if method.server_streaming else f"net.{answer}",
            comment="\n        ".join(lines).replace("\\", "\\\\").replace('"""', "'''"),
            how="_stream" if method.server_streaming else "_call",
            method=method.name,
            answer=answer,
        )
    print(text, end="")


main()
