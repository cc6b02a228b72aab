"""The client on the fabric that SWITCHYARD_SERVER names, which may be any."""

import asyncio
import os
import unittest

from mvirt_yard import BROADCAST, Client, Closed, Endpoint, Eth, Refused

HOST, _, PORT = os.environ["SWITCHYARD_SERVER"].rpartition(":")
#: Longer than anything here takes.
PATIENCE = 20


def client(name="test"):
    return Client(HOST, int(PORT), name)


async def heard(client, count):
    """The next frames."""

    async def take():
        frames = []
        async for frame in client.frames():
            frames.append(frame.octets)
            if len(frames) == count:
                return frames

    return await asyncio.wait_for(take(), PATIENCE)


class Fabric(unittest.IsolatedAsyncioTestCase):
    async def test_endpoints_are_made_found_and_refused(self):
        async with client() as a, client() as b:
            made = await a.create_endpoint("made")
            self.assertEqual(await b.lookup("made"), made)
            self.assertRegex(made.mac, "^02:53:59:00:00:..$")
            own = await a.create_endpoint("own", "52:54:00:12:34:56")
            self.assertEqual(own, Endpoint(own.id, "own", "52:54:00:12:34:56"))
            for asked, said in [
                (a.create_endpoint("made"), "endpoint name already exists: made"),
                (b.lookup("nobody"), "no such endpoint: nobody"),
                (b.subscribe(4711), "subscribe: unknown endpoint_id 4711"),
            ]:
                with self.assertRaisesRegex(Refused, said):
                    await asked

    async def test_frames_come_to_who_subscribes(self):
        async with client() as a, client() as b:
            sender = await a.create_endpoint("sender")
            receiver = await b.create_endpoint("receiver")
            await b.subscribe(receiver)
            payloads = [(BROADCAST, b"all"), (receiver.mac, b"one"), (BROADCAST, bytes(9000))]
            sent = [Eth(mac, sender.mac, 0xBEEF, octets).build() for mac, octets in payloads]
            for frame in sent:
                await a.send(sender, frame)
            self.assertEqual(await heard(b, 3), sent)
            # An error that answers no request is not taken for an answer.
            await a.send(sender, b"short")
            self.assertEqual(await a.lookup("receiver"), receiver)
            self.assertIn("bad ethernet frame", a.not_carried[0])

    # seed H.4.46
    async def test_a_hundred_may_ask_while_ten_thousand_frames_come(self):
        async with client() as a, client() as b:
            sender, receiver = await a.create_endpoint("busy"), await b.create_endpoint("asker")
            await b.subscribe(receiver)
            frame = Eth(receiver.mac, sender.mac, 0xBEEF, bytes(50)).build()

            async def send():
                for _ in range(10_000):
                    await a.send(sender, frame)

            sending = asyncio.create_task(send())
            found = await asyncio.gather(*(b.lookup("busy") for _ in range(100)))
            self.assertEqual(found, [sender] * 100)
            await sending
            self.assertEqual(len(await heard(b, 10_000)), 10_000)

    async def test_who_stops_waiting_takes_no_other_answer(self):
        async with client() as a:
            made = await a.create_endpoint("patient")
            asking = asyncio.create_task(a.lookup("nobody"))
            await asyncio.sleep(0)
            asking.cancel()
            self.assertEqual(await a.lookup("patient"), made)

    async def test_who_is_closed_says_so(self):
        a = client()
        await a.connect()
        await a.close()
        with self.assertRaises(Closed):
            await a.lookup("nobody")
        self.assertEqual([frame async for frame in a.frames()], [])


if __name__ == "__main__":
    unittest.main()
