"""What needs no fabric: octets, and what the package asks of Python."""

import ast
import subprocess
import sys
import unittest
from pathlib import Path

from mvirt_yard import ARP, BROADCAST, Eth, IPv4, ProtocolError, UDP, protocol
from mvirt_yard.protocol import Decoder, Message

ROOT = Path(__file__).parent.parent
SOURCES = sorted(ROOT.glob("mvirt_yard/*.py")) + sorted(ROOT.glob("examples/*.py"))


class Messages(unittest.TestCase):
    def test_every_message_has_its_octets(self):
        for message, head, payload in [
            (
                Message.of(1, {"client_name": "a"}),
                b"\0\0\0\x20\0\x01\0\x01" + bytes(8),
                b'{"client_name": "a"}',
            ),
            (
                Message.of(10, {"name": "a"}),
                b"\0\0\0\x19\0\x01\0\x0a" + bytes(8),
                b'{"name": "a"}',
            ),
            (Message(20, 2, 1), b"\0\0\0\x0c\0\x01\0\x14\0\0\0\x02\0\0\0\x01", b""),
            (
                Message(30, 0x01020304, 0, b"frame"),
                b"\0\0\0\x11\0\x01\0\x1e\x01\x02\x03\x04\0\0\0\0",
                b"frame",
            ),
        ]:
            octets = head + payload
            self.assertEqual(message.pack(), octets)
            self.assertEqual(Decoder().push(octets), [message])

    def test_a_stream_may_be_cut_anywhere(self):
        messages = [Message(30, 1, 0, b"x" * 14), Message.of(12, {"name": "b"})]
        stream = b"".join(message.pack() for message in messages)
        for at in range(len(stream)):
            decoder = Decoder()
            self.assertEqual(decoder.push(stream[:at]) + decoder.push(stream[at:]), messages)

    def test_what_is_no_message_is_refused(self):
        for octets in [b"\xff\xff\xff\xff", b"\0\0\0\x0b", b"\0\0\0\x0c\0\x02" + bytes(10)]:
            with self.assertRaises(ProtocolError):
                Decoder().push(octets)
        with self.assertRaises(ValueError):
            Message(30, 1, 0, bytes(protocol.MAX_PAYLOAD + 1)).pack()
        for payload in [b"[]", b"{", b"\xff"]:
            with self.assertRaises(ProtocolError):
                Message(2, payload=payload).body()


class Packets(unittest.TestCase):
    def test_arp_has_the_octets_of_rfc_826(self):
        request = ARP.request("02:53:59:00:00:01", "10.0.0.1", "10.0.0.2")
        octets = bytes.fromhex("0001080006040001 025359000001 0a000001 000000000000 0a000002")
        self.assertEqual(request.build(), octets)
        self.assertEqual(ARP.parse(octets + bytes(18)), request)
        reply = request.reply("02:53:59:00:00:02").build()
        expected = "0001080006040002 025359000002 0a000002 025359000001 0a000001"
        self.assertEqual(reply, bytes.fromhex(expected))

    def test_udp_over_ipv4_has_lengths_and_checksums(self):
        udp = UDP(1, 7, b"hi").build("10.0.0.1", "10.0.0.2")
        packet = IPv4("10.0.0.1", "10.0.0.2", 17, udp).build()
        frame = Eth(BROADCAST, "02:53:59:00:00:01", 0x0800, packet).build()
        expected = (
            "ffffffffffff 025359000001 0800"
            "4500001e 00000000 401166cd 0a000001 0a000002 00010007 000a8366 6869"
        )
        self.assertEqual(frame, bytes.fromhex(expected))
        parsed = IPv4.parse(Eth.parse(frame).payload + b"padding")
        self.assertEqual(UDP.parse(parsed.payload), UDP(1, 7, b"hi"))

    def test_what_is_cut_or_wrong_is_refused(self):
        udp = UDP(1, 7, b"hi").build("10.0.0.1", "10.0.0.2")
        packet = IPv4("10.0.0.1", "10.0.0.2", 17, udp).build()
        for at in range(len(packet)):
            with self.assertRaises(ValueError):
                IPv4.parse(packet[:at])
        for at, octet in [(0, 0x65), (0, 0x44), (0, 0x4F), (6, 0x20), (7, 1)]:
            wrong = bytearray(packet)
            wrong[at] = octet
            with self.assertRaises(ValueError):
                IPv4.parse(bytes(wrong))
        for parse, octets in [
            (Eth.parse, bytes(13)),
            (ARP.parse, bytes(28)),
            (UDP.parse, bytes(8)),
            (UDP.parse, b"\0\1\0\7\0\x0b\0\0hi"),
        ]:
            with self.assertRaises(ValueError):
                parse(octets)
        for mac in ["", "02:53:59:00:00", "2:53:59:00:00:01", "02:53:59:00:00:0g"]:
            with self.assertRaises(ValueError):
                Eth(mac, BROADCAST, 0, b"").build()


class Package(unittest.TestCase):
    # seed H.4.3, H.4.34
    def test_it_needs_nothing_but_the_standard_library_of_python_3_10(self):
        self.assertGreater(len(SOURCES), 4)
        for source in SOURCES:
            # Refuses what later versions added to the language.
            tree = ast.parse(source.read_text(), feature_version=(3, 10))
            for node in ast.walk(tree):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module]
                for name in names:
                    top = name.split(".")[0]
                    self.assertTrue(
                        top == "mvirt_yard" or top in sys.stdlib_module_names, f"{source}: {name}"
                    )

    # seed H.4.34
    def test_it_can_be_imported_where_only_windows_modules_are(self):
        unix = "fcntl termios pwd grp resource tty pty syslog".split()
        script = (
            "import sys\n"
            f"sys.modules.update(dict.fromkeys({unix!r}))\n"
            f"sys.path.insert(0, {str(ROOT)!r})\n"
            "import mvirt_yard\n"
            "assert mvirt_yard.Client().port == 9999\n"
        )
        subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True)


if __name__ == "__main__":
    unittest.main()
