// The first page: what there is and what it does, on one screen.

import { get } from "./ask.js";
import { card, h, say, set } from "./dom.js";
import { bits, count, counted, frames, packets, percent, word } from "./format.js";
import { Plot } from "./plot.js";
import { members, state } from "./state.js";
import { Table } from "./table.js";
import { legend, Topology } from "./topology.js";
import { memberColumns } from "./network.js";

/** vNICs and ports of the list of the busiest. */
const BUSIEST = 8;

export function overviewPage(main) {
  const tiles = {};
  const tile = (name, title, href = null) => {
    tiles[name] = { value: h("b", { id: `tile-${name}` }, "–"), note: h("small") };
    return h(href ? "a" : "div", { class: `tile ${name}`, href },
      h("span", {}, title), tiles[name].value, tiles[name].note);
  };
  const show = (name, value, note = "") => {
    say(tiles[name].value, value);
    say(tiles[name].note, note);
  };
  const plot = new Plot("Rates of all vNICs and ports within two minutes", "guests", () => ({
    times: state.times, history: state.history,
  }));
  const topology = new Topology();
  // As they come: the busiest first.
  const columns = memberColumns().filter(({ title }) => title !== "Address")
    .map((column) => ({ ...column, sort: undefined }));
  const busiest = new Table("Busiest", columns, {
    filter: false, nothing: "Nobody carries anything just now.",
  });
  busiest.element.classList.add("short");
  main.append(
    h("h1", {}, "Overview"),
    h("div", { class: "tiles" },
      tile("networks", "Networks", "#/networks"), tile("nics", "vNICs and ports", "#/members"),
      tile("from", "From guests"), tile("to", "To guests"), tile("drops", "Dropped", "#/members"),
      tile("load", "Reactors", "#/reactors"), tile("egress", "Way out")),
    h("div", { class: "columns" },
      card("Carried", plot.element), card("Busiest", busiest.element)),
    card("Topology", legend(), topology.element));

  const objects = () => {
    const all = members();
    const nics = all.filter(({ kind }) => kind === "nic");
    const active = nics.filter((member) => member.state === "active").length;
    const bad = all.filter((member) => ["error", "blocked"].includes(member.state)).length;
    const ports = all.length - nics.length;
    const notes = [`${count(active)} active`, counted(ports, "port")];
    if (bad) notes.push(`${count(bad)} in trouble`);
    show("networks", count(state.networks.size));
    show("nics", count(nics.length), notes.join(", "));
    set(tiles.nics.note, "class", bad ? "bad" : "");
    topology.objects();
    rank();
  };
  const rank = () => {
    const weight = ({ rate }) => rate.from + rate.to + rate.drops;
    const busy = members().filter((member) => weight(member) > 0);
    busiest.update(busy.sort((a, b) => weight(b) - weight(a)).slice(0, BUSIEST));
  };
  const tick = () => {
    const { from, to, framesFrom, framesTo, drops } = state.total;
    show("from", bits(from), frames(framesFrom));
    show("to", bits(to), frames(framesTo));
    show("drops", packets(drops), "frames, for all reasons");
    set(tiles.drops.value, "class", drops >= 1 ? "bad" : "");
    plot.tick();
    topology.tick();
    rank();
  };
  const host = () => {
    const busiest = Math.max(0, ...state.loads.map(({ busy }) => busy));
    const many = counted(state.host.reactors.length, "thread");
    show("load", state.loads.length ? percent(busiest) : "–", `busiest of ${many}`);
  };
  get("egress").then(
    ({ mode, device, error }) => {
      const how = { off: "none", tun: "TUN", user: "sockets" };
      show("egress", how[word(mode, "EGRESS_MODE_")] ?? "–", error || device);
      set(tiles.egress.note, "class", error ? "bad" : "");
    },
    () => show("egress", "–"));
  objects();
  tick();
  host();
  return {
    objects, tick, host,
    close: () => [plot, topology, busiest].forEach((part) => part.close()),
  };
}
