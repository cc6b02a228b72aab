// Networks as boxes, and in each what is attached to it: a dot a vNIC, a square a port, coloured by
// its state, on a line as wide as it carries.

import { h, s, say, set } from "./dom.js";
import { bits, count, counted } from "./format.js";
import { byNetwork, state } from "./state.js";

/** Members of a network up to which each has its name beside it. */
const NAMED = 24;
/** Of all networks together: more dots than that nobody tells apart. */
const DOTS = 2000;
const BOXES = 60;
const PAD = 14;
const HEAD = 34;
const GAP = 14;
const LARGE = { width: 106, height: 62, line: 20, dot: 7 };
const SMALL = { width: 19, height: 25, line: 9, dot: 4.5 };

const clamp = (value, least, most) => Math.max(least, Math.min(most, value));

/** How wide a line is: a step of ten is as much wider wherever it is. */
function breadth(rate, size) {
  if (rate < 1) return 1;
  return clamp(0.5 + Math.log10(rate) * 0.62, 1.2, 7) * (size === LARGE ? 1 : 0.55);
}

/** Of all networks, or of one. */
export class Topology {
  constructor(network = "") {
    this.network = network;
    this.svg = s("svg", { role: "group", "aria-label": "Topology" });
    this.more = h("p", { class: "note" });
    this.element = h("div", { class: "topology" }, this.svg, this.more);
    this.built = "";
    this.dots = [];
    this.resized = new ResizeObserver(() => this.objects());
    this.resized.observe(this.element);
  }

  close() {
    this.resized.disconnect();
  }

  /** Lays everything out anew, if something is there or gone. */
  objects() {
    const width = this.element.clientWidth;
    if (!width) return;
    const groups = this.groups();
    const parts = groups.map(({ network, found }) => [network.name, found.map(({ id }) => id)]);
    const built = JSON.stringify([width, parts]);
    if (built !== this.built) {
      this.built = built;
      this.build(width, groups);
    }
    this.tick();
  }

  groups() {
    const by = byNetwork();
    const named = (a, b) => a.name.localeCompare(b.name, "en", { numeric: true });
    const all = [...state.networks.values()].filter(({ name }) => !this.network || name === this.network);
    const groups = all.map((network) => ({
      network, found: (by.get(network.name) ?? []).sort(named),
    }));
    // The largest first: small ones fill what is left of a line.
    return groups.sort((a, b) => b.found.length - a.found.length || named(a.network, b.network));
  }

  build(width, groups) {
    this.dots = [];
    this.svg.replaceChildren();
    let [x, y, tall, left] = [0, 0, 0, DOTS];
    for (const { network, found } of groups.slice(0, BOXES)) {
      const shown = found.slice(0, left);
      left -= shown.length;
      const size = found.length <= NAMED ? LARGE : SMALL;
      const room = Math.floor((width - 3 * PAD) / size.width);
      const wanted = size === LARGE
        ? Math.ceil(shown.length / Math.max(1, Math.ceil(shown.length / 6)))
        : Math.ceil(Math.sqrt(shown.length * 3.4));
      const columns = clamp(wanted, 1, Math.max(1, room));
      const rows = Math.max(1, Math.ceil(shown.length / columns));
      const wide = Math.min(width, Math.max(230, columns * size.width + 3 * PAD));
      const high = HEAD + rows * size.height + PAD + (shown.length < found.length ? 18 : 0);
      if (x && x + wide > width) [x, y, tall] = [0, y + tall + GAP, 0];
      this.svg.append(this.box({ network, found, shown, size, columns, rows, x, y, wide, high }));
      x += wide + GAP;
      tall = Math.max(tall, high);
    }
    set(this.svg, "width", width);
    set(this.svg, "height", Math.max(1, y + tall));
    const hidden = groups.length - BOXES;
    this.more.hidden = hidden <= 0;
    say(this.more, hidden > 0 ? `and ${counted(hidden, "network")} more` : "");
  }

  box({ network, found, shown, size, columns, rows, x, y, wide, high }) {
    const group = s("g", { class: "box", transform: `translate(${x} ${y})` },
      s("rect", { width: wide, height: high, rx: 10 }),
      s("a", { href: `#/network/${encodeURIComponent(network.name)}` },
        s("text", { x: PAD, y: 22, class: "name" }, cut(network.name, Math.floor(wide / 11)))),
      s("text", { x: wide - PAD, y: 22, class: "many", "text-anchor": "end" }, count(found.length)));
    if (!shown.length) {
      group.append(s("text", { x: PAD, y: HEAD + 24, class: "many" }, "nothing attached"));
      return group;
    }
    const start = 2 * PAD;
    const rail = (row) => HEAD + 6 + row * size.height;
    // What joins the rows, and each row's rail.
    const lines = [`M${PAD} ${rail(0)}V${rail(rows - 1)}`];
    for (let row = 0; row < rows; row += 1) {
      const many = Math.min(columns, shown.length - row * columns);
      lines.push(`M${PAD} ${rail(row)}H${start + (many - 0.5) * size.width}`);
    }
    group.append(s("path", { class: "rail", d: lines.join("") }));
    shown.forEach((member, at) => {
      const column = at % columns;
      const top = rail(Math.floor(at / columns));
      group.append(this.dot(member, size, start + (column + 0.5) * size.width, top));
    });
    if (shown.length < found.length) {
      const more = `and ${count(found.length - shown.length)} more`;
      group.append(s("text", { x: PAD, y: high - 8, class: "many" }, more));
    }
    return group;
  }

  dot(member, size, x, top) {
    const centre = top + size.line + size.dot;
    const line = s("line", { x1: x, y1: top, x2: x, y2: top + size.line });
    const r = size.dot;
    const mark = member.kind === "nic"
      ? s("circle", { cx: x, cy: centre, r })
      : s("rect", { x: x - r, y: centre - r, width: 2 * r, height: 2 * r, rx: 2 });
    const title = s("title");
    // Many are not walked through one by one: the list beside is for the keyboard.
    const link = s("a", { href: member.href, tabindex: size === LARGE ? "0" : "-1" }, title, line, mark);
    if (size === LARGE) {
      link.append(s("text", { x, y: centre + r + 14, "text-anchor": "middle" }, cut(member.name, 15)));
    }
    this.dots.push({ member, size, line, link, title });
    return link;
  }

  tick() {
    for (const { member, size, line, link, title } of this.dots) {
      const { from, to } = member.rate;
      set(link, "class", `dot ${member.state}${from + to > 0 ? " busy" : ""}`);
      const wide = breadth(from + to, size).toFixed(1);
      if (line.style.getPropertyValue("stroke-width") !== wide) {
        line.style.setProperty("stroke-width", wide);
      }
      say(title, `${member.name}: ${member.state}, from ${bits(from)}, to ${bits(to)}`);
    }
  }
}

function cut(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** What the colours and shapes mean. */
export function legend() {
  const entry = (kind, text) => h("span", { class: `state ${kind}` }, text);
  return h("p", { class: "keys" },
    entry("active", "active, up"), entry("created", "created, down, listening"),
    entry("blocked", "blocked"), entry("error", "error"),
    h("span", {}, "● vNIC  ■ port"), h("span", {}, "line: what it carries"));
}
