// One vNIC, or one port: what it is, what its guest does, what it carries and what is dropped.

import { get } from "./ask.js";
import { captureButton } from "./capture.js";
import { card, empty, facts, h, say, stateOf } from "./dom.js";
import { Events } from "./events.js";
import { bits, count, duration, octets, packets, when, word } from "./format.js";
import { labels } from "./network.js";
import { Plot } from "./plot.js";
import { find, SECONDS, state } from "./state.js";

/** Seconds between two looks at what its guest does. */
const LOOK = 3;
/** Events that are shown. */
const LAST = 10;
const QUIET = Object.fromEntries(
  ["from", "to", "drops"].map((name) => [name, new Array(SECONDS).fill(0)]));

let meanings = null;

/** What reasons for a drop mean; asked once. */
function meaningOf(reason) {
  meanings ??= get("drop_reasons").then(
    ({ drop_reasons }) => new Map(drop_reasons.map(({ name, meaning }) => [name, meaning])),
    () => {
      meanings = null;
      return new Map();
    });
  return meanings.then((known) => known.get(reason) ?? "");
}

export function memberPage(main, kind, name) {
  const about = h("div");
  const guest = h("div");
  const drops = h("div");
  const link = h("div");
  const totals = h("div");
  const badge = h("span");
  let of = null;
  let looks = 0;
  let isLooking = false;
  const plot = new Plot(`Rates of ${name} within two minutes`, kind === "nic" ? "guest" : "it", () => ({
    times: state.times, history: find(kind, name)?.history ?? QUIET,
  }));
  const events = new Events(`Last events of ${name}`, { most: LAST, filter: false });
  events.element.classList.add("short");
  const explain = h("a", {
    class: "button", href: `#/explain/${encodeURIComponent(name)}`,
  }, "Explain a packet");
  main.append(
    h("div", { class: "title" }, h("h1", {}, name), badge,
      h("div", { class: "actions" }, explain, captureButton({ target: name }))),
    card("Carried", plot.element),
    h("div", { class: "columns" }, h("div", {}, about, totals), h("div", {}, drops, guest, link)),
    card("Last events", events.element));

  const objects = () => {
    const member = find(kind, name);
    if (!member) {
      const gone = `There is no such ${kind === "nic" ? "vNIC" : "port"}, or not any more.`;
      badge.replaceChildren();
      about.replaceChildren(card("Identity", empty(gone)));
      return;
    }
    badge.replaceChildren(stateOf(member));
    about.replaceChildren(card("Identity", facts(
      kind === "nic" ? nicFacts(member.object) : portFacts(member.object))));
    if (of !== member.id) {
      of = member.id;
      looks = 0;
      look();
      events.of({ object: of });
    }
    plot.tick();
  };
  const look = async () => {
    if (isLooking) return;
    isLooking = true;
    const isWhole = looks % LOOK === 0;
    looks += 1;
    const path = `${kind}s/${encodeURIComponent(name)}`;
    const asked = [get(`${path}/stats`), isWhole && kind === "nic" ? get(path) : null];
    const found = await Promise.all(asked).catch(() => null);
    isLooking = false;
    if (!found) return;
    const [stats, object] = found;
    showDrops(drops, stats.drops, find(kind, name)?.drops);
    showTotals(totals, stats);
    // What is made anew each second nobody can mark and copy.
    if (!isWhole) return;
    if (kind === "nic") guest.replaceChildren(card("Guest", facts(guestFacts(object))));
    else guest.replaceChildren(card("Connections", connections(find(kind, name)?.object ?? {})));
    link.replaceChildren(card("Line", facts([
      ["Features", list(stats.features)],
      ["Rings", list(stats.ring_sizes)],
      ["Last error", stats.last_error && h("span", { class: "bad" }, stats.last_error)],
      ["At", when(stats.last_error_at)],
      ["Longest stall", stats.longest_stall_ns && duration(stats.longest_stall_ns)],
    ])));
  };
  const tick = () => {
    // Also of one that is gone.
    events.look();
    if (!find(kind, name)) return;
    plot.tick();
    look();
  };
  objects();
  return { objects, tick, close: () => [plot, events].forEach((part) => part.close()) };
}

function list(values) {
  return (values ?? []).join(", ");
}

function limit(rate) {
  if (!rate) return "";
  const parts = [];
  if (rate.bits_per_second) parts.push(bits(rate.bits_per_second));
  if (rate.packets_per_second) parts.push(packets(rate.packets_per_second));
  return parts.join(", ");
}

function common(it) {
  return [
    ["Bad line from it", it.impairments?.from], ["Bad line to it", it.impairments?.to],
    ["Description", it.description], ["Labels", labels(it.labels)],
    ["Made", when(it.created_at)], ["Changed", when(it.updated_at)], ["Id", it.id],
  ];
}

function networkOf(it) {
  if (!it.network_name) return it.network_id;
  return h("a", { href: `#/network/${encodeURIComponent(it.network_name)}` }, it.network_name);
}

function nicFacts(nic) {
  return [
    ["Network", networkOf(nic)],
    ["Trouble", nic.error && h("span", { class: "bad" }, nic.error)],
    ["MAC", nic.mac_address], ["IPv4", nic.ipv4_address], ["IPv6", nic.ipv6_address],
    ["Chosen by its guest", nic.slaac_prefix],
    ["Routed", list([...nic.routed_ipv4_prefixes ?? [], ...nic.routed_ipv6_prefixes ?? []])],
    ["MTU", nic.mtu && `${nic.mtu} octets`],
    ["Transport", word(nic.transport, "TRANSPORT_")],
    ["Socket", nic.socket_path], ["Interface", nic.tap_interface], ["Datagrams", nic.datagrams],
    ["Queue pairs", nic.queue_pairs],
    ["Port security", word(nic.port_security, "PORT_SECURITY_")],
    ["Limit from guest", limit(nic.limit_from_guest_in_force)],
    ["Limit to guest", limit(nic.limit_to_guest_in_force)],
    ...common(nic),
  ];
}

function portFacts(port) {
  return [
    ["Network", networkOf(port)],
    ["Trouble", port.error && h("span", { class: "bad" }, port.error)],
    ["Locator", port.locator],
    ["VLANs", list((port.vlans ?? []).map(({ vid, network_name }) => `${vid}=${network_name}`))],
    ["Role", word(port.role, "PORT_ROLE_")],
    ["MACs at most", port.mac_limit && count(port.mac_limit)],
    ["Protected", port.protected ? "yes" : ""],
    ["Limit from it", limit(port.limit_from)], ["Limit to it", limit(port.limit_to)],
    ["Refused clients", port.refused_clients && count(port.refused_clients)],
    ...common(port),
  ];
}

function guestFacts(nic) {
  const guest = nic.guest ?? {};
  const never = h("span", { class: "quiet" }, "not yet");
  const at = (time) => when(time) || never.cloneNode(true);
  return [
    ["Calls itself", guest.hostname], ["Its DHCP client", guest.vendor_class],
    ["IPv4 lease", at(guest.ipv4_lease_at)], ["IPv6 lease", at(guest.ipv6_lease_at)],
    ["Asked by ARP", at(guest.ipv4_neighbour_at)], ["Asked by NDP", at(guest.ipv6_neighbour_at)],
    ["Solicited a router", at(guest.router_at)],
    ["Metadata", nic.metadata?.served ? `${octets(nic.metadata.user_data_octets)} of user data` : ""],
  ];
}

function connections(port) {
  const all = port.attachments ?? [];
  if (!all.length) return empty("Nobody is connected to it by a connection of their own.");
  return h("ul", {}, all.map((it) => h("li", { class: "mono" }, it.remote)));
}

/** What was dropped by reason, the most frequent first, and what each means; and what just now. */
function showDrops(place, all, now) {
  const reasons = all.map(({ reason, frames }) => [reason, frames]).sort((a, b) => b[1] - a[1]);
  const key = reasons.map(([reason]) => reason).join(" ");
  if (place.dataset.reasons !== key || !place.firstChild) {
    place.dataset.reasons = key;
    place.replaceChildren(card("Drops", reasons.length
      ? h("table", { class: "drops" },
        h("thead", {}, h("tr", {},
          h("th", { scope: "col" }, "Reason"), h("th", { scope: "col", class: "number" }, "Frames"),
          h("th", { scope: "col", class: "number" }, "Now"))),
        h("tbody", {}, reasons.map(([reason]) => {
          const meaning = h("small");
          meaningOf(reason).then((text) => say(meaning, text));
          return h("tr", {}, h("td", {}, h("code", {}, reason), meaning),
            h("td", { class: "number" }), h("td", { class: "number" }));
        })))
      : empty("Nothing was dropped.")));
  }
  const lines = place.querySelectorAll("tbody tr");
  reasons.forEach(([reason, frames], at) => {
    const rate = now?.get(reason) ?? 0;
    say(lines[at].children[1], count(frames));
    say(lines[at].children[2], rate ? packets(rate) : "0");
    lines[at].children[2].className = rate ? "number bad" : "number quiet";
  });
}

const TOTALS = [
  ["Frames from guest", (it) => count(it.ingress_frames)],
  ["Octets from guest", (it) => octets(it.ingress_octets)],
  ["Frames to guest", (it) => count(it.egress_frames)],
  ["Octets to guest", (it) => octets(it.egress_octets)],
  ["Forwarded", (it) => count(it.ingress_forwarded)],
  ["Answered", (it) => count(it.ingress_answered)],
  ["Guest woke us", (it) => count(it.kicks)],
  ["We woke guest", (it) => count(it.calls)],
  ["Connections", (it) => count(it.connections)],
];

function showTotals(place, stats) {
  if (!place.firstChild) {
    place.replaceChildren(card("Since the daemon started", facts(
      TOTALS.map(([title]) => [title, " "]))));
  }
  const values = place.querySelectorAll("dd");
  TOTALS.forEach(([, format], at) => say(values[at], format(stats)));
  const answers = stats.answers.map(({ kind, frames }) => `${kind} ${count(frames)}`);
  if (answers.length) values[5].title = answers.join(", ");
}
