// Networks, one network, and the list of all vNICs and ports.

import { get } from "./ask.js";
import { captureButton } from "./capture.js";
import { card, empty, facts, h } from "./dom.js";
import { bits, count, packets, when, word } from "./format.js";
import { byNetwork, findNetwork, members, state } from "./state.js";
import { Table } from "./table.js";
import { legend, Topology } from "./topology.js";

/** Seconds between two looks at what nobody is told of. */
const LOOK = 5;

/** A column of what comes each second. */
function rate(title, value, shown) {
  return {
    title, class: "number", value, cell: (row) => {
      const now = value(row);
      return now ? [title === "Dropped" ? "bad" : "", shown(now)] : ["quiet", "0"];
    },
  };
}

/** The columns of vNICs and ports. */
export function memberColumns({ network = true } = {}) {
  const columns = [
    { title: "Name", class: "wide", value: ({ name }) => name, sort: 1 },
    { title: "State", value: (it) => it.state, cell: (it) => [`state ${it.state}`, it.state] },
    { title: "Network", value: (it) => it.network },
    { title: "Address", class: "mono", value: (it) => it.address },
    rate("From guest", (it) => it.rate.from, bits),
    rate("To guest", (it) => it.rate.to, bits),
    rate("Dropped", (it) => it.rate.drops, packets),
  ];
  return network ? columns : columns.filter(({ title }) => title !== "Network");
}

/** All vNICs and ports. */
export function membersPage(main) {
  const table = new Table("vNICs and ports", memberColumns(), {
    nothing: "There are none yet: mvirt nic create makes one.",
  });
  table.element.classList.add("tall");
  main.append(h("h1", {}, "vNICs and ports"), h("section", { class: "card" }, table.element));
  const update = () => table.update(members());
  update();
  return { objects: update, tick: update, close: () => table.close() };
}

/** All networks. */
export function networksPage(main) {
  const table = new Table("Networks", [
    { title: "Name", class: "wide", value: ({ name }) => name, sort: 1 },
    { title: "Kind", value: (it) => it.kind },
    { title: "IPv4", class: "mono", value: (it) => it.network.ipv4_subnet ?? "" },
    { title: "IPv6", class: "mono", value: (it) => it.network.ipv6_prefix ?? "" },
    { title: "Public", value: (it) => (it.network.is_public ? "yes" : "") },
    { title: "Members", class: "number", value: (it) => it.members },
    rate("From guests", (it) => it.from, bits),
    rate("To guests", (it) => it.to, bits),
    rate("Dropped", (it) => it.drops, packets),
  ], { nothing: "There are none yet: mvirt network create makes one." });
  table.element.classList.add("tall");
  main.append(h("h1", {}, "Networks"), h("section", { class: "card" }, table.element));
  const update = () => {
    const by = byNetwork();
    table.update([...state.networks.values()].map((network) => {
      const found = by.get(network.name) ?? [];
      const sum = (name) => found.reduce((all, member) => all + member.rate[name], 0);
      return {
        network,
        name: network.name,
        kind: word(network.kind, "NETWORK_KIND_"),
        members: found.length,
        from: sum("from"), to: sum("to"), drops: sum("drops"),
        href: `#/network/${encodeURIComponent(network.name)}`,
        text: [network.name, network.ipv4_subnet, network.ipv6_prefix].join(" ").toLowerCase(),
      };
    }));
  };
  update();
  return { objects: update, tick: update, close: () => table.close() };
}

/** One network. */
export function networkPage(main, name) {
  const said = h("div");
  const topology = new Topology(name);
  const table = new Table(`vNICs and ports of ${name}`, memberColumns({ network: false }), {
    nothing: "Nothing is attached to it.",
  });
  const macs = new Table(`MACs of ${name}`, [
    { title: "MAC", class: "mono", value: (it) => it.mac, sort: 1 },
    { title: "Behind", value: (it) => it.nic || it.port },
    { title: "Address", class: "mono", value: (it) => it.ipv4_address || it.ipv6_address },
    { title: "Host", value: (it) => it.hostname },
    { title: "Seen", class: "number", value: (it) => (it.static ? -1 : it.age_seconds),
      cell: (it) => (it.static ? ["quiet", "static"] : `${it.age_seconds} s ago`) },
  ], { nothing: "It knows none yet." });
  const macsCard = card("MACs", macs.element);
  macsCard.hidden = true;
  main.append(
    h("div", { class: "title" }, h("h1", {}, name),
      h("div", { class: "actions" }, captureButton({ network: name }))),
    said, card("Topology", legend(), topology.element), card("vNICs and ports", table.element),
    macsCard);
  const tell = () => {
    const network = findNetwork(name);
    if (!network) return said.replaceChildren(empty("There is no such network, or not any more."));
    const l2 = network.l2_in_force ?? {};
    const list = (values) => (values ?? []).join(", ");
    const told = [
      ["Kind", word(network.kind, "NETWORK_KIND_")],
      ["Trouble", network.error && h("span", { class: "bad" }, network.error)],
      ["Description", network.description],
      ["IPv4", network.ipv4_subnet], ["IPv6", network.ipv6_prefix],
      ["Gateway", network.gateway_ipv4],
      ["Public", network.is_public ? "yes" : "no"],
      ["MTU", `${network.mtu ?? 0} octets`],
      ["DNS", list(network.dns_servers) || word(network.dns_mode, "DNS_MODE_")],
      ["NTP", list(network.ntp_servers)], ["Domain", network.domain],
      ["Metadata", word(network.metadata, "TOGGLE_")],
      ["DHCP pool", l2.dhcp_pool],
      ["MACs at most", l2.mac_table_size && count(l2.mac_table_size)],
      ["Floods at most", l2.storm_pps && packets(l2.storm_pps)],
      ["Unknown unicast", word(l2.unknown_unicast, "UNKNOWN_UNICAST_")],
      ["Guests' VLANs", word(l2.guest_vlans, "GUEST_VLANS_")],
      ["Labels", labels(network.labels)],
      ["Made", when(network.created_at)], ["Changed", when(network.updated_at)],
      ["Id", network.id],
    ].filter(([, value]) => value);
    const half = Math.ceil(told.length / 2);
    return said.replaceChildren(card("Network", h("div", { class: "columns" },
      facts(told.slice(0, half)), facts(told.slice(half)))));
  };
  const look = async () => {
    if (findNetwork(name)?.kind !== "NETWORK_KIND_SWITCHED" || state.connection !== "live") return;
    const found = await get(`networks/${encodeURIComponent(name)}/macs`).catch(() => null);
    if (!found) return;
    macsCard.hidden = false;
    macs.update(found.macs.map((mac) => ({
      ...mac, name: mac.mac, text: Object.values(mac).join(" ").toLowerCase(),
      href: mac.nic ? `#/nic/${encodeURIComponent(mac.nic)}` : `#/port/${encodeURIComponent(mac.port)}`,
    })));
  };
  let ticks = 0;
  const objects = () => {
    tell();
    topology.objects();
    table.update(members(name));
    if (!ticks) look();
  };
  objects();
  return {
    objects,
    tick: () => {
      topology.tick();
      table.update(members(name));
      ticks += 1;
      if (ticks % LOOK === 0) look();
    },
    close: () => [topology, table, macs].forEach((part) => part.close()),
  };
}

/** Labels as `mvirt nic list` prints them. */
export function labels(all) {
  return Object.entries(all ?? {}).map(([key, value]) => `${key}=${value}`).join(",");
}
