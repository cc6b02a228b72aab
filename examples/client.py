#!/usr/bin/env python3
"""A program that uses the API of mvirt-net: it makes a network and a vNIC, waits for an event, reads statistics, is refused, and deletes
what it has made. The daemon is where MVIRT_NET_SERVER says, or where its service listens.

It needs the wheel of `make clients`. client.rs and client.sh do the same.
"""

from mvirt_net import Client, Refused, net


def main() -> None:
    with Client() as client:
        wanted = net.CreateNetworkRequest(name="example", ipv4_subnet="10.9.0.0/24")
        network = client.create_network(wanted)
        print(f"network {network.name}: {network.ipv4_subnet}")

        # What there is comes first, an event each, and then each change.
        with client.watch_nics(net.WatchNicsRequest(network_id=network.id)) as events:
            nic = client.create_nic(net.CreateNicRequest(network_id=network.id, name="example-vm"))
            print(f"vNIC {nic.name}: {nic.ipv4_address}")
            # An event without a vNIC says that it is gone.
            seen = next(event.nic for event in events if event.HasField("nic") and event.nic.id == nic.id)
            state = net.NicState.Name(seen.state).removeprefix("NIC_STATE_").lower()
            print(f"event: {seen.name} is {state}")

        stats = client.get_nic_stats(net.GetNicStatsRequest(id=nic.id))
        print(f"statistics: {stats.ingress_frames} frames from its guest")

        # Programs go by the reason; the message is for people.
        try:
            client.create_network(wanted)
        except Refused as refused:
            print(f"refused: {refused.reason.value} {refused.field}")

        client.delete_network(net.DeleteNetworkRequest(id=network.id, force=True))
        print("deleted")


main()
