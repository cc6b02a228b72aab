// Who has leased which address, and when: vNICs' guests, and hosts behind ports.

import { all, get } from "./ask.js";
import { h } from "./dom.js";
import { ago } from "./format.js";
import { state } from "./state.js";
import { Table } from "./table.js";

/** Seconds between two looks at leases of hosts behind ports: those make no events. */
const HOSTS = 5;
/** And at those of vNICs without an event, which renewals do not make. */
const NICS = 30;

export function leasesPage(main) {
  const table = new Table("Leases", [
    { title: "Name", class: "wide", value: ({ name }) => name, sort: 1 },
    { title: "Network", value: (it) => it.network },
    { title: "IPv4", class: "mono", value: (it) => it.ipv4 },
    { title: "Leased", value: (it) => it.at4, cell: (it) => seen(it.at4) },
    { title: "IPv6", class: "mono", value: (it) => it.ipv6 },
    { title: "Leased", value: (it) => it.at6, cell: (it) => seen(it.at6) },
    { title: "Calls itself", value: (it) => it.hostname },
    { title: "Client", value: (it) => it.client },
  ], { nothing: "Nobody has asked for an address yet." });
  table.element.classList.add("tall");
  main.append(h("h1", {}, "Leases"), h("section", { class: "card" }, table.element));
  let [nics, hosts] = [[], []];
  let [looks, isLooking, heard] = [0, false, ""];
  const look = async () => {
    if (isLooking || state.connection !== "live") return;
    isLooking = true;
    try {
      // What was heard of last comes again, alone where nothing is new.
      const { events } = await get("events", { kind: "lease", since: heard, last: 1 });
      const last = events[0]?.time ?? "";
      if (last !== heard || looks % NICS === 0) nics = await ofNics();
      if (looks % HOSTS === 0) hosts = await ofHosts();
      heard = last;
      looks += 1;
      table.update([...nics.filter(({ id }) => state.members.has(id)), ...hosts]);
    } catch {
      // The connection says why.
    }
    isLooking = false;
  };
  look();
  return {
    connection: look,
    tick: look,
    close: () => table.close(),
  };
}

function seen(time) {
  return time ? ago(time) : ["quiet", "–"];
}

async function ofNics() {
  const nics = await all("nics");
  const asked = nics.filter(({ guest }) => guest?.ipv4_lease_at || guest?.ipv6_lease_at || guest?.hostname);
  return asked.map(({ id, name, network_name, ipv4_address, ipv6_address, guest }) => lease({
    id, name, network: network_name, ipv4: ipv4_address, ipv6: ipv6_address,
    at4: guest.ipv4_lease_at, at6: guest.ipv6_lease_at,
    hostname: guest.hostname, client: guest.vendor_class,
    href: `#/nic/${encodeURIComponent(name)}`,
  }));
}

async function ofHosts() {
  const switched = [...state.networks.values()].filter(({ l2_in_force }) => l2_in_force?.dhcp_pool);
  const found = [];
  for (const { name } of switched) {
    const { macs } = await get(`networks/${encodeURIComponent(name)}/macs`);
    for (const mac of macs.filter(({ lease_seconds }) => lease_seconds)) {
      const until = `${Math.ceil(mac.lease_seconds / 60)} min left`;
      found.push(lease({
        name: mac.mac, network: name, ipv4: mac.ipv4_address, ipv6: mac.ipv6_address, at4: "", at6: "",
        hostname: mac.hostname, client: [mac.vendor_class, until].filter(Boolean).join(", "),
        href: `#/port/${encodeURIComponent(mac.port)}`,
      }));
    }
  }
  return found;
}

function lease(row) {
  return { ...row, text: Object.values(row).join(" ").toLowerCase() };
}
