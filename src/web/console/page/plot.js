// A plot of the last two minutes, by uPlot, in the colours of the page.

import { bits, packets } from "./format.js";
import { h, say } from "./dom.js";

const SERIES = [
  ["from", "from", bits],
  ["to", "to", bits],
  ["drops", "dropped", packets],
];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Plots rates from and to `whom`; `data()` returns times and a history of them. */
export class Plot {
  constructor(label, whom, data) {
    this.data = data;
    this.place = h("div", { class: "plot", role: "img", "aria-label": label });
    this.values = SERIES.map(() => h("b"));
    this.at = null;
    const key = ([name, title], at) => h("span", { class: `key ${name}` },
      name === "drops" ? title : `${title} ${whom}`, " ", this.values[at]);
    this.element = h("div", {}, this.place, h("p", { class: "keys" }, SERIES.map(key)));
    this.resized = new ResizeObserver(() => this.size());
    this.resized.observe(this.place);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.recoloured = () => this.make();
    this.scheme.addEventListener("change", this.recoloured);
    // Where it is to be is not laid out yet.
    requestAnimationFrame(() => this.make());
  }

  close() {
    this.resized.disconnect();
    this.scheme.removeEventListener("change", this.recoloured);
    this.plot?.destroy();
    this.plot = null;
  }

  make() {
    if (!this.place.isConnected) return;
    this.plot?.destroy();
    const line = (name, scale, fill) => ({
      scale, stroke: colour(`--${name}`), width: 1.6, points: { show: false },
      fill: fill ? colour(`--${name}-fill`) : undefined,
    });
    const axis = (scale, values, more = {}) => ({
      scale, stroke: colour("--muted"), font: "11px system-ui", size: 70,
      grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false },
      values: (_, splits) => splits.map((value) => (value === null ? "" : values(value))), ...more,
    });
    const upTo = (least) => (_, __, most) => [0, Math.max(least, (most ?? 0) * 1.1)];
    const time = (value) => new Date(value * 1000).toLocaleTimeString();
    // eslint-disable-next-line no-undef -- it is a script of its own, and not a module.
    this.plot = new uPlot({
      ...this.room(),
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
      scales: { bits: { range: upTo(1000) }, frames: { range: upTo(10) } },
      series: [{}, line("from", "bits", true), line("to", "bits", true), line("drops", "frames")],
      axes: [
        axis("x", time, { space: 90, size: 28 }),
        axis("bits", bits),
        axis("frames", packets, { side: 1, size: 48, grid: { show: false } }),
      ],
      hooks: { setCursor: [(plot) => this.point(plot.cursor.idx)] },
    }, this.rows(), this.place);
    this.say();
  }

  room() {
    return { width: Math.max(200, this.place.clientWidth), height: this.place.clientHeight || 200 };
  }

  size() {
    this.plot?.setSize(this.room());
  }

  rows() {
    const { times, history } = this.data();
    return [times, history.from, history.to, history.drops];
  }

  point(at) {
    this.at = at;
    this.say();
  }

  /** Says what is under the cursor, or else what is now. */
  say() {
    const { history } = this.data();
    SERIES.forEach(([name, , format], number) => {
      const value = history[name][this.at ?? history[name].length - 1];
      say(this.values[number], value === null ? "–" : format(value));
    });
  }

  tick() {
    this.plot?.setData(this.rows());
    this.say();
  }
}
